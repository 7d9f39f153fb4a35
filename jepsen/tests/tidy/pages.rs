//! What pages name exists, and the top level holds only what belongs there.

/// What may be at the top level; names that begin with a dot may be too.
const TOP_LEVEL: [&str; 14] = [
    "ARCHITECTURE.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "api",
    "deploy",
    "docs",
    "jepsen",
    "replication",
    "sharding",
    "store",
    "target",
];

/// Names that do not belong at the top level.
pub(crate) fn strangers(names: impl Iterator<Item = String>) -> Vec<String> {
    let belongs = |name: &str| name.starts_with('.') || TOP_LEVEL.contains(&name);
    names.filter(|name| !belongs(name)).collect()
}

/// Paths in backticks or as targets of links, that do not exist.
pub(crate) fn missing_paths(page: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut fenced = false;
    for (line, content) in text.lines().enumerate() {
        fenced ^= content.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        let named = content.split('`').skip(1).step_by(2).filter(|word| is_path(word));
        let linked = content.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let linked = linked.filter(|target| !target.contains("://") && !target.starts_with('#'));
        for path in named.chain(linked) {
            let path = path.split('#').next().unwrap_or(path);
            if !exists(path) {
                complaints.push(format!("{page}:{}: {path} does not exist", line + 1));
            }
        }
    }
    complaints
}

/// Whether a word in backticks is a path of the workspace.
fn is_path(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let first = word.split('/').next().unwrap_or_default();
    let known = TOP_LEVEL.contains(&first) || first.starts_with('.') && first.len() > 2;
    let file = TOP_LEVEL.contains(&word) && (word.contains('.') || word.starts_with("LICENSE"));
    word.chars().all(plain) && known && (word.contains('/') || file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_named() {
        let names = ["store", ".ci", "notes.txt", "Makefile"].map(str::to_owned);
        assert_eq!(strangers(names.into_iter()), ["notes.txt", "Makefile"]);
    }

    #[test]
    fn a_path_that_is_not_there_is_found() {
        let text = "`store/src/log.rs` and `store/src/gone.rs`,\n[a](docs/gone.md#part) `.ci/gone`";
        let missing = missing_paths("P.md", text, |path| path == "store/src/log.rs");
        let expected = ["store/src/gone.rs", "docs/gone.md", ".ci/gone"];
        let lines = [1, 2, 2];
        assert_eq!(missing.len(), 3);
        for (path, line) in expected.iter().zip(lines) {
            assert!(
                missing.contains(&format!("P.md:{line}: {path} does not exist")),
                "{missing:?}"
            );
        }
    }

    #[test]
    fn addresses_commands_and_examples_are_no_paths() {
        let text = "`GET /v1/counters` `store` `api -> store` `a/b` `store/*` [x](https://y/z)\n\
                    ```\n`store/gone`\n```\n";
        assert_eq!(missing_paths("P.md", text, |_| false), [""; 0]);
    }
}
