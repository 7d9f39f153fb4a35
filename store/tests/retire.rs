//! Origins that were retired, while the log still has what they wrote.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;

use atoll_store::backend::memory::Memory;
use atoll_store::command::View;
use atoll_store::dot::{Hlc, Origin};
use atoll_store::name::Kind;
use atoll_store::retire::Retirement;
use common::{Node, SHARD, count, key, options};

#[test]
fn r9_a_log_is_replayed_whose_origins_were_retired() {
    let counter = key(Kind::Counters, "n");
    let mut node = Node::on(&Memory::new(), options(), 1);
    node.write(&counter, count(7));
    let mut node = node.restart(2);
    let finals = Some(BTreeMap::from([(SHARD.slot, 1)]));
    let ended = Retirement { origin: Origin(1), at: Hlc::default(), finals };
    node.engine.retire(vec![ended], |_| true);
    node.commit();
    // Its vector covers what was retired from the beginning of the replay on.
    node.checkpoint();
    node.write(&counter, count(1));
    let mut node = node.restart(3);
    assert_eq!(node.engine.vector(SHARD).covered(), 1);
    assert_eq!(node.view(&counter), Some(View::Counter(8)));
}
