//! The rules of the house, checked: layers, sizes, names, forbidden words.
//!
//! Every rule is a function from text to complaints, shown to fail on small strings beside it;
//! the tests here run them over the files of the workspace. `cargo tidy` runs them alone.
//!
//! Left out: what rustfmt and clippy check already.

mod layers;
mod manifests;
mod metrics;
mod pages;
mod rules;
mod shape;
mod source;

use std::path::{Path, PathBuf};

use source::Source;

/// The root of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files below a directory whose name ends so, as paths from the root, in order.
fn files(below: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from(below)];
    while let Some(directory) = open.pop() {
        let entries = std::fs::read_dir(root().join(&directory));
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = directory.join(&name);
            let kind = entry.file_type().expect("a listed file has a type");
            if kind.is_dir() && name != "target" && !name.starts_with('.') {
                open.push(path);
            } else if kind.is_file() && name.ends_with(ending) {
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn sources() -> Vec<Source> {
    let crates = ["store", "replication", "sharding", "api", "jepsen"];
    let paths = crates.iter().flat_map(|name| files(name, ".rs"));
    paths.map(|path| Source::new(&path, &read(&path))).collect()
}

/// Applies a rule to every source file.
fn check(rule: fn(&Source) -> Vec<String>) {
    let sources = sources();
    assert!(sources.len() > 10, "the walk lost the sources");
    let complaints: Vec<String> = sources.iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn layers_name_only_what_is_theirs() {
    check(layers::banned_names);
}

#[test]
fn crates_depend_in_one_direction() {
    let manifest = |name: &str| manifests::check(name, &read(&format!("{name}/Cargo.toml")));
    let names = manifests::ALLOWED.iter().map(|(name, _)| *name);
    let complaints: Vec<String> = names.flat_map(manifest).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn files_and_functions_are_small() {
    check(shape::long_file);
    check(shape::long_functions);
    check(shape::long_lines);
}

#[test]
fn every_file_says_what_it_is() {
    check(shape::undocumented);
}

#[test]
fn nothing_is_left_to_do() {
    check(shape::unfinished);
}

#[test]
fn tests_do_not_sleep() {
    check(shape::sleeping_tests);
}

#[test]
fn every_rule_that_is_built_has_a_test() {
    let complaints = rules::untested(&sources());
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn every_path_that_pages_name_exists() {
    let exists = |path: &str| root().join(path).exists();
    let page = |name: &str| pages::missing_paths(name, &read(name), exists);
    let complaints: Vec<String> =
        ["ARCHITECTURE.md", "README.md"].into_iter().flat_map(page).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn metrics_are_explained_and_watched_by_their_names() {
    let known = metrics::registered(&sources());
    assert!(known.len() > 20, "the walk lost the metrics: {known:?}");
    let endings = [".json", ".yaml", ".tpl", ".md", ".txt"];
    let deployed = endings.iter().flat_map(|ending| files("deploy", ending));
    let paths: Vec<String> = deployed.chain(["docs/metrics.md".into()]).collect();
    for needed in ["deploy/chart/files/alerts.yaml", "deploy/chart/files/dashboard.json"] {
        assert!(paths.iter().any(|path| path == needed), "the walk lost {needed}");
    }
    let complaints = paths.iter().flat_map(|path| metrics::unregistered(path, &read(path), &known));
    let unexplained = metrics::unexplained("docs/metrics.md", &read("docs/metrics.md"), &known);
    let complaints: Vec<String> = complaints.chain(unexplained).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn the_top_level_holds_only_what_belongs_there() {
    let entries = std::fs::read_dir(root()).expect("the root of the workspace can be listed");
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let strangers = pages::strangers(names);
    assert!(strangers.is_empty(), "at the top level: {strangers:?}");
}
