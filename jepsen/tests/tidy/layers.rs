//! Which layers may name what: engines, networks, clocks, chance, JSON.
//!
//! A crate is named by a word in code that begins a path, an import or a declaration of it. Cores
//! are held to it in their product code only; the seams (engine, transport, consensus, JSON) in
//! all of a file before its tests. Files under `tests/` may name what they test with.

use crate::source::{Source, words};

/// Names that belong to one place each, and the paths that may name them.
const OWNED: [(&str, &[&str], &[&str]); 7] = [
    ("the storage engine", &["sled"], &["store/src/backend/sled.rs"]),
    (
        "the transport",
        &["quinn", "quinn_proto", "webpki", "rcgen"],
        &["replication/src/transport/", "replication/src/transport.rs"],
    ),
    (
        // Discovery asks the API server of Kubernetes, which speaks HTTPS only.
        "TLS",
        &["rustls", "rustls_pki_types", "tokio_rustls"],
        &[
            "replication/src/transport/",
            "replication/src/transport.rs",
            "sharding/src/discovery/http.rs",
        ],
    ),
    ("consensus", &["raft"], &["sharding/src/raft/"]),
    ("the engine of behaviours", &["rquickjs"], &["sharding/src/behaviour/"]),
    ("failure detection", &["foca"], &["sharding/src/membership/swim/"]),
    (
        "JSON",
        &["serde_json"],
        &[
            "api/src/http/",
            "api/src/cli/",
            "api/src/client/",
            "api/src/demo/",
            "api/src/bench/",
            "api/src/config/",
            "jepsen/",
            // What Kubernetes and etcd speak. Values of entities are not known there.
            "sharding/src/discovery/",
            // What behaviours are given and return: they are what values mean.
            "sharding/src/behaviour/",
        ],
    ),
];

/// Code that knows no runtime, no clock, no chance and no order of hashes.
const CORES: [&str; 9] = [
    "store/src/",
    "replication/src/core/",
    "sharding/src/placement",
    "sharding/src/membership/",
    "sharding/src/council/",
    "sharding/src/groups/",
    "sharding/src/raft/",
    "sharding/src/owner/",
    "sharding/src/behaviour/",
];

/// What cores may not name.
const IMPURE: [&str; 7] =
    ["tokio", "HashMap", "HashSet", "thread_rng", "getrandom", "rand", "async_std"];

/// Clocks, of which cores may not ask `now`.
const CLOCKS: [&str; 2] = ["Instant", "SystemTime"];

/// Judges: they share no code with what they judge.
const JUDGES: [&str; 3] = ["jepsen/src/checkers/", "jepsen/src/history/", "jepsen/src/http.rs"];

/// Names of the product's crates.
const PRODUCT: [&str; 4] = ["atoll", "atoll_store", "atoll_replication", "atoll_sharding"];

/// Names that a file may not name.
pub(crate) fn banned_names(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let code = source.product();
    let within = |places: &[&str]| places.iter().any(|place| in_place(&source.path, place));
    for (line, place, word) in words(&code) {
        let mut complain = |what: String| complaints.push(source.complaint(line, &what));
        for (layer, names, places) in OWNED {
            if names.contains(&word) && !within(places) && is_crate(&code, place, word) {
                complain(format!("`{word}` is {layer}: only {places:?} name it"));
            }
        }
        if within(&CORES) && (IMPURE.contains(&word) || asks_clock(&code, place, word)) {
            complain(format!("`{word}` in a core: time and chance are arguments"));
        }
        if within(&JUDGES) && PRODUCT.contains(&word) {
            complain(format!("`{word}` in a judge: it shares no code with the product"));
        }
    }
    complaints
}

/// Whether a path is the place, in it, or the file that declares it as a module.
fn in_place(path: &str, place: &str) -> bool {
    path.starts_with(place) || place.strip_suffix('/').is_some_and(|p| path == format!("{p}.rs"))
}

/// Whether a word is a crate's name here: not a module, a field or a part of a longer path.
fn is_crate(code: &str, place: usize, word: &str) -> bool {
    let before = code[..place].trim_end();
    let after = code[place + word.len()..].trim_start();
    let statement = before.rsplit([';', '}']).next().unwrap_or_default();
    let imports = statement.split_whitespace().any(|word| word == "use");
    let nested = imports && statement.contains("::{");
    let longer = before.ends_with("::") && !starts_path(before);
    let extern_crate = before.ends_with("extern crate");
    let whole = after.starts_with([';', ',', '}']) || after.starts_with("as ");
    let path = after.starts_with("::") || (imports && whole);
    extern_crate || (path && !longer && !nested)
}

