//! `atoll check`: do all nodes hold the same data?
//!
//! Invariants:
//! 1. It says yes only if one round of answers, one from every node, was equal.
//! 2. It waits between rounds, up to the timeout: nodes that are written to may differ for the
//!    time that changes travel.
//!
//! Left out: comparing values. Digests cover all live state; `export` shows what differs in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::output::{Paint, paint, table};
use super::{Common, Failure, Output};
use crate::client::{Call, Client, ClientError};

/// Pause between rounds.
const PAUSE: Duration = Duration::from_millis(250);

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct Options {
    /// A node of each region, or every node, separated by commas; or give --url repeatedly
    #[arg(long, value_delimiter = ',')]
    urls: Vec<String>,
    /// How long to wait for equality, in seconds
    #[arg(long, default_value_t = 10)]
    timeout: u64,
}

/// What a node holds: shard -> digest, and the whole answer for a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Holding {
    /// Shard -> digest in hex.
    pub shards: BTreeMap<String, String>,
    /// Entities, if the answer counts them.
    pub entities: Option<u64>,
    /// Shards that other nodes hold.
    elsewhere: BTreeSet<String>,
}

impl Holding {
    /// Reads `{"shards": {"0/12": "hex"}, "entities": {"0/12": 3}}`, the latter optional.
    pub fn parse(body: &Value) -> Option<Holding> {
        let elsewhere = body["elsewhere"].as_array().into_iter().flatten();
        let elsewhere = elsewhere.filter_map(|shard| shard.as_str()).map(str::to_owned).collect();
        let mut holding = Holding { shards: BTreeMap::new(), entities: None, elsewhere };
        for (shard, digest) in body["shards"].as_object()? {
            if let Some(count) = body["entities"][shard].as_u64() {
                holding.entities = Some(holding.entities.unwrap_or(0) + count);
            }
            holding.shards.insert(shard.clone(), digest.as_str()?.into());
        }
        Some(holding)
    }

    /// Asks a node.
    pub async fn ask(client: &Client) -> Result<Holding, ClientError> {
        let answer = client.call(&Call::get("/v1/cluster/digest?verbose=true")).await?;
        Holding::parse(&answer.body).ok_or_else(|| ClientError::Answer {
            url: client.url().into(),
            cause: "no digests by shard in it".into(),
        })
    }
}

/// Asks all until they are equal or the time is up.
pub async fn run(common: &Common, options: Options) -> Result<(), Failure> {
    let urls = if options.urls.is_empty() { &common.url } else { &options.urls };
    if urls.len() < 2 {
        return Err(Failure::Usage("give two or more servers to compare: --urls a,b".into()));
    }
    let mut clients = Vec::new();
    for url in urls {
        clients.push(Client::new(url)?);
    }
    let call = Call::get("/v1/cluster/digest?verbose=true");
    clients.iter().for_each(|client| common.show(client, &call));
    let deadline = Instant::now() + Duration::from_secs(options.timeout);
    loop {
        let asked = clients.iter().map(Holding::ask);
        let answers = futures_util::future::join_all(asked).await;
        let late = Instant::now() >= deadline;
        match answers.into_iter().collect::<Result<Vec<_>, _>>() {
            Err(error) if late || !matches!(error, ClientError::Unreachable { .. }) => {
                return Err(error.into());
            }
            Ok(holdings) => {
                let differing = differing(&holdings);
                if differing.is_empty() || late {
                    report(common.output, urls, &holdings, &differing);
                    return verdict(&differing, options.timeout);
                }
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE.min(deadline.saturating_duration_since(Instant::now()))).await;
    }
}

/// Shards of which those who hold them hold different content.
pub fn differing(holdings: &[Holding]) -> BTreeSet<String> {
    let shards = holdings.iter().flat_map(|holding| holding.shards.keys());
    let same = |shard: &String| {
        let mut held = holdings.iter().filter(|holding| !holding.elsewhere.contains(shard));
        let first = held.next().map(|holding| holding.shards.get(shard));
        held.all(|holding| Some(holding.shards.get(shard)) == first)
    };
    shards.filter(|shard| !same(shard)).cloned().collect()
}

fn verdict(differing: &BTreeSet<String>, waited: u64) -> Result<(), Failure> {
    if differing.is_empty() {
        return Ok(());
    }
    Err(Failure::Different(format!("{} shards differ after {waited} s", differing.len())))
}

fn report(output: Output, urls: &[String], holdings: &[Holding], differing: &BTreeSet<String>) {
    if output == Output::Json {
        let nodes: Vec<Value> = urls
            .iter()
            .zip(holdings)
            .map(|(url, h)| json!({"url": url, "shards": h.shards.len(), "entities": h.entities}))
            .collect();
        let equal = differing.is_empty();
        println!("{}", json!({"equal": equal, "nodes": nodes, "differing": differing}));
        return;
    }
    let mut rows = vec![["NODE", "SHARDS", "ENTITIES"].map(String::from).to_vec()];
    for (url, holding) in urls.iter().zip(holdings) {
        let entities = holding.entities.map_or("-".into(), |n| n.to_string());
        rows.push(vec![url.clone(), holding.shards.len().to_string(), entities]);
    }
    print!("{}", table(&rows));
    if differing.is_empty() {
        println!("{}", paint(Paint::Green, "all nodes hold the same data"));
        return;
    }
    let mut rows = vec![["SHARD".to_string()].into_iter().chain(urls.iter().cloned()).collect()];
    for shard in differing {
        let mut row = vec![shard.clone()];
        row.extend(holdings.iter().map(|holding| match holding.shards.get(shard) {
            Some(digest) => digest.chars().take(16).collect(),
            None if holding.elsewhere.contains(shard) => "elsewhere".to_string(),
            None => "nothing".to_string(),
        }));
        rows.push(row);
    }
    print!("\n{}", table(&rows));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_compare_by_shard() {
        let short = Holding::parse(&json!({"shards": {"0/1": "aa", "0/2": "bb"}}));
        let verbose = json!({"shards": {"0/1": "aa"}, "entities": {"0/1": 2}});
        let long = Holding::parse(&verbose);
        let (short, long) = (short.expect("good"), long.expect("good"));
        assert_eq!(long.entities, Some(2));
        assert_eq!(differing(&[short.clone(), short.clone()]), BTreeSet::new());
        assert_eq!(differing(&[short, long]), BTreeSet::from(["0/2".to_string()]));
        assert_eq!(Holding::parse(&json!({"shards": 1})), None);
    }

    #[test]
    fn a_shard_is_compared_among_those_who_hold_it() {
        let holding = |json| Holding::parse(&json).expect("good");
        let one = holding(json!({"shards": {"0/1": "aa"}, "elsewhere": ["0/2"]}));
        let other = holding(json!({"shards": {"0/1": "aa", "0/2": "bb"}, "elsewhere": []}));
        let empty = holding(json!({"shards": {"0/1": "aa"}, "elsewhere": []}));
        assert_eq!(differing(&[one.clone(), other.clone()]), BTreeSet::new());
        assert_eq!(differing(&[one, other, empty]), BTreeSet::from(["0/2".to_string()]));
    }
}
