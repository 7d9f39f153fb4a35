//! Metrics: what pages, alerts, dashboards and the chart name is registered in code, and what code
//! registers is explained.
//!
//! A metric is registered by `counter!`, `gauge!` or `histogram!` with its name as a literal.
//!
//! Left out: labels and their values.

use std::collections::BTreeSet;

use crate::source::Source;

const PREFIX: &str = "atoll_";
const MACROS: [&str; 3] = ["counter!(", "gauge!(", "histogram!("];

/// The names that the product registers; what tests register does not count.
pub(crate) fn registered(sources: &[Source]) -> BTreeSet<String> {
    sources.iter().flat_map(registered_in).collect()
}

fn registered_in(source: &Source) -> Vec<String> {
    let lines = source.text.lines().take(source.product_lines());
    let code = lines.filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let calls = MACROS.iter().flat_map(|name| code.split(name).skip(1));
    let literal =
        |call: &str| call.trim_start().strip_prefix('"')?.split('"').next().map(Into::into);
    calls.filter_map(literal).collect()
}

/// Names in a text that look like metrics, each once.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with(PREFIX)).map(str::to_owned).collect()
}

/// What `text` names and nothing registers.
pub(crate) fn unregistered(path: &str, text: &str, known: &BTreeSet<String>) -> Vec<String> {
    let strangers = named(text).into_iter().filter(|name| !known.contains(name));
    strangers.map(|name| format!("{path}: no code registers {name}")).collect()
}

/// What is registered and `text` does not name.
pub(crate) fn unexplained(path: &str, text: &str, known: &BTreeSet<String>) -> Vec<String> {
    let named = named(text);
    let missing = known.iter().filter(|name| !named.contains(*name));
    missing.map(|name| format!("{path}: {name} is not explained")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> BTreeSet<String> {
        let file = "metrics::counter!(\"atoll_a_total\").increment(1);\n\
             // gauge!(\"atoll_of_a_comment\")\n\
             let b = gauge!(\n    \"atoll_b\", \"region\" => region);\n\
             #[cfg(test)]\nmod tests { gauge!(\"atoll_of_a_test\") }\n";
        let test = "histogram!(\"atoll_of_another_test\")";
        let sources =
            [Source::new("api/src/meters.rs", file), Source::new("api/tests/meters.rs", test)];
        registered(&sources)
    }

    #[test]
    fn only_the_product_registers() {
        assert_eq!(known().into_iter().collect::<Vec<_>>(), ["atoll_a_total", "atoll_b"]);
    }

    #[test]
    fn names_are_held_to_the_code() {
        let alerts = "rate(atoll_a_total[5m]) / atoll_b{region=\"us\"} > atoll_c";
        let complaint = ["alerts.yaml: no code registers atoll_c"];
        assert_eq!(unregistered("alerts.yaml", alerts, &known()), complaint);
        assert_eq!(unexplained("docs", alerts, &known()), [""; 0]);
        let complaint = ["docs: atoll_b is not explained"];
        assert_eq!(unexplained("docs", "| `atoll_a_total` |", &known()), complaint);
    }
}
