//! What the configuration accepts, and how it refuses the rest.

use std::io::Write;

use super::super::{Config, KEYS};

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("written");
    let path = file.path().to_path_buf();
    let name = path.display().to_string();
    Config::load_with(Some(&path), environment).map_err(|e| e.to_string().replace(&name, "FILE"))
}

fn refused(text: &str, environment: &[(&str, &str)], expected: &str) {
    assert_eq!(load(text, environment).expect_err("refused"), expected);
}

#[test]
fn nothing_given_is_the_default() {
    assert_eq!(load("", &[]), Ok(Config::default()));
}

#[test]
fn the_keys_are_exactly_the_fields() {
    let fields = serde_json::to_value(Config::default()).expect("serializable");
    let mut names = Vec::new();
    for (section, keys) in fields.as_object().expect("an object") {
        names.extend(keys.as_object().expect("a section").keys().map(|k| format!("{section}.{k}")));
    }
    let mut known: Vec<_> = KEYS.iter().map(|key| key.name.to_string()).collect();
    names.sort();
    known.sort();
    assert_eq!(names, known);
}

#[test]
fn the_effective_form_reads_back() {
    let mut config = Config::default();
    config.replication.seeds = vec!["a:1".into(), "b:2".into()];
    config.store.cache_mb = 7;
    assert_eq!(load(&config.to_toml(), &[]), Ok(config));
}

#[test]
fn environment_wins_over_file() {
    let environment = [
        ("ATOLL__STORE__CACHE_MB", "9"),
        ("ATOLL__REPLICATION__SEEDS", "a:1, b:2"),
        ("ATOLL__NODE__NAME", "123"),
        ("ATOLL_URL", "http://elsewhere"),
    ];
    let config = load("[store]\ncache_mb = 7\nlog_mb = 8\n", &environment).expect("fine");
    assert_eq!((config.store.cache_mb, config.store.log_mb), (9, 8));
    assert_eq!(config.replication.seeds, ["a:1", "b:2"]);
    assert_eq!(config.node.name, "123");
}

#[test]
fn unknown_keys_name_the_nearest() {
    refused(
        "[http]\nlisten = \"127.0.0.1:1\"\n[store]\ncache_mbs = 1\n",
        &[],
        "FILE:4: unknown key `store.cache_mbs`; did you mean `store.cache_mb`?",
    );
    refused(
        "[replication]\nseed = []\n",
        &[],
        "FILE:2: unknown key `replication.seed`; did you mean `replication.seeds`?",
    );
    refused(
        "",
        &[("ATOLL__STOR__CACHE_MB", "1")],
        "environment ATOLL__STOR__CACHE_MB: unknown key `stor.cache_mb`; did you mean \
         `store.cache_mb`?",
    );
}

#[test]
fn wrong_values_name_the_remedy() {
    refused(
        "[store]\ncache_mb = \"7\"\n",
        &[],
        "FILE:2: `store.cache_mb` is the text \"7\", but must be a whole number of MiB from 1 to \
         1048576",
    );
    refused(
        "[store]\ncache_mb = 0\n",
        &[],
        "FILE:2: `store.cache_mb` is 0, but must be a whole number of MiB from 1 to 1048576",
    );
    refused(
        "[http]\nlisten = \"7401\"\n",
        &[],
        "FILE:2: `http.listen` is the text \"7401\", but must be an address such as \
         \"127.0.0.1:7401\" or \"[::]:7401\"",
    );
    refused(
        "[node]\nroles = [\"king\"]\n",
        &[],
        "FILE:2: `node.roles` is the list [king], but must be a list of one or more of replica, \
         relay",
    );
    refused(
        "",
        &[("ATOLL__REPLICATION__SEEDS", "nowhere")],
        "environment ATOLL__REPLICATION__SEEDS: `replication.seeds` is the text \"nowhere\", but \
         must be a list such as [\"host-a:7401\", \"host-b:7401\"]",
    );
}

#[test]
fn filters() {
    assert!(load("[log]\nlevel = \"info,quinn=warn\"\n", &[]).is_ok());
    for wrong in ["loud", "", "quinn=loud"] {
        assert!(load(&format!("[log]\nlevel = \"{wrong}\"\n"), &[]).is_err(), "{wrong}");
    }
}

#[test]
fn contradictions_and_syntax() {
    refused(
        "[store]\nlog_mb = 600\n",
        &[],
        "`store.log_max_mb` (512) is below `store.log_mb` (600): raise the first, or lower the \
         second",
    );
    let error = load("[store\n", &[]).expect_err("no TOML");
    assert!(error.starts_with("FILE is not valid TOML: TOML parse error at line 1"), "{error}");
    let error = Config::load(Some("no/such/file".as_ref())).expect_err("no file").to_string();
    assert!(error.starts_with("cannot read the configuration no/such/file"), "{error}");
}
