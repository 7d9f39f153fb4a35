//! Every rule of correctness that is built has a test that carries its name.
//!
//! The rules are listed in `ARCHITECTURE.md`; a test named `r4_...` or `..._r4_...` is rule R4's.

use crate::source::{Source, words};

/// The rules that are built. R9 and R12 come with retirement and recorded quorums.
const BUILT: [u32; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13];

/// Rules without a test.
pub(crate) fn untested(sources: &[Source]) -> Vec<String> {
    let tests: Vec<String> = sources.iter().flat_map(test_names).collect();
    let rule = |number: &u32| format!("r{number}");
    let named = |rule: &str| tests.iter().any(|name| mentions(name, rule));
    let missing = BUILT.iter().map(rule).filter(|rule| !named(rule));
    missing.map(|rule| format!("no test is named {rule}_...")).collect()
}

fn mentions(name: &str, rule: &str) -> bool {
    let mut parts = name.split('_');
    // The last part alone is no name of a rule: `r1_` is what is asked for.
    let last = parts.next_back();
    last.is_some() && parts.any(|part| part == rule)
}

/// Names of functions in tests.
fn test_names(source: &Source) -> Vec<String> {
    let code = source.tests();
    let words: Vec<&str> = words(&code).into_iter().map(|(_, _, word)| word).collect();
    let functions = words.windows(2).filter(|pair| pair[0] == "fn");
    functions.map(|pair| pair[1].to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_without_a_test_is_found() {
        let all = BUILT.map(|n| format!("fn r{n}_holds() {{}}\n")).concat();
        let file = |path: &str, text: &str| [Source::new(path, text)];
        assert_eq!(untested(&file("store/tests/rules.rs", &all)), [""; 0]);
        let lacking = all.replace("r4_", "also_r40_");
        let complaint = ["no test is named r4_..."];
        assert_eq!(untested(&file("store/tests/rules.rs", &lacking)), complaint);
        let within = lacking + "fn deletes_as_r4_says() {}";
        assert_eq!(untested(&file("store/tests/rules.rs", &within)), [""; 0]);
        assert_eq!(untested(&file("store/src/rules.rs", &within)).len(), BUILT.len());
    }
}
