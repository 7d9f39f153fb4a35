//! Unit tests of the dot store; the laws over random histories are in `store/tests/laws.rs`.

use super::*;
use crate::command::{Change, Command};
use crate::name::{EntityKey, Kind};

const DAY: Millis = RETRY_WINDOW_MS;

fn keyed(entity: &mut Entity, origin: u64, sequence: u64, at: Millis, request: u64) {
    let key = EntityKey::parse(Kind::Counters, "c", "a").expect("a name");
    let hash = Some(RequestHash { key: 7, request });
    let commands = vec![Command::Count { plus: 1, minus: 0 }];
    let change = Change { key: key.clone(), commands, hash, ttl_ms: None };
    let (dot, stamp) = (Dot { origin: Origin(origin), sequence }, Hlc::at(at));
    let effect = Draft::effect(entity, &change, dot, stamp, at, &Limits::default());
    let part = Part { key, hash, effect: effect.expect("accepted") };
    let operation = Operation { dot, stamp, parts: vec![part.clone()] };
    entity.apply(&operation, &part, &Retired::default());
}

fn count(entity: &Entity) -> Option<crate::command::View> {
    entity.view(Kind::Counters)
}

#[test]
fn r10_stamps_more_than_a_day_apart_do_not_pair() {
    let mut entity = Entity::default();
    keyed(&mut entity, 1, 1, DAY, 0);
    keyed(&mut entity, 2, 1, 2 * DAY, 0);
    assert_eq!(count(&entity), Some(crate::command::View::Counter(1)));
    keyed(&mut entity, 3, 1, 3 * DAY + 1, 0);
    assert_eq!(count(&entity), Some(crate::command::View::Counter(2)));
}

#[test]
fn r10_what_is_forgotten_keeps_its_effect() {
    let mut entity = Entity::default();
    keyed(&mut entity, 1, 1, DAY, 0);
    keyed(&mut entity, 1, 2, 3 * DAY, 1);
    let (sum, before) = (entity.sum(), entity.keys_len());
    entity.forget_retries(Hlc::at(2 * DAY));
    assert_eq!((entity.keys_len(), entity.sum()), (before - 1, sum));
    let known: Vec<u64> = entity.remembered(7, 3 * DAY).map(|hash| hash.request).collect();
    assert_eq!(known, [1]);
}

#[test]
fn an_update_that_leaves_nothing_leaves_the_entity_present() {
    let key = EntityKey::parse(Kind::Sets, "c", "a").expect("a name");
    let remove = Command::Members { add: Vec::new(), remove: vec!["1".into()] };
    let change = Change { key: key.clone(), commands: vec![remove], hash: None, ttl_ms: None };
    let (dot, stamp) = (Dot { origin: Origin(1), sequence: 1 }, Hlc::at(1));
    let mut entity = Entity::default();
    let effect = Draft::effect(&entity, &change, dot, stamp, 1, &Limits::default());
    let part = Part { key, hash: None, effect: effect.expect("accepted") };
    let operation = Operation { dot, stamp, parts: vec![part.clone()] };
    entity.apply(&operation, &part, &Retired::default());
    assert_eq!(entity.view(Kind::Sets), Some(crate::command::View::Set(Vec::new())));
}
