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
    config.cluster.founder = "atoll-1".into();
    config.cluster.leave_on_stop = true;
    config.discovery.port = 7411;
    config.store.cache_mb = 7;
    assert_eq!(load(&config.to_toml(), &[]), Ok(config));
}

#[test]
fn environment_wins_over_file() {
    let environment = [
        ("ATOLL__STORE__CACHE_MB", "9"),
        ("ATOLL__REPLICATION__SEEDS", "a:1, b:2"),
        ("ATOLL__NODE__NAME", "123"),
        ("ATOLL__CLUSTER__FOUNDER", "123"),
        ("ATOLL__CLUSTER__LEAVE_ON_STOP", "true"),
        ("ATOLL__CLUSTER__DRAIN_S", "50"),
        ("ATOLL_URL", "http://elsewhere"),
    ];
    let config = load("[store]\ncache_mb = 7\nlog_mb = 8\n", &environment).expect("fine");
    assert_eq!((config.store.cache_mb, config.store.log_mb), (9, 8));
    assert_eq!(config.replication.seeds, ["a:1", "b:2"]);
    assert_eq!(config.node.name, "123");
    assert_eq!((config.cluster.leave_on_stop, config.cluster.drain_s), (true, 50));
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
fn words_flags_and_urls_name_the_remedy() {
    refused(
        "[discovery]\nmethod = \"consul\"\n",
        &[],
        "FILE:2: `discovery.method` is the text \"consul\", but must be one of static, dns, \
         kubernetes, etcd",
    );
    refused(
        "",
        &[("ATOLL__CLUSTER__LEAVE_ON_STOP", "yes")],
        "environment ATOLL__CLUSTER__LEAVE_ON_STOP: `cluster.leave_on_stop` is the text \"yes\", \
         but must be true or false",
    );
    refused(
        "[discovery]\netcd_endpoints = [\"etcd:2379\"]\n",
        &[],
        "FILE:2: `discovery.etcd_endpoints` is the list [etcd:2379], but must be a list of URLs \
         such as [\"http://etcd-1:2379\"]",
    );
    for (key, wrong) in [
        ("port", "0"),
        ("port", "65536"),
        ("interval_s", "0"),
        ("dns_server", "\"dns:53\""),
        ("kubernetes_api", "\"kubernetes\""),
        ("kubernetes_api", "\"https://host/path\""),
        ("kubernetes_config_map", "\"\""),
        ("etcd_prefix", "\"atoll\""),
        ("etcd_prefix", "\"/atoll/\""),
    ] {
        let error = load(&format!("[discovery]\n{key} = {wrong}\n"), &[]).expect_err(wrong);
        assert!(error.starts_with(&format!("FILE:2: `discovery.{key}` is ")), "{error}");
    }
}

/// A configuration of one method, good as it stands.
fn found_by(method: &str) -> Vec<(&str, &str)> {
    let mut keys = vec![("ATOLL__DISCOVERY__METHOD", method)];
    keys.extend(match method {
        "dns" => vec![
            ("ATOLL__DISCOVERY__DNS_NAME", "atoll.sea"),
            ("ATOLL__DISCOVERY__DNS_SERVER", "[::1]:53"),
            ("ATOLL__CLUSTER__FOUNDER", "eu-1"),
        ],
        "kubernetes" => vec![
            ("ATOLL__DISCOVERY__KUBERNETES_SELECTOR", "app.kubernetes.io/name=atoll"),
            ("ATOLL__DISCOVERY__KUBERNETES_API", "https://10.0.0.1:6443"),
            ("ATOLL__NODE__REGION", "eu-west.1"),
        ],
        "etcd" => vec![
            ("ATOLL__DISCOVERY__ETCD_ENDPOINTS", "http://a:2379, https://b"),
            ("ATOLL__DISCOVERY__ETCD_CA", "ca.pem"),
            ("ATOLL__REPLICATION__LISTEN", "0.0.0.0:7401"),
            ("ATOLL__REPLICATION__ADVERTISE", "10.0.0.1:7401"),
        ],
        _ => vec![("ATOLL__REPLICATION__SEEDS", "a:1"), ("ATOLL__CLUSTER__FOUNDER", "eu-1")],
    });
    keys
}

#[test]
fn every_method_needs_its_keys() {
    for (method, key, value, message) in [
        ("static", "CLUSTER__FOUNDER", "", "`replication.seeds` names other nodes, but nobody"),
        ("dns", "CLUSTER__FOUNDER", "", "with `discovery.method` \"dns\" one node must be named"),
        ("dns", "DISCOVERY__DNS_NAME", "", "`discovery.method` is \"dns\": set `discovery.dns_n"),
        ("dns", "DISCOVERY__METHOD", "static", "`discovery.dns_name` is set, but"),
        ("kubernetes", "CLUSTER__FOUNDER", "a", "`cluster.founder` is \"a\", but with"),
        (
            "kubernetes",
            "DISCOVERY__KUBERNETES_SELECTOR",
            "",
            "`discovery.method` is \"kubernetes\"",
        ),
        ("kubernetes", "NODE__REGION", "eu_1", "\"atoll-eu_1\" can be no ConfigMap: give"),
        ("kubernetes", "NODE__REGION", "eu.", "\"atoll-eu.\" can be no ConfigMap: give"),
        ("etcd", "DISCOVERY__ETCD_ENDPOINTS", "", "`discovery.method` is \"etcd\": set"),
        ("etcd", "DISCOVERY__ETCD_CA", "", "`discovery.etcd_endpoints` names https://b: set"),
        ("etcd", "REPLICATION__ADVERTISE", "", "a node registers in etcd under"),
        ("etcd", "CLUSTER__FOUNDER", "a", "`cluster.founder` is \"a\", but with"),
    ] {
        let mut keys = found_by(method);
        assert_eq!(load("", &keys).map(drop), Ok(()), "{method}");
        let key = format!("ATOLL__{key}");
        keys.retain(|(other, _)| *other != key);
        keys.push((&key, value));
        let error = load("", &keys).expect_err(message);
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn only_who_says_so_serves_everybody() {
    let listen = "[http]\nlisten = \"0.0.0.0:7401\"\n";
    refused(
        listen,
        &[],
        "`http.listen` is 0.0.0.0:7401, which others can reach, and clients do not prove who they \
         are: listen on 127.0.0.1, or set `http.anonymous = true` if everybody who reaches it may \
         write",
    );
    assert!(load(&format!("{listen}anonymous = true\n"), &[]).is_ok());
    assert!(load("[http]\nlisten = \"[::1]:7401\"\n", &[]).is_ok());
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
    refused(
        "[cluster]\nforget_after_s = 20\n",
        &[],
        "`cluster.forget_after_s` (20) is below `cluster.replace_after_s` (30): a node would be \
         forgotten before its replicas are elsewhere; raise the first",
    );
    let error = load("[store\n", &[]).expect_err("no TOML");
    assert!(error.starts_with("FILE is not valid TOML: TOML parse error at line 1"), "{error}");
    let error = Config::load(Some("no/such/file".as_ref())).expect_err("no file").to_string();
    assert!(error.starts_with("cannot read the configuration no/such/file"), "{error}");
}
