//! Several entities: nothing is lost or made up in any; what is odd between them is counted.
//!
//! Operations: `write` with `[[entity, element], ...]`, `read` and `final-read` answered with
//! `[[entity, [element, ...]], ...]`. Entities are sets that only grow. Violations are those of
//! each set. Counted, because no promise spans entities:
//! - `causal-reverse`: a read shows w2 and not w1 of another entity that it read, though w1 was
//!   acknowledged before w2 was invoked, and before the read was;
//! - `long-fork`: of two reads, one after the other in time, one shows w1 and not w2, the other w2
//!   and not w1, of two entities that both read;
//! - `pairs of reads`: how many were compared for it.
//!
//! A read asks one entity after the other, so what a later one shows may be newer. That is why w1
//! must be older than the read, and the two reads must not overlap: otherwise one copy would do.

use std::collections::{BTreeMap, BTreeSet};

use super::keyed_set::{Read, Sets};
use super::{Verdict, answered_reads, of};
use crate::history::{History, Pair, Type};

/// Judges a history of several entities.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    let mut sets = Sets::default();
    for write in of(history, "write") {
        let adds = write.invoke.value.as_array().into_iter().flatten();
        adds.for_each(|add| sets.add(write, &add[0], &add[1]));
    }
    for (is_final, pair) in answered_reads(history) {
        let Some(shown) = pair.end.and_then(|end| end.value.as_array()) else {
            verdict.judged += 1;
            verdict.blame(&pair, "is no array".into());
            continue;
        };
        for entity in shown {
            sets.read(pair, is_final, &entity[0], &entity[1], &mut verdict);
        }
    }
    sets.judge(&mut verdict);
    let together = together(&sets);
    let reversed = together.iter().filter(|read| is_reversed(&sets, read)).count();
    let (pairs, forks) = forks(&sets, &together);
    verdict.counted = [
        ("causal-reverse".to_owned(), reversed as f64),
        ("long-fork".to_owned(), forks as f64),
        ("pairs of reads".to_owned(), pairs as f64),
    ]
    .into();
    verdict
}

/// The entities of one operation's read.
type Together<'a> = Vec<&'a Read<'a>>;

fn together<'a>(sets: &'a Sets<'a>) -> Vec<Together<'a>> {
    let mut by_operation: BTreeMap<u64, Together<'a>> = BTreeMap::new();
    for read in &sets.reads {
        by_operation.entry(read.pair.invoke.index).or_default().push(read);
    }
    by_operation.into_values().collect()
}

/// Acknowledged adds to a key that a read of it does not show.
fn absent<'a>(
    sets: &'a Sets<'a>,
    read: &'a Read<'a>,
) -> impl Iterator<Item = (&'a String, &'a Pair<'a>)> {
    let adds = sets.adds.get(&read.key).into_iter().flatten();
    let known = adds.filter(|(_, add)| add.outcome() == Type::Ok);
    known.filter(|(element, _)| !read.elements.contains(*element))
}

fn ended(pair: &Pair<'_>) -> u64 {
    pair.end.map_or(u64::MAX, |end| end.index)
}

fn is_reversed(sets: &Sets<'_>, reads: &Together<'_>) -> bool {
    let last_shown = |read: &Read<'_>| {
        let adds = sets.adds.get(&read.key)?;
        let shown = read.elements.iter().filter_map(|element| adds.get(element));
        shown.map(|add| add.invoke.index).max()
    };
    reads.iter().any(|here| {
        let others = reads.iter().filter(|other| other.key != here.key);
        let Some(latest) = others.filter_map(|other| last_shown(other)).max() else { return false };
        let limit = latest.min(here.pair.invoke.index);
        absent(sets, here).any(|(_, add)| ended(add) < limit)
    })
}

/// How many pairs of reads of the same entities do not overlap, and how many of them fork.
fn forks(sets: &Sets<'_>, reads: &[Together<'_>]) -> (usize, usize) {
    let mut alike: BTreeMap<BTreeSet<&str>, Vec<&Together<'_>>> = BTreeMap::new();
    for read in reads {
        let keys = read.iter().map(|entity| entity.key.as_str()).collect();
        alike.entry(keys).or_default().push(read);
    }
    let (mut pairs, mut found) = (0, 0);
    for group in alike.values() {
        for (place, one) in group.iter().enumerate() {
            let later = group[place + 1..].iter();
            for other in later.filter(|other| ended(&one[0].pair) < other[0].pair.invoke.index) {
                pairs += 1;
                found += usize::from(is_fork(sets, one, other));
            }
        }
    }
    (pairs, found)
}

