//! What several keys say together: contradictions, and what a method lacks.
//!
//! Invariant: every message names the keys, their values and what to write instead.

use super::{Config, ConfigError, Method};

/// The first contradiction.
pub(super) fn consistent(config: &Config) -> Result<(), ConfigError> {
    let found = [sizes, exposed, times, unused, formed, found_by].iter().find_map(|of| of(config));
    found.map_or(Ok(()), |message| Err(ConfigError::Contradiction(message)))
}

fn sizes(config: &Config) -> Option<String> {
    let (store, limits) = (&config.store, &config.limits);
    if store.log_max_mb < store.log_mb {
        return Some(format!(
            "`store.log_max_mb` ({}) is below `store.log_mb` ({}): raise the first, or lower the \
             second",
            store.log_max_mb, store.log_mb
        ));
    }
    (limits.member_bytes > limits.body_bytes).then(|| {
        format!(
            "`limits.member_bytes` ({}) is above `limits.body_bytes` ({}): no request could carry \
             such a member; raise the second",
            limits.member_bytes, limits.body_bytes
        )
    })
}

/// Without keys for clients, whoever reaches the port may write.
fn exposed(config: &Config) -> Option<String> {
    let http = &config.http;
    (!http.listen.ip().is_loopback() && !http.anonymous).then(|| {
        format!(
            "`http.listen` is {}, which others can reach, and clients do not prove who they are: \
             listen on 127.0.0.1, or set `http.anonymous = true` if everybody who reaches it may \
             write",
            http.listen
        )
    })
}

fn times(config: &Config) -> Option<String> {
    let cluster = &config.cluster;
    (cluster.forget_after_s < cluster.replace_after_s).then(|| {
        format!(
            "`cluster.forget_after_s` ({}) is below `cluster.replace_after_s` ({}): a node would \
             be forgotten before its replicas are elsewhere; raise the first",
            cluster.forget_after_s, cluster.replace_after_s
        )
    })
}

/// Keys of a method that is not asked for: somebody thinks that it is.
fn unused(config: &Config) -> Option<String> {
    let discovery = &config.discovery;
    let keys = [
        ("dns_name", !discovery.dns_name.is_empty(), Method::Dns),
        ("kubernetes_selector", !discovery.kubernetes_selector.is_empty(), Method::Kubernetes),
        ("etcd_endpoints", !discovery.etcd_endpoints.is_empty(), Method::Etcd),
    ];
    let idle = keys.iter().find(|(_, set, method)| *set && *method != discovery.method);
    idle.map(|(key, _, method)| {
        format!(
            "`discovery.{key}` is set, but `discovery.method` is \"{}\": set the method to \
             \"{}\", or remove the key",
            discovery.method.name(),
            method.name()
        )
    })
}

/// Who forms the region.
fn formed(config: &Config) -> Option<String> {
    let founder = &config.cluster.founder;
    let region = &config.node.region;
    match config.discovery.method {
        Method::Kubernetes | Method::Etcd if !founder.is_empty() => Some(format!(
            "`cluster.founder` is \"{founder}\", but with `discovery.method` \"{}\" whoever comes \
             first forms the region, and that is recorded there: remove `cluster.founder`",
            config.discovery.method.name()
        )),
        Method::Static if founder.is_empty() && !config.replication.seeds.is_empty() => {
            Some(format!(
                "`replication.seeds` names other nodes, but nobody is named to form region \
                 \"{region}\": set `cluster.founder` to the name of one of its nodes, the same on \
                 all of them"
            ))
        }
        Method::Dns if founder.is_empty() => Some(format!(
            "with `discovery.method` \"dns\" one node must be named to form region \"{region}\": \
             set `cluster.founder` to the name of one of its nodes, the same on all of them"
        )),
        _ => None,
    }
}

/// What each method needs.
fn found_by(config: &Config) -> Option<String> {
    let discovery = &config.discovery;
    let need = |key: &str, what: &str| {
        let method = discovery.method.name();
        Some(format!("`discovery.method` is \"{method}\": set `discovery.{key}` to {what}"))
    };
    match discovery.method {
        Method::Dns if discovery.dns_name.is_empty() => {
            need("dns_name", "the name whose records are the nodes")
        }
        Method::Kubernetes if discovery.kubernetes_selector.is_empty() => need(
            "kubernetes_selector",
            "the labels of the pods, such as \"app.kubernetes.io/name=atoll\"",
        ),
        Method::Kubernetes => map_name(config),
        Method::Etcd if discovery.etcd_endpoints.is_empty() => {
            need("etcd_endpoints", "the URLs of its members, such as [\"http://etcd:2379\"]")
        }
        Method::Etcd => etcd(config),
        _ => None,
    }
}

/// The name of the region's ConfigMap must be one that Kubernetes takes.
fn map_name(config: &Config) -> Option<String> {
    let (prefix, region) = (&config.discovery.kubernetes_config_map, &config.node.region);
    let name = format!("{prefix}-{region}");
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let edges = |part: &str| {
        let bytes = part.as_bytes();
        let good = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        good(bytes.first()) && good(bytes.last())
    };
    let good = name.len() <= 253 && name.chars().all(plain) && name.split('.').all(edges);
    (!good).then(|| {
        format!(
            "\"{name}\" can be no ConfigMap: give `discovery.kubernetes_config_map` (\"{prefix}\") \
             and `node.region` (\"{region}\") only a-z, 0-9, '-' and '.', a letter or digit at \
             each end"
        )
    })
}

fn etcd(config: &Config) -> Option<String> {
    let discovery = &config.discovery;
    let secure = discovery.etcd_endpoints.iter().find(|url| url.starts_with("https://"));
    if let Some(url) = secure.filter(|_| discovery.etcd_ca.as_os_str().is_empty()) {
        return Some(format!(
            "`discovery.etcd_endpoints` names {url}: set `discovery.etcd_ca` to the PEM file of \
             who signed its certificate"
        ));
    }
    let replication = &config.replication;
    let anywhere = replication.listen.ip().is_unspecified() && replication.advertise.is_empty();
    anywhere.then(|| {
        format!(
            "a node registers in etcd under `replication.advertise`, which is empty, and \
             `replication.listen` is {}, which is no address to dial: set \
             `replication.advertise` to this node's host:port",
            replication.listen
        )
    })
}
