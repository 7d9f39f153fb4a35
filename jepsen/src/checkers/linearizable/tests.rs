//! Histories by hand, histories that were made in an order, and a slow judge to compare with.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::checkers::list_append;
use crate::checkers::testing::history;
use crate::history::Type::{self, Fail, Info, Invoke, Ok};
use crate::random::Random;

type Line = (u64, Type, &'static str, Value);

fn judge<M: Model>(lines: &[Line], violations: &[&str]) {
    let verdict = check::<M>(&history(lines), Keys::One);
    assert_eq!(verdict.violations, violations);
    assert!(verdict.unknown.is_empty() && verdict.judged > 0);
}

#[test]
fn concurrent_writes_may_take_effect_in_any_order() {
    let mut lines = vec![
        (0, Invoke, "write", json!(1)),
        (1, Invoke, "write", json!(2)),
        (2, Invoke, "read", json!(null)),
        (0, Ok, "write", json!(1)),
        (1, Ok, "write", json!(2)),
        (2, Ok, "read", json!(1)),
        (2, Invoke, "read", json!(null)),
        (2, Ok, "read", json!(2)),
    ];
    judge::<Register>(&lines, &[]);
    lines.push((2, Invoke, "final-read", json!(null)));
    lines.push((2, Ok, "final-read", json!(1)));
    let back = "operation 9: final-read 1 (operation 8) cannot be linearized; \
                the state could be 2; pending: nothing";
    judge::<Register>(&lines, &[back]);
}

#[test]
fn a_stale_read_is_found_with_the_shortest_prefix() {
    let lines = [
        (0, Invoke, "write", json!(1)),
        (0, Ok, "write", json!(1)),
        (1, Invoke, "write", json!(3)),
        (0, Invoke, "read", json!(null)),
        (0, Ok, "read", json!(null)),
        (1, Ok, "write", json!(3)),
        (0, Invoke, "read", json!(null)),
        (0, Ok, "read", json!(7)),
    ];
    let stale = "operation 4: read null (operation 3) cannot be linearized; \
                 the state could be 1; pending: write 3 (operation 2)";
    judge::<Register>(&lines, &[stale]);
}

#[test]
fn a_lost_update_is_found() {
    let lines = [
        (0, Invoke, "cas", json!([null, 1])),
        (1, Invoke, "cas", json!([null, 2])),
        (0, Ok, "cas", json!([null, 1])),
        (1, Ok, "cas", json!([null, 2])),
    ];
    let lost = "operation 3: cas [null,2] (operation 1) cannot be linearized; \
                the state could be 1; pending: nothing";
    judge::<Register>(&lines, &[lost]);
    let counted = [
        (0, Invoke, "add", json!(1)),
        (1, Invoke, "add", json!(2)),
        (0, Ok, "add", json!(1)),
        (1, Ok, "add", json!(2)),
        (1, Invoke, "read", json!(null)),
        (1, Ok, "read", json!(2)),
    ];
    let lost = "operation 5: read 2 (operation 4) cannot be linearized; \
                the state could be 3; pending: nothing";
    judge::<Counter>(&counted, &[lost]);
}

#[test]
fn an_unknown_write_takes_effect_late_or_never_but_once() {
    let mut lines = vec![
        (0, Invoke, "write", json!(1)),
        (0, Info, "write", json!(1)),
        (1, Invoke, "write", json!(2)),
        (1, Ok, "write", json!(2)),
        (1, Invoke, "read", json!(null)),
        (1, Ok, "read", json!(2)),
    ];
    judge::<Register>(&lines, &[]);
    for shown in [1, 1] {
        lines.push((1, Invoke, "read", json!(null)));
        lines.push((1, Ok, "read", json!(shown)));
    }
    judge::<Register>(&lines, &[]);
    lines.push((1, Invoke, "read", json!(null)));
    lines.push((1, Ok, "read", json!(2)));
    let back = "operation 11: read 2 (operation 10) cannot be linearized; \
                the state could be 1; pending: write 1 (operation 0)";
    judge::<Register>(&lines, &[back]);
    // Before its invocation it cannot be seen, although nobody knows its end.
    let early = [
        (1, Invoke, "read", json!(null)),
        (1, Ok, "read", json!(1)),
        (0, Invoke, "write", json!(1)),
        (0, Info, "write", json!(1)),
    ];
    let early_read = "operation 1: read 1 (operation 0) cannot be linearized; \
                      the state could be null; pending: nothing";
    judge::<Register>(&early, &[early_read]);
}

#[test]
fn what_failed_took_no_effect() {
    let lines = [
        (0, Invoke, "write", json!(1)),
        (0, Fail, "write", json!(1)),
        (0, Invoke, "read", json!(null)),
        (0, Ok, "read", json!(1)),
    ];
    let failed = "operation 3: read 1 (operation 2) cannot be linearized; \
                  the state could be null; pending: nothing";
    judge::<Register>(&lines, &[failed]);
}

#[test]
fn a_list_is_judged_by_its_longest_read_but_blamed_without_hindsight() {
    let mut lines: Vec<Line> = Vec::new();
    // Twelve at once: their orders are not tried one by one.
    lines.extend((0..12).map(|n| (n, Invoke, "append", json!(n))));
    lines.extend((0..12).map(|n| (n, Ok, "append", json!(n))));
    lines.push((0, Invoke, "read", json!(null)));
    lines.push((0, Ok, "read", json!([3, 1, 0, 2, 4, 5, 6, 7, 8, 9, 11, 10])));
    judge::<List>(&lines, &[]);
    let disorder = [
        (0, Invoke, "append", json!(1)),
        (1, Invoke, "append", json!(2)),
        (2, Invoke, "read", json!(null)),
        (2, Ok, "read", json!([1])),
        (2, Invoke, "read", json!(null)),
        (2, Ok, "read", json!([2, 1])),
    ];
    let later = "operation 5: read [2,1] (operation 4) cannot be linearized; \
                 the state could be [1]; pending: append 1 (operation 0), append 2 (operation 1)";
    judge::<List>(&disorder, &[later]);
}

#[test]
fn keys_are_judged_alone_and_what_is_malformed_is_blamed() {
    let lines = [
        (0, Invoke, "write", json!([1, 5])),
        (0, Ok, "write", json!([1, 5])),
        (0, Invoke, "read", json!([2, null])),
        (0, Ok, "read", json!([2, null])),
        (0, Invoke, "read", json!([1, null])),
        (0, Ok, "read", json!([1, null])),
        (0, Invoke, "cas", json!([2, 5])),
        (0, Ok, "cas", json!([2, 5])),
    ];
    let stale = "operation 5: key 1: read null (operation 4) cannot be linearized; \
                 the state could be 5; pending: nothing";
    let cas = "operation 7: key 2: 5 is not [expected, new]";
    let verdict = check::<Register>(&history(&lines), Keys::Many);
    assert_eq!(verdict.violations, [stale, cas]);
}

#[test]
fn too_much_work_is_unknown_and_not_good() {
    // Distinct powers: every subset of the unknown adds is another state.
    let mut lines: Vec<Line> = Vec::new();
    for n in 0..20 {
        lines.push((n, Invoke, "add", json!(1 << n)));
        lines.push((n, Info, "add", json!(1 << n)));
    }
    lines.push((30, Invoke, "read", json!(null)));
    lines.push((30, Ok, "read", json!(-1)));
    let verdict = check_within::<Counter>(&history(&lines), Keys::One, 10_000);
    assert_eq!(verdict.unknown, ["21 operations are too much work"]);
    assert!(verdict.violations.is_empty() && !verdict.is_good());
    assert_eq!(verdict.word(), "UNKNOWN");
    assert_eq!(verdict.counted["steps"], 10_000.0);
}

/// An operation in time.
struct Span {
    from: u64,
    to: u64,
    kind: Type,
    f: &'static str,
    argument: Value,
    result: Value,
}

/// The lines of operations in time: an operation is given to the first idle process.
fn lines(spans: &[Span]) -> Vec<Line> {
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (place, span) in spans.iter().enumerate() {
        events.push((span.from, true, place));
        events.push((span.to, false, place));
    }
    events.sort_unstable();
    let (mut idle, mut next, mut lines) = (Vec::new(), 0, Vec::new());
    let mut process = vec![0; spans.len()];
    for (_, begins, place) in events {
        let span = &spans[place];
        if begins {
            process[place] = idle.pop().unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            lines.push((process[place], Invoke, span.f, span.argument.clone()));
            continue;
        }
        let value = if span.kind == Ok { span.result.clone() } else { span.argument.clone() };
        lines.push((process[place], span.kind, span.f, value));
        if span.kind != Info {
            idle.push(process[place]);
        }
    }
    lines
}

/// What one of the three entities is, in the plainest way.
#[derive(Clone, Default, PartialEq)]
struct Plain {
    value: Value,
    list: Vec<Value>,
    sum: i64,
}

impl Plain {
    /// What a call answers and does; none if it is refused.
    fn call(&mut self, f: &str, argument: &Value, list: bool) -> Option<Value> {
        match f {
            "write" => self.value = argument.clone(),
            "cas" if self.value != argument[0] => return None,
            "cas" => self.value = argument[1].clone(),
            "append" => self.list.push(argument.clone()),
            "add" => self.sum += argument.as_i64().unwrap(),
            "read-sum" => return Some(json!(self.sum)),
            _ if list => return Some(json!(self.list)),
            _ => return Some(self.value.clone()),
        }
        Some(argument.clone())
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Entity {
    Register,
    List,
    Counter,
}

/// A random call.
fn draw(random: &mut Random, entity: Entity, place: usize) -> (&'static str, Value) {
    let small = |random: &mut Random| json!(random.below(3));
    match (entity, random.below(3)) {
        (Entity::Register, 0) => ("write", small(random)),
        (Entity::Register, 1) => ("cas", json!([small(random), small(random)])),
        (Entity::List, 0 | 1) => ("append", json!(place)),
        (Entity::Counter, 0 | 1) => ("add", json!(1 + random.below(3))),
        _ => ("read", Value::Null),
    }
}

/// Operations executed one after the other, each then stretched in time: up to about `width` of
/// them overlap. Some are of unknown fate, and were then executed or not.
fn executed(random: &mut Random, entity: Entity, count: usize, width: u64) -> Vec<Span> {
    let mut plain = Plain::default();
    let (mut spans, rarity) = (Vec::new(), random.between(3, 9) as usize);
    for place in 0..count {
        let (f, argument) = draw(random, entity, place);
        let at = (place as u64 + 1) * 1_000 * width;
        let (early, late) = (random.between(1, 500 * width), random.between(1, 500 * width));
        let (from, to) = (at - early * width.min(place as u64 + 1), at + late * width);
        let unknown = random.one_in(rarity);
        let read = if entity == Entity::Counter { "read-sum" } else { "read" };
        let asked = if f == "read" { read } else { f };
        let result = match unknown && random.one_in(2) {
            true => None,
            false => plain.call(asked, &argument, entity == Entity::List),
        };
        let kind = match &result {
            _ if unknown => Info,
            None => Fail,
            Some(_) => Ok,
        };
        spans.push(Span { from, to, kind, f, argument, result: result.unwrap_or_default() });
    }
    spans
}

fn verdict(entity: Entity, lines: &[Line]) -> Verdict {
    let history = history(lines);
    match entity {
        Entity::Register => check::<Register>(&history, Keys::One),
        Entity::List => check::<List>(&history, Keys::One),
        Entity::Counter => check::<Counter>(&history, Keys::One),
    }
}

/// Tries every order and every choice of unknown operations.
fn brute(spans: &[Span], entity: Entity, taken: &mut Vec<bool>, plain: &Plain) -> bool {
    let open = |place: usize, taken: &[bool]| !taken[place] && spans[place].kind != Fail;
    let due = |place: usize| spans[place].kind == Ok && open(place, taken);
    let Some(first_end) = (0..spans.len()).filter(|p| due(*p)).map(|p| spans[p].to).min() else {
        return true;
    };
    let read = if entity == Entity::Counter { "read-sum" } else { "read" };
    for place in 0..spans.len() {
        if !open(place, taken) || spans[place].from > first_end {
            continue;
        }
        let span = &spans[place];
        let asked = if span.f == "read" { read } else { span.f };
        let mut after = plain.clone();
        let answer = after.call(asked, &span.argument, entity == Entity::List);
        let possible = match span.kind {
            Ok => answer.as_ref() == Some(&span.result),
            _ => answer.is_some(),
        };
        taken[place] = true;
        let found = possible && brute(spans, entity, taken, &after);
        taken[place] = false;
        if found {
            return true;
        }
    }
    false
}

/// Spoils an answer, if there is one to spoil.
fn spoil(random: &mut Random, spans: &mut [Span]) {
    let reads: Vec<usize> =
        (0..spans.len()).filter(|p| spans[*p].f == "read" && spans[*p].kind == Ok).collect();
    if reads.len() > 1 {
        let (one, other) = (*random.pick(&reads), *random.pick(&reads));
        spans[one].result = spans[other].result.clone();
    }
    let place = random.below(spans.len());
    if spans[place].kind == Fail && spans[place].f != "read" {
        spans[place].kind = Ok;
        spans[place].result = spans[place].argument.clone();
    }
}

fn entities() -> impl Strategy<Value = Entity> {
    prop_oneof![Just(Entity::Register), Just(Entity::List), Just(Entity::Counter)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_was_executed_in_an_order_is_accepted(seed: u64, entity in entities()) {
        let spans = executed(&mut Random::new(seed), entity, 60, 4);
        let verdict = verdict(entity, &lines(&spans));
        prop_assert!(verdict.is_good(), "{:?}", verdict);
    }

    #[test]
    fn the_slow_judge_agrees(seed: u64, entity in entities(), count in 2..7_usize) {
        let mut random = Random::new(seed);
        let mut spans = executed(&mut random, entity, count, 4);
        spoil(&mut random, &mut spans);
        let good = brute(&spans, entity, &mut vec![false; spans.len()], &Plain::default());
        let verdict = verdict(entity, &lines(&spans));
        prop_assert_eq!(verdict.violations.is_empty(), good, "{:?}", verdict);
    }

    #[test]
    fn both_judges_of_lists_agree(seed: u64, count in 2..30_usize, spoiled: bool) {
        let mut random = Random::new(seed);
        let mut spans = executed(&mut random, Entity::List, count, 3);
        if spoiled {
            spoil(&mut random, &mut spans);
        }
        let lines = lines(&spans);
        let mut other = list_append::check(&history(&lines), Keys::One);
        other.violations.retain(|violation| violation != "no final read was answered");
        let verdict = verdict(Entity::List, &lines);
        let (one, other) = (verdict.violations, other.violations);
        prop_assert_eq!(one.is_empty(), other.is_empty(), "{:?} {:?}", one, other);
    }
}

#[test]
fn the_slow_judge_meets_good_and_bad_histories() {
    let mut good = 0;
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut spans = executed(&mut random, Entity::Register, 6, 4);
        spoil(&mut random, &mut spans);
        let none = &mut vec![false; spans.len()];
        good += usize::from(brute(&spans, Entity::Register, none, &Plain::default()));
    }
    assert!((20..180).contains(&good), "{good} of 200 are good");
}

#[test]
fn ten_thousand_operations_of_fifty_keys_take_little_work() {
    let mut random = Random::new(7);
    let mut all: Vec<Line> = Vec::new();
    let mut processes = 0;
    // The keys' histories one after the other, each with about ten operations open at a time.
    for key in 0..50_u64 {
        let spans = executed(&mut random, Entity::Register, 200, 10);
        let own = lines(&spans);
        let used = own.iter().map(|(process, ..)| process + 1).max().unwrap();
        let keyed =
            |(process, kind, f, value): Line| (processes + process, kind, f, json!([key, value]));
        all.extend(own.into_iter().map(keyed));
        processes += used;
    }
    let verdict = check::<Register>(&history(&all), Keys::Many);
    assert!(verdict.is_good(), "{:?} {:?}", verdict.violations, verdict.unknown);
    assert!(verdict.counted["steps"] < WORK_MAX as f64 / 4.0, "{:?}", verdict.counted);
}
