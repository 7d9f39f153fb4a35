//! The shopping cart: the sample in JavaScript, the one in Rust, and its page.

use super::*;
use crate::owner::behaviour::Behaviour;

#[test]
fn the_sample_is_accepted_and_is_the_one_of_the_page() {
    let accepted = check(CART, Limits::default()).unwrap();
    assert_eq!((accepted.examples, accepted.snapshot_version), (2, 1));
    assert_eq!(accepted.hash, hash(CART));
    let page = include_str!("../../../../docs/behaviours.md");
    assert!(page.contains(CART), "docs/behaviours.md shows sharding/src/behaviour/cart.js");
}

#[test]
fn both_samples_decide_alike() {
    let mut one = One::new(CART);
    let script = one.engine.find(&one.hash).unwrap();
    let mut native = Native(Cart);
    let mut state = script.initial().unwrap();
    assert_eq!(Ok(state.clone()), native.initial());
    let commands = [
        ("check-out", "{}"),
        ("add-item", "{\"article\":\"pen\"}"),
        ("add-item", "{\"article\":\"constructor\",\"quantity\":2}"),
        ("add-item", "{\"article\":\"__proto__\",\"quantity\":3}"),
        ("add-item", "{\"article\":\"pen\",\"quantity\":99}"),
        ("add-item", "{\"article\":\"pen\",\"quantity\":1}"),
        ("add-item", "{\"article\":\"\"}"),
        ("add-item", "{\"article\":\"pen\",\"quantity\":1.5}"),
        ("add-item", "{\"article\":\"pen\",\"quantity\":\"2\"}"),
        ("remove-item", "{\"article\":\"pen\"}"),
        ("remove-item", "{\"article\":\"pen\"}"),
        ("dance", "{}"),
        ("check-out", "{}"),
        ("add-item", "{\"article\":\"pen\"}"),
    ];
    let mut outcomes = (0, 0);
    for (kind, data) in commands {
        let command = Command { kind: kind.into(), data: data.into() };
        let decided = script.decide(&state, &command);
        assert_eq!(decided, native.decide(&state, &command), "{kind} {data}");
        match decided {
            Ok(decision) => {
                outcomes.0 += 1;
                for event in decision.events {
                    let next = script.evolve(&state, &event, false).unwrap();
                    assert_eq!(Ok(next.clone()), native.evolve(&state, &event, false));
                    state = next;
                }
            }
            Err(Refusal::Rejected(_)) => outcomes.1 += 1,
            Err(Refusal::Failed(failure)) => panic!("{kind} {data}: {failure}"),
        }
    }
    assert_eq!(outcomes, (6, 8));
    assert_eq!(state, "{\"checkedOut\":true,\"items\":{\"__proto__\":3,\"constructor\":2}}");
}