/// Whether each of two reads shows something of one entity that the other lacks, and the other
/// something of another entity.
fn is_fork(sets: &Sets<'_>, one: &Together<'_>, other: &Together<'_>) -> bool {
    let ahead = |a: &Together<'_>, b: &Together<'_>| -> BTreeSet<String> {
        let sees_more = |mine: &&&Read<'_>| {
            let theirs = b.iter().find(|theirs| theirs.key == mine.key);
            theirs.is_some_and(|theirs| {
                let known = sets.adds.get(&mine.key);
                let real = |e: &&String| known.is_some_and(|adds| adds.contains_key(*e));
                mine.elements.difference(&theirs.elements).any(|element| real(&element))
            })
        };
        a.iter().filter(sees_more).map(|entity| entity.key.clone()).collect()
    };
    let (mine, theirs) = (ahead(one, other), ahead(other, one));
    mine.iter().any(|key| theirs.iter().any(|their| their != key))
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::checkers::Verdict;
    use crate::checkers::testing::history;
    use crate::history::Type::{self, Fail, Info, Invoke, Ok};
    use serde_json::{Value, json};

    type Line = (u64, Type, &'static str, Value);

    fn did(process: u64, f: &'static str, asked: Value, shown: Value) -> [Line; 2] {
        [(process, Invoke, f, asked), (process, Ok, f, shown)]
    }

    fn wrote(process: u64, value: Value) -> [Line; 2] {
        did(process, "write", value.clone(), value)
    }

    fn read(f: &'static str, a: Value, b: Value) -> [Line; 2] {
        did(9, f, json!([["a", null], ["b", null]]), json!([["a", a], ["b", b]]))
    }

    /// Judges a history that ends well: a holds 1, b holds 2.
    fn judge(middle: &[[Line; 2]]) -> Verdict {
        let last = read("final-read", json!([1]), json!([2]));
        check(&history(&[middle.concat(), last.to_vec()].concat()))
    }

    fn counts(verdict: &Verdict, reversed: f64, forks: f64) {
        assert_eq!(verdict.violations, Vec::<String>::new());
        let counted = (verdict.counted["causal-reverse"], verdict.counted["long-fork"]);
        assert_eq!(counted, (reversed, forks));
    }

    #[test]
    fn a_later_write_without_an_earlier_one_is_counted() {
        let writes = [wrote(0, json!([["a", 1]])), wrote(1, json!([["b", 2]]))];
        let [one, two] = writes;
        let reversed = read("read", json!([]), json!([2]));
        counts(&judge(&[one.clone(), two.clone(), reversed.clone()]), 1.0, 0.0);
        // Stale altogether, or in the order of the writes: nothing odd.
        let stale = read("read", json!([]), json!([]));
        let first = read("read", json!([1]), json!([]));
        counts(&judge(&[one.clone(), two.clone(), stale, first]), 0.0, 0.0);
        // The other way round in time.
        counts(&judge(&[two, one, reversed]), 0.0, 0.0);
    }

    #[test]
    fn a_read_that_writes_overtake_is_not_odd() {
        let [asked, shown] = read("read", json!([]), json!([2]));
        let [w1, w2] = [wrote(0, json!([["a", 1]])), wrote(1, json!([["b", 2]]))];
        let lines = [vec![asked], w1.to_vec(), w2.to_vec(), vec![shown]].concat();
        let last = read("final-read", json!([1]), json!([2])).to_vec();
        counts(&check(&history(&[lines, last].concat())), 0.0, 0.0);
    }

    #[test]
    fn reads_that_see_writes_in_opposite_orders_are_counted() {
        let begun =
            [(0, Invoke, "write", json!([["a", 1]])), (1, Invoke, "write", json!([["b", 2]]))];
        let done = [(0, Ok, "write", json!([["a", 1]])), (1, Ok, "write", json!([["b", 2]]))];
        let (one, other) =
            (read("read", json!([1]), json!([])), read("read", json!([]), json!([2])));
        counts(&judge(&[begun.clone(), one.clone(), other, done.clone()]), 0.0, 1.0);
        let same = read("read", json!([1]), json!([2]));
        counts(&judge(&[begun, one, same, done]), 0.0, 0.0);
    }

    #[test]
    fn what_is_lost_or_made_up_is_a_violation() {
        let both = wrote(0, json!([["a", 1], ["b", 2], ["b", 3]]));
        let lost = ["operation 3: 3 was acknowledged, and is lost"];
        assert_eq!(judge(&[both]).violations, lost);
        let good = wrote(0, json!([["a", 1], ["b", 2]]));
        let odd = read("read", json!([2]), json!([2, 2]));
        let found = ["operation 3: 2 was read twice", "operation 3: 2 was read, and not added"];
        assert_eq!(judge(&[good.clone(), odd]).violations, found);
        let failed =
            [(1, Invoke, "write", json!([["a", 7]])), (1, Fail, "write", json!([["a", 7]]))];
        let ghost = read("read", json!([7]), json!([]));
        let phantom = ["operation 5: 7 was read, and not added"];
        assert_eq!(judge(&[good, failed, ghost]).violations, phantom);
    }

    #[test]
    fn an_unknown_write_may_show_up_late_even_by_half() {
        let unknown = [
            (0, Invoke, "write", json!([["a", 1], ["b", 8]])),
            (0, Info, "write", json!([["a", 1], ["b", 8]])),
        ];
        let stale = read("read", json!([]), json!([]));
        counts(&judge(&[unknown, stale, wrote(1, json!([["b", 2]]))]), 0.0, 0.0);
    }
}
