//! Nodes as pods: a list, then a watch from the version of that list, again and again.
//!
//! | the server says | what follows |
//! |---|---|
//! | list | its pods are all there are; the watch begins at its version |
//! | ADDED, MODIFIED, DELETED | one pod changes; the watch would resume behind it |
//! | BOOKMARK | nothing changes; the watch would resume behind it |
//! | the end of the watch, a cut, nothing | the watch resumes |
//! | 410 Gone, as status or event | the version is too old: list again |
//! | another error | after a pause, list again; what was published stays until that succeeds |
//!
//! Invariants:
//! 1. A pod counts while it has an address, is not being deleted, and has not ended. Whether it
//!    is ready does not matter: it becomes ready by being found.
//! 2. A watch that stays silent is given up after [`WATCH`] and some, so that a connection that
//!    died without a word is noticed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use tokio::time::sleep;

use super::super::{Failure, Found, PAUSE_MIN};
use super::{Api, encoded};

/// How long the server is asked to watch: short, so that dead connections are noticed; long
/// enough to be nothing to a server that sees it once a minute from each pod.
const WATCH: Duration = Duration::from_secs(60);
/// What a slow server may add to that.
const GRACE: Duration = Duration::from_secs(15);
const GONE: u16 = 410;

/// The pods of a namespace with certain labels.
#[derive(Clone, Debug)]
pub struct Pods {
    /// Whom to ask.
    pub api: Api,
    /// Labels, as in `kubectl get pods -l`.
    pub selector: String,
    /// The UDP port on which nodes listen.
    pub port: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    name: String,
    #[serde(default)]
    resource_version: String,
    deletion_timestamp: Option<String>,
}

#[derive(Default, Deserialize)]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<IpAddr>,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Meta,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct PodList {
    metadata: Meta,
    #[serde(default)]
    items: Vec<Pod>,
}

#[derive(Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
enum Event {
    Added(Pod),
    Modified(Pod),
    Deleted(Pod),
    Bookmark(Bookmark),
    Error(Fault),
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: Meta,
}

#[derive(Deserialize)]
struct Fault {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

impl Pod {
    /// Its address, if it counts.
    fn address(&self) -> Option<IpAddr> {
        let ended = matches!(self.status.phase.as_deref(), Some("Failed" | "Succeeded"));
        let leaving = self.metadata.deletion_timestamp.is_some();
        self.status.pod_ip.filter(|_| !ended && !leaving)
    }
}

/// What is known of the pods, and up to which version.
#[derive(Default)]
struct Known {
    pods: BTreeMap<String, IpAddr>,
    version: String,
}

impl Known {
    fn of(list: PodList) -> Self {
        let mut known = Self { version: list.metadata.resource_version, ..Self::default() };
        list.items.into_iter().for_each(|pod| known.put(pod));
        known
    }

    fn put(&mut self, pod: Pod) {
        match pod.address() {
            Some(address) => drop(self.pods.insert(pod.metadata.name, address)),
            None => drop(self.pods.remove(&pod.metadata.name)),
        }
    }

    /// Takes an event; `Err` is what the server complains of.
    fn take(&mut self, event: Event) -> Result<(), Fault> {
        let version = match event {
            Event::Error(fault) => return Err(fault),
            Event::Bookmark(bookmark) => bookmark.metadata.resource_version,
            Event::Deleted(pod) => {
                self.pods.remove(&pod.metadata.name);
                pod.metadata.resource_version
            }
            Event::Added(pod) | Event::Modified(pod) => {
                let version = pod.metadata.resource_version.clone();
                self.put(pod);
                version
            }
        };
        self.version = version;
        Ok(())
    }
}

impl Pods {
    /// Asks for ever.
    pub(in super::super) async fn watch(&self, found: &mut Found) {
        let mut known = None;
        loop {
            match self.turn(&mut known, found).await {
                // Not at once: a server that ends every watch is not to be asked in a circle.
                Ok(()) => sleep(PAUSE_MIN).await,
                Err(failure) => found.tries.after(&failure).await,
            }
        }
    }

    /// Lists if nothing is known, then watches until the watch ends.
    async fn turn(&self, state: &mut Option<Known>, found: &mut Found) -> Result<(), Failure> {
        if state.is_none() {
            *state = Some(self.list().await?);
        }
        let Some(known) = state else { return Ok(()) };
        self.publish(known, found);
        let ended = self.follow(known, found).await;
        if ended.as_ref().is_err_and(Failure::is_final) {
            *state = None;
        }
        match ended {
            Err(Failure::Refused { status: GONE, .. }) => Ok(()),
            other => other,
        }
    }

    async fn list(&self) -> Result<Known, Failure> {
        let path = self.api.path(&format!("pods?labelSelector={}", encoded(&self.selector)));
        let list: PodList = self.api.server.ask(Method::GET, &path, None::<&()>).await?;
        Ok(Known::of(list))
    }

    async fn follow(&self, known: &mut Known, found: &mut Found) -> Result<(), Failure> {
        let path = self.api.path(&format!(
            "pods?labelSelector={}&watch=true&allowWatchBookmarks=true&timeoutSeconds={}\
             &resourceVersion={}",
            encoded(&self.selector),
            WATCH.as_secs(),
            encoded(&known.version)
        ));
        let server = &self.api.server;
        let mut lines = server.stream(Method::GET, &path, None::<&()>, WATCH + GRACE).await?;
        while let Some(event) = lines.next().await? {
            let fault = |fault: Fault| Failure::Refused {
                url: server.url().into(),
                status: fault.code,
                why: fault.message,
            };
            known.take(event).map_err(fault)?;
            self.publish(known, found);
        }
        Ok(())
    }

    fn publish(&self, known: &Known, found: &mut Found) {
        let pods = known.pods.values();
        found.set(pods.map(|host| SocketAddr::new(*host, self.port).to_string()).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Event {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn only_pods_that_run_and_stay_count() {
        let mut known = Known::default();
        let put = |known: &mut Known, rest: &str| {
            let pod = format!(r#"{{"metadata":{{"name":"a","resourceVersion":"7"{rest}}}"#);
            assert!(known.take(event(&format!(r#"{{"type":"MODIFIED","object":{pod}}}"#))).is_ok());
            known.pods.len()
        };
        let running = r#"},"status":{"phase":"Running","podIP":"10.0.0.1"}"#;
        for rest in [
            r#"},"status":{"phase":"Pending"}"#,
            r#"},"status":{"phase":"Failed","podIP":"10.0.0.1"}"#,
            r#"},"status":{"phase":"Succeeded","podIP":"10.0.0.1"}"#,
            r#","deletionTimestamp":"2026-01-01T00:00:00Z"},"status":{"podIP":"10.0.0.1"}"#,
            r#"}"#,
        ] {
            assert_eq!(put(&mut known, running), 1);
            assert_eq!(put(&mut known, rest), 0, "{rest}");
        }
    }

    #[test]
    fn a_complaint_changes_nothing() {
        let mut known = Known { version: "5".into(), ..Known::default() };
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#;
        let fault = known.take(event(gone)).map(drop).unwrap_err();
        assert_eq!((fault.code, &*known.version), (410, "5"));
        let mark = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#;
        assert!(known.take(event(mark)).is_ok());
        assert_eq!(known.version, "9");
    }
}
