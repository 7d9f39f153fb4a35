//! Which crates of the workspace may depend on which: api, sharding, replication, store.

/// Each crate's directory, and the crates of the workspace that it may use.
pub(crate) const ALLOWED: [(&str, &[&str]); 5] = [
    ("store", &[]),
    ("replication", &["atoll-store"]),
    ("sharding", &["atoll-store", "atoll-replication"]),
    ("api", &["atoll-store", "atoll-replication", "atoll-sharding"]),
    ("jepsen", &["atoll-store", "atoll-replication", "atoll-sharding", "atoll"]),
];

/// Crates that know no JSON. In `sharding` two directories do: see `layers`.
const NO_JSON: [&str; 2] = ["store", "replication"];

/// Dependencies that a manifest may not have.
pub(crate) fn check(name: &str, manifest: &str) -> Vec<String> {
    let rule = ALLOWED.iter().find(|(directory, _)| *directory == name);
    let allowed = rule.map_or(&[][..], |(_, allowed)| *allowed);
    let mut complaints = Vec::new();
    for dependency in dependencies(manifest) {
        let ours = dependency == "atoll" || dependency.starts_with("atoll-");
        if ours && !allowed.contains(&dependency) {
            complaints.push(format!("{name} must not depend on {dependency}"));
        }
        if dependency == "serde_json" && NO_JSON.contains(&name) {
            complaints.push(format!("{name} knows no JSON"));
        }
    }
    complaints
}

/// The names in all sections of dependencies but those of tests.
fn dependencies(manifest: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            let (path, last) = section.rsplit_once("dependencies").unwrap_or(("dev-", section));
            inside = !path.ends_with("dev-") && last.is_empty();
            if let Some(name) = last.strip_prefix('.').filter(|_| !path.ends_with("dev-")) {
                names.push(name);
            }
        } else if inside && !line.starts_with('#') {
            let end = line.find(['=', '.', ' ']).unwrap_or(0);
            names.extend(Some(&line[..end]).filter(|name| !name.is_empty()));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_depends_upwards() {
        let up = "[dependencies]\natoll-replication = { workspace = true }\nserde = \"1\"\n";
        assert_eq!(check("store", up), ["store must not depend on atoll-replication"]);
        assert_eq!(check("sharding", up), [""; 0]);
        let table = "[target.'cfg(unix)'.dependencies.atoll]\npath = \"../api\"\n";
        assert_eq!(check("replication", table), ["replication must not depend on atoll"]);
        assert_eq!(check("api", "[build-dependencies]\natoll.workspace = true").len(), 1);
    }

    #[test]
    fn json_stays_out_of_the_lower_crates() {
        let json = "[dependencies]\nserde_json = { workspace = true }\n";
        assert_eq!(check("store", json), ["store knows no JSON"]);
        assert_eq!(check("api", json), [""; 0]);
    }

    #[test]
    fn tests_and_features_are_not_dependencies() {
        let free = "[dev-dependencies]\natoll = \"1\"\n[features]\natoll = []\n";
        assert_eq!(check("store", free), [""; 0]);
    }
}