/// Whether `::` at the end begins a path, as in `::sled`.
fn starts_path(before: &str) -> bool {
    let head = before.trim_end_matches("::");
    !head.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '>')
        || head.ends_with(char::is_whitespace)
}

fn asks_clock(code: &str, place: usize, word: &str) -> bool {
    CLOCKS.contains(&word) && code[place + word.len()..].starts_with("::now")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> usize {
        banned_names(&Source::new(path, text)).len()
    }

    #[test]
    fn the_engine_is_named_in_one_file() {
        for text in [
            "use sled::Db;",
            "use sled;",
            "use sled as engine;",
            "fn f() -> ::sled::Db {}",
            "let db: sled::Db = open();",
            "extern crate sled;",
        ] {
            assert_eq!(complaints("store/src/log.rs", text), 1, "{text}");
            assert_eq!(complaints("store/src/backend/sled.rs", text), 0, "{text}");
        }
    }

    #[test]
    fn a_module_of_the_same_name_is_no_crate() {
        for text in [
            "pub mod sled;",
            "use crate::backend::sled::Sled;",
            "use atoll_store::backend::{memory::Memory, sled::Sled};",
            "let sled = 1; f(sled)",
            "// use sled::Db;",
            "let s = \"use sled::Db;\";",
            "#[cfg(test)]\nmod tests { use sled::Db; }",
        ] {
            assert_eq!(complaints("store/src/log.rs", text), 0, "{text}");
        }
    }

    #[test]
    fn network_consensus_and_json_stay_where_they_are() {
        assert_eq!(complaints("api/src/node/mod.rs", "use quinn::Endpoint;"), 1);
        assert_eq!(complaints("api/src/cli/cert.rs", "use rcgen::Certificate;"), 1);
        assert_eq!(complaints("replication/src/driver/mod.rs", "use rustls::ServerConfig;"), 1);
        assert_eq!(complaints("replication/src/transport/tls.rs", "use rustls::ServerConfig;"), 0);
        let connector = "use tokio_rustls::TlsConnector;";
        assert_eq!(complaints("sharding/src/discovery/http.rs", connector), 0);
        assert_eq!(complaints("sharding/src/discovery/dns.rs", connector), 1);
        assert_eq!(complaints("sharding/src/placement.rs", "use raft::RawNode;"), 1);
        assert_eq!(complaints("sharding/src/raft/group.rs", "use raft::RawNode;"), 0);
        assert_eq!(complaints("api/src/node/mod.rs", "fn f() -> serde_json::Value {}"), 1);
        assert_eq!(complaints("store/src/log.rs", "use serde_json::Value;"), 1);
        assert_eq!(complaints("sharding/src/placement.rs", "use serde_json::Value;"), 1);
        assert_eq!(complaints("sharding/src/discovery/etcd/key.rs", "use serde_json::Value;"), 0);
        assert_eq!(complaints("sharding/src/behaviour/json.rs", "use serde_json::Value;"), 0);
        assert_eq!(complaints("sharding/src/owner/work.rs", "use serde_json::Value;"), 1);
        assert_eq!(complaints("sharding/src/owner/work.rs", "use rquickjs::Runtime;"), 1);
        assert_eq!(complaints("sharding/src/behaviour/engine.rs", "use rquickjs::Runtime;"), 0);
        assert_eq!(complaints("api/src/http/entities.rs", "use serde_json::Value;"), 0);
        assert_eq!(complaints("api/src/bench.rs", "use serde_json::Value;"), 0);
    }

    #[test]
    fn cores_know_no_time_no_chance_and_no_hash_order() {
        for text in [
            "use std::collections::HashMap;",
            "let now = Instant::now();",
            "std::time::SystemTime::now()",
            "tokio::spawn(f)",
            "getrandom::fill(b)",
        ] {
            assert_eq!(complaints("store/src/log.rs", text), 1, "{text}");
            assert_eq!(complaints("replication/src/core/mod.rs", text), 1, "{text}");
            assert_eq!(complaints("replication/src/driver/mod.rs", text), 0, "{text}");
        }
        assert_eq!(complaints("store/src/log.rs", "fn f(now: Instant) {}"), 0);
    }

    #[test]
    fn judges_share_no_code_with_the_product() {
        let text = "use atoll_store::dot::Dot;";
        assert_eq!(complaints("jepsen/src/checkers/set.rs", text), 1);
        assert_eq!(complaints("jepsen/src/simulator/mod.rs", text), 0);
    }
}
