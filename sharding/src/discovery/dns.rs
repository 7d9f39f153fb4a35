//! Nodes by DNS: the A and AAAA records of a name, or its SRV records.
//!
//! Invariants: a resolver is made for each round, so that nothing is cached and a changed
//! `/etc/resolv.conf` counts; targets of SRV records are resolved by the same server. A name
//! without records is a failure: a set that was found is not given up for it, because a server
//! of names that starts anew says the same.
//!
//! Left out: weights and priorities of SRV records, for every node is wanted; DNSSEC, since
//! certificates say who is who.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use tokio::time::sleep;

use super::{Dns, Failure, Found};

/// Asks for ever.
pub(super) async fn watch(dns: &Dns, found: &mut Found) {
    loop {
        match look(dns).await {
            Ok(addresses) => {
                found.set(addresses);
                sleep(dns.interval).await;
            }
            Err(failure) => found.tries.after(&failure).await,
        }
    }
}

/// One round.
async fn look(dns: &Dns) -> Result<BTreeSet<String>, Failure> {
    let resolver = resolver(dns.server).map_err(failure(&dns.name))?;
    if !dns.srv {
        let hosts = addresses(&resolver, &dns.name).await?;
        return Ok(hosts.into_iter().map(|host| join(host, dns.port)).collect());
    }
    let lookup = resolver.lookup(dns.name.as_str(), RecordType::SRV).await;
    let lookup = lookup.map_err(failure(&dns.name))?;
    let services = lookup.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(service) => Some((service.target.to_string(), service.port)),
        _ => None,
    });
    let (mut all, mut missing) = (BTreeSet::new(), None);
    for (target, port) in services {
        match addresses(&resolver, &target).await {
            Ok(hosts) => all.extend(hosts.into_iter().map(|host| join(host, port))),
            Err(failure) => missing = Some(failure),
        }
    }
    // Some targets without address are nodes that come or go; all of them are a failure.
    match missing {
        Some(failure) if all.is_empty() => Err(failure),
        _ => Ok(all),
    }
}

async fn addresses(resolver: &TokioResolver, name: &str) -> Result<Vec<IpAddr>, Failure> {
    let lookup = resolver.lookup_ip(name).await.map_err(failure(name))?;
    Ok(lookup.iter().collect())
}

fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(address) => {
            let at = |mut connection: ConnectionConfig| {
                connection.port = address.port();
                connection
            };
            // TCP as well: the addresses of a hundred nodes do not fit into a datagram.
            let connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
            let server = NameServerConfig::new(address.ip(), true, connections);
            let config = ResolverConfig::from_name_servers(vec![server]);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.options_mut().cache_size = 0;
    builder.build()
}

fn failure<E: Display>(name: &str) -> impl Fn(E) -> Failure {
    let name = name.to_owned();
    move |error| Failure::Name { name: name.clone(), why: error.to_string() }
}

fn join(host: IpAddr, port: u16) -> String {
    SocketAddr::new(host, port).to_string()
}
