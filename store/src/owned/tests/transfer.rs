//! A copy sent to another replica while its sender goes on.

use super::*;

/// Sends everything in chunks of `budget` bytes; between chunks `meanwhile` happens to the sender.
fn transfer(
    from: &mut Replica,
    to: &mut Replica,
    budget: usize,
    mut meanwhile: impl FnMut(&mut Replica, &mut Replica),
) -> usize {
    let id = from.copy.begin_transfer().unwrap();
    let (mut after, mut chunks) = (Vec::new(), 0);
    loop {
        let chunk = from.copy.chunk(id, &after, budget).unwrap().unwrap();
        let bytes = postcard::to_stdvec(&chunk).unwrap();
        meanwhile(from, to);
        let progress = to.copy.install(&postcard::from_bytes(&bytes).unwrap()).unwrap();
        to.commit(&progress.writes, progress.step);
        chunks += 1;
        match progress.next {
            Some(next) => after = next,
            None => break,
        }
    }
    from.copy.end_transfer(id);
    chunks
}

#[test]
fn a_transfer_is_the_copy_at_its_index_while_the_sender_goes_on() {
    let mut from = Replica::new();
    for n in 0..300 {
        let id = format!("e{}", n % 20);
        from.apply(&append(&id, n / 20, Some(&format!("k{n}")), &["x"]));
    }
    from.apply(&append("long", 0, None, &[&"y".repeat(100_000)]));
    from.apply(&snapshot("e1", 15, "state"));
    let (expected, index) = (from.raw(), from.copy.position().index);
    let mut to = Replica::new();
    to.apply(&append("stale", 0, None, &["gone"]));
    let mut n = 15;
    let chunks = transfer(&mut from, &mut to, 1_000, |from, to| {
        if n > 15 {
            assert!(matches!(
                recover(&to.memory, SHARD, &name("e1"), 1),
                Err(OwnedError::Installing)
            ));
        }
        // New records before and behind the cursor, changed ones, deleted ones.
        for id in ["e1", "e19"] {
            from.apply(&append(id, n, None, &["later"]));
            from.apply(&snapshot(id, n + 1, "later"));
        }
        let _ = from.apply(&erase("e7", 15));
        from.apply(&append(&format!("new{n}"), 0, None, &["later"]));
        n += 1;
    });
    assert!(chunks > 20, "{chunks}");
    assert_eq!(to.raw(), expected);
    assert_eq!(to.copy.position().index, index);
    assert_ne!(from.raw(), expected);
}

#[test]
fn a_transfer_goes_on_after_a_restart_of_the_receiver() {
    let mut from = Replica::new();
    for n in 0..50 {
        from.apply(&append(&format!("e{n}"), 0, None, &["x"]));
    }
    let mut to = Replica::new();
    let id = from.copy.begin_transfer().unwrap();
    let first = from.copy.chunk(id, b"", 500).unwrap().unwrap();
    let progress = to.copy.install(&first).unwrap();
    to.commit(&progress.writes, progress.step);
    let second = from.copy.chunk(id, &progress.next.unwrap(), 500).unwrap().unwrap();
    let _ = to.copy.install(&second).unwrap();
    // Lost with the power; the chunk can be asked for again.
    to.memory.crash();
    let mut to = Replica::on(to.memory);
    let installing = to.copy.position().installing.clone().unwrap();
    assert_eq!(Some(&installing.last), first.last.as_ref());
    let mut after = installing.last;
    loop {
        let chunk = from.copy.chunk(id, &after, 500).unwrap().unwrap();
        let progress = to.copy.install(&chunk).unwrap();
        to.commit(&progress.writes, progress.step);
        let Some(next) = progress.next else { break };
        after = next;
    }
    assert_eq!(to.raw(), from.raw());
}

#[test]
fn chunks_out_of_order_old_or_damaged_are_refused() {
    let mut from = Replica::new();
    for n in 0..50 {
        from.apply(&append(&format!("e{n}"), 0, None, &["x"]));
    }
    let id = from.copy.begin_transfer().unwrap();
    let first = from.copy.chunk(id, b"", 500).unwrap().unwrap();
    let second = from.copy.chunk(id, first.last.as_ref().unwrap(), 500).unwrap().unwrap();
    let mut to = Replica::new();
    assert!(matches!(to.copy.install(&second), Err(InstallError::Order(from)) if from.is_empty()));
    let mut damaged = first.clone();
    let mut value = damaged.records[1].1.to_vec();
    value[3] ^= 1;
    damaged.records[1].1 = value.into();
    assert!(matches!(to.copy.install(&damaged), Err(InstallError::Malformed)));
    let mut swapped = first.clone();
    swapped.records.swap(0, 1);
    assert!(matches!(to.copy.install(&swapped), Err(InstallError::Malformed)));
    to.copy.install(&first).unwrap();
    let error = to.copy.install(&Chunk { after: vec![1], ..first.clone() }).unwrap_err();
    assert!(matches!(error, InstallError::Order(from) if Some(&from) == first.last.as_ref()));
    assert!(to.copy.apply(99, 1, b"").is_err());
    // Earlier than what was asked for, the sender has nothing kept any more.
    assert!(from.copy.chunk(id, b"", 500).unwrap().is_none());
    assert!(from.copy.chunk(id + 1, b"", 500).unwrap().is_none());
    let mut newer = Replica::new();
    for n in 0..60 {
        newer.apply(&append("a", n, None, &["x"]));
    }
    assert!(matches!(newer.copy.install(&first), Err(InstallError::Old)));
}
