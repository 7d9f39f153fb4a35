//! A bank: money moves between accounts, and none appears or vanishes.
//!
//! Operations: `read` and `final-read` with `{account: balance}`, in integers of 64 bits;
//! `transfer` is not looked at.
//! 1. The balances of every read sum to the total, whatever transfers are under way or unknown.
//! 2. No balance is below zero, unless that is allowed.
//! 3. Final reads are equal: an unknown transfer has happened everywhere or nowhere.

use serde_json::Value;

use super::{Verdict, answered_reads};
use crate::history::{History, Pair};

/// What a bank promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bank {
    /// The sum of all balances, from the first read on.
    pub total: i64,
    /// Whether balances may be below zero.
    pub overdraft: bool,
}

/// Judges a history of one bank.
pub fn check(history: &History, bank: Bank) -> Verdict {
    let mut verdict = Verdict::default();
    let mut first: Option<&Value> = None;
    for (is_final, read) in answered_reads(history) {
        verdict.judged += 1;
        let Some((shown, balances)) = balances(&read) else {
            verdict.blame(&read, "is no object of integers".into());
            continue;
        };
        let sum: i128 = balances.iter().map(|(_, balance)| i128::from(*balance)).sum();
        if sum != i128::from(bank.total) {
            verdict.blame(&read, format!("{sum} in all accounts instead of {}", bank.total));
        }
        for (account, balance) in balances.iter().filter(|(_, balance)| *balance < 0) {
            if !bank.overdraft {
                verdict.blame(&read, format!("account {account} has {balance}"));
            }
        }
        if is_final && *first.get_or_insert(shown) != shown {
            verdict.blame(&read, "differs from the first final read".into());
        }
    }
    if first.is_none() {
        verdict.violations.push("no final read was answered".into());
    }
    verdict
}

fn balances<'a>(read: &Pair<'a>) -> Option<(&'a Value, Vec<(&'a str, i64)>)> {
    let shown = &read.end?.value;
    let each = shown.as_object()?.iter();
    let balances = each.map(|(account, balance)| Some((account.as_str(), balance.as_i64()?)));
    Some((shown, balances.collect::<Option<Vec<_>>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::history;
    use crate::history::Type::{Info, Invoke, Ok};
    use serde_json::json;

    fn judge(reads: &[(&'static str, Value)], overdraft: bool, violations: &[&str]) {
        let transfer = json!({"from": "a", "to": "b", "amount": 5});
        let mut lines =
            vec![(0, Invoke, "transfer", transfer.clone()), (0, Info, "transfer", transfer)];
        for (f, shown) in reads {
            lines.push((1, Invoke, *f, json!(null)));
            lines.push((1, Ok, *f, shown.clone()));
        }
        let verdict = check(&history(&lines), Bank { total: 10, overdraft });
        assert_eq!(verdict.violations, violations);
    }

    #[test]
    fn an_unknown_transfer_happens_or_not() {
        let (before, after) = (json!({"a": 10, "b": 0}), json!({"a": 5, "b": 5}));
        judge(&[("read", before.clone()), ("final-read", after.clone())], false, &[]);
        judge(&[("read", before.clone()), ("final-read", before.clone())], false, &[]);
        let differs = "operation 5: differs from the first final read";
        judge(&[("final-read", before), ("final-read", after)], false, &[differs]);
    }

    #[test]
    fn half_a_transfer_is_found_in_any_read() {
        let half = "operation 3: 5 in all accounts instead of 10";
        let end = ("final-read", json!({"a": 5, "b": 5}));
        judge(&[("read", json!({"a": 5, "b": 0})), end], false, &[half]);
    }

    #[test]
    fn a_balance_below_zero_is_found_unless_it_is_allowed() {
        let reads = [("final-read", json!({"a": -5, "b": 15}))];
        judge(&reads, false, &["operation 3: account a has -5"]);
        judge(&reads, true, &[]);
    }

    #[test]
    fn what_is_no_balance_is_blamed() {
        let no_final = "no final read was answered";
        judge(
            &[("read", json!({"a": "x"}))],
            false,
            &["operation 3: is no object of integers", no_final],
        );
    }
}
