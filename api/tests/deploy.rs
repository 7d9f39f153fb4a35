//! What `deploy` sets, a node reads: every variable is a key, and every value is accepted.
//!
//! What the chart renders is checked where there is a Helm: the one that `ATOLL_HELM` names, or
//! `helm`. `deploy/check` installs one and runs this again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use atoll::config::{Config, KEYS};

/// How a page speaks of variables in general.
const IN_GENERAL: &str = "ATOLL__SECTION__KEY";

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The files below a directory, in order.
fn files(below: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(below).expect("a directory");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let inside = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    paths.into_iter().flat_map(inside).collect()
}

/// The variables that a text names whole.
fn variables(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("ATOLL__") && !word.ends_with('_'));
    names.filter(|name| *name != IN_GENERAL).map(str::to_owned).collect()
}

fn variable_of(key: &str) -> String {
    format!("ATOLL__{}", key.to_uppercase().replace('.', "__"))
}

#[test]
fn every_variable_is_a_key() {
    let known: BTreeSet<String> = KEYS.iter().map(|key| variable_of(key.name)).collect();
    let mut seen = BTreeSet::new();
    for path in files(&deploy()) {
        let text = std::fs::read_to_string(&path).expect("text");
        let named = variables(&text);
        let strangers: Vec<_> = named.difference(&known).collect();
        assert!(strangers.is_empty(), "{}: no keys: {strangers:?}", path.display());
        seen.extend(named);
    }
    assert!(seen.contains("ATOLL__REPLICATION__ADVERTISE"), "the walk lost the chart");
}

/// Name and value of each `- name: ATOLL__...` with the line after it, as the chart writes them.
fn settings(manifests: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = manifests.lines().map(str::trim).collect();
    let pair = |pair: &[&str]| {
        let name = pair[0].strip_prefix("- name: ").filter(|name| name.starts_with("ATOLL__"))?;
        let value = pair[1].strip_prefix("value: ").expect("a value after the name");
        Some((name.to_owned(), expanded(value.trim_matches('"'))))
    };
    lines.windows(2).filter_map(pair).collect()
}

/// As Kubernetes puts it into the container.
fn expanded(value: &str) -> String {
    let pod = [
        ("$(POD_NAME)", "region-atoll-7d9c5b8f6d-x2x7k"),
        ("$(POD_IP)", if value.contains('[') { "fd00::7" } else { "10.0.0.7" }),
        ("$(HOST_IP)", "10.0.1.7"),
        ("$(POD_ZONE)", "eu-central-1a"),
    ];
    pod.iter().fold(value.to_owned(), |value, (name, with)| value.replace(name, with))
}

#[test]
fn settings_are_read_from_manifests() {
    let manifest = "env:\n  - name: POD_IP\n    valueFrom: {}\n  - name: ATOLL__NODE__NAME\n    \
                    value: \"$(POD_IP)-a\"\n";
    let expected = [("ATOLL__NODE__NAME".to_owned(), "10.0.0.7-a".to_owned())];
    assert_eq!(settings(manifest), expected);
}

/// A Helm, if there is one.
fn helm() -> Option<PathBuf> {
    let named = std::env::var_os("ATOLL_HELM").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join("helm"));
    named.into_iter().chain(found).find(|file| file.is_file())
}

fn render(helm: &Path, values: &Path) -> String {
    let chart = deploy().join("chart");
    let mut command = Command::new(helm);
    command.arg("template").arg("region").arg(&chart).args(["--kube-version", "1.30.0"]);
    let done = command.arg("-f").arg(values).output().expect("helm runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}: {said}", values.display());
    String::from_utf8(done.stdout).expect("UTF-8")
}

#[test]
fn what_the_chart_renders_is_accepted() {
    let Some(helm) = helm() else {
        eprintln!("skipped: there is no helm here; deploy/check installs one");
        return;
    };
    let sets = files(&deploy().join("chart/ci"));
    assert!(sets.len() >= 5, "the walk lost the values: {sets:?}");
    for values in sets {
        let settings = settings(&render(&helm, &values));
        assert!(settings.len() > 10, "{}: {settings:?}", values.display());
        let pairs: Vec<_> = settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let names: BTreeSet<_> = pairs.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), pairs.len(), "{}: one is set twice", values.display());
        let config = Config::load_with(None, &pairs);
        assert!(config.is_ok(), "{}: {}", values.display(), config.expect_err("checked"));
    }
}
