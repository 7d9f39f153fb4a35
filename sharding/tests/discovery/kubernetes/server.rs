//! An API server over HTTPS, as much of one as discovery asks: pods in a list and as a watch, and
//! ConfigMaps.
//!
//! Objects, statuses and lines have the real format. What a test decides: which pods there are,
//! which history is forgotten, when watches are cut, which token is good.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use atoll_sharding::discovery::kubernetes::Api;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;

use super::super::PATIENCE;

const POD: &str = include_str!("../data/pod.json");
const PODS: &str = "/api/v1/namespaces/sea/pods";
const MAPS: &str = "/api/v1/namespaces/sea/configmaps";
/// `app.kubernetes.io/name=atoll`, as it is in a query.
const SELECTED: &str = "labelSelector=app%2Ekubernetes%2Eio%2Fname%3Datoll";

/// What the server holds, and what it was asked.
#[derive(Default)]
pub(super) struct State {
    version: u64,
    pods: BTreeMap<String, Value>,
    maps: BTreeMap<String, Value>,
    /// Lines of watches, with their versions.
    history: Vec<(u64, String)>,
    /// Versions below it are forgotten.
    pub(super) oldest: u64,
    /// Forgotten versions are refused by status, not by an event.
    pub(super) gone_by_status: bool,
    pub(super) token: String,
    /// What may not be done, as `POST`.
    pub(super) forbidden: Option<Method>,
    /// Somebody else writes this record into a ConfigMap just before the next PUT.
    pub(super) overtaken: Option<(String, String)>,
    /// Watches end when it rises.
    cuts: usize,
    /// Method and target of each request, with the status that was answered.
    pub(super) asked: Vec<(String, u16)>,
    /// Watches that are open.
    pub(super) watches: usize,
}

/// The server, with the files that its clients need.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) state: Arc<watch::Sender<State>>,
    address: SocketAddr,
    files: Arc<TempDir>,
}

/// An answer's body: chunks as they come; cut off when `None` comes.
struct Chunks(mpsc::UnboundedReceiver<Option<Bytes>>);

#[derive(Debug, thiserror::Error)]
#[error("cut")]
struct Cut;

impl Body for Chunks {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.0.poll_recv(context).map(|chunk| {
            Some(match chunk? {
                Some(bytes) => Ok(Frame::data(bytes)),
                None => Err(Cut),
            })
        })
    }
}

type Answer = (u16, mpsc::UnboundedReceiver<Option<Bytes>>);

fn whole(status: u16, body: &Value) -> Answer {
    let (send, receive) = mpsc::unbounded_channel();
    send.send(Some(body.to_string().into())).expect("the receiver is here");
    (status, receive)
}

/// A failure, in the words of the real server.
fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

fn refusal(code: u16, reason: &str, message: &str) -> Answer {
    whole(code, &status(code, reason, message))
}

impl Server {
    pub(super) async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let files = Arc::new(tempfile::tempdir().expect("a directory"));
        let key = KeyPair::generate().expect("a key");
        let names = vec!["127.0.0.1".to_owned(), "kubernetes.default.svc".to_owned()];
        let params = CertificateParams::new(names).expect("good names");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(files.path().join("ca.crt"), certificate.pem()).expect("written");
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("good versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .expect("a good certificate");
        let state = Arc::new(watch::Sender::new(State { version: 100, ..State::default() }));
        let server = Server { state, address, files };
        server.rotate("first");
        server.write_token("first");
        tokio::spawn(server.clone().accept(listener, TlsAcceptor::from(Arc::new(config))));
        server
    }

    async fn accept(self, listener: TcpListener, tls: TlsAcceptor) {
        while let Ok((stream, _)) = listener.accept().await {
            let (server, tls) = (self.clone(), tls.clone());
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = service_fn(move |request| server.clone().serve(request));
                let http = hyper::server::conn::http1::Builder::new();
                // A client that goes away, or a cut, ends in an error here.
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    async fn serve(self, request: Request<Incoming>) -> Result<Response<Chunks>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let target = head.uri.to_string();
        let token = head.headers.get("authorization").and_then(|value| value.to_str().ok());
        let (code, body) = self.answer(&head.method, &target, token, &body);
        self.state
            .send_modify(|state| state.asked.push((format!("{} {target}", head.method), code)));
        let mut response = Response::new(Chunks(body));
        *response.status_mut() = code.try_into().expect("a status");
        Ok(response)
    }

    fn answer(&self, method: &Method, target: &str, token: Option<&str>, body: &[u8]) -> Answer {
        let state = self.state.borrow();
        let good = token == Some(&format!("Bearer {}", state.token));
        let forbidden = state.forbidden.as_ref() == Some(method);
        drop(state);
        if !good {
            return refusal(401, "Unauthorized", "Unauthorized");
        }
        if forbidden {
            let message = "configmaps is forbidden: User \"system:serviceaccount:sea:atoll\" \
                           cannot create resource \"configmaps\" in API group \"\" in the \
                           namespace \"sea\"";
            return refusal(403, "Forbidden", message);
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        match (method.as_str(), path) {
            ("GET", PODS) if query.contains("watch=true") => self.watch(query),
            ("GET", PODS) => self.list(query),
            ("POST", MAPS) => self.create(body),
            ("GET", _) => self.read(path),
            ("PUT", _) => {
                self.overtake();
                self.replace(path, body)
            }
            _ => refusal(404, "NotFound", "the server could not find the requested resource"),
        }
    }

    fn list(&self, query: &str) -> Answer {
        let state = self.state.borrow();
        let selected = query.split('&').any(|part| part == SELECTED);
        let items: Vec<_> = state.pods.values().filter(|_| selected).cloned().collect();
        let metadata = json!({ "resourceVersion": state.version.to_string() });
        let list =
            json!({ "kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items });
        whole(200, &list)
    }

    /// Lines behind the asked version, until a cut.
    fn watch(&self, query: &str) -> Answer {
        let value = |key: &str| query.split('&').find_map(|part| part.strip_prefix(key));
        let asked = value("resourceVersion=").and_then(|version| version.parse().ok());
        let mut version: u64 = asked.expect("a version");
        assert_eq!(value("allowWatchBookmarks="), Some("true"));
        let (send, receive) = mpsc::unbounded_channel();
        let state = self.state.borrow();
        if version < state.oldest {
            let message = format!("too old resource version: {version} ({})", state.oldest);
            let gone = status(410, "Expired", &message);
            if state.gone_by_status {
                return whole(410, &gone);
            }
            let line = format!("{}\n", json!({ "type": "ERROR", "object": gone }));
            send.send(Some(line.into())).expect("the receiver is here");
            return (200, receive);
        }
        let (cuts, shared) = (state.cuts, Arc::clone(&self.state));
        drop(state);
        tokio::spawn(async move {
            shared.send_modify(|state| state.watches += 1);
            let mut changes = shared.subscribe();
            loop {
                let (lines, cut) = {
                    let state = changes.borrow_and_update();
                    let new = state.history.iter().filter(|(at, _)| *at > version);
                    (new.cloned().collect::<Vec<_>>(), state.cuts > cuts)
                };
                for (at, line) in lines {
                    version = at;
                    // In two pieces: nothing says that a line comes in one.
                    let (one, two) = line.split_at(line.len() / 2);
                    for piece in [one.to_owned(), two.to_owned()] {
                        let _ = send.send(Some(piece.into()));
                    }
                }
                if cut {
                    let _ = send.send(Some(r#"{"type":"MODIFIED","object":{"kind":"#.into()));
                    let _ = send.send(None);
                }
                let ended = tokio::select! {
                    () = send.closed() => true,
                    _ = changes.changed() => false,
                };
                if cut || ended {
                    break;
                }
            }
            shared.send_modify(|state| state.watches -= 1);
        });
        (200, receive)
    }

    fn create(&self, body: &[u8]) -> Answer {
        let mut object: Value = serde_json::from_slice(body).expect("an object");
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let mut answer = None;
        self.state.send_modify(|state| {
            if state.maps.contains_key(&name) {
                let message = format!("configmaps \"{name}\" already exists");
                answer = Some(refusal(409, "AlreadyExists", &message));
                return;
            }
            state.version += 1;
            object["metadata"]["namespace"] = json!("sea");
            object["metadata"]["uid"] = json!("b4b7a1b8-5c1a-4a53-9c8e-0d2f4b8f6a10");
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            answer = Some(whole(201, &object));
            state.maps.insert(name.clone(), object);
        });
        answer.expect("answered")
    }

    fn overtake(&self) {
        let mut overtaken = None;
        self.state.send_modify(|state| overtaken = state.overtaken.take());
        if let Some((name, record)) = overtaken {
            self.edit(&name, |map| map["data"]["record"] = json!(record));
        }
    }

    fn read(&self, path: &str) -> Answer {
        let name = path.rsplit('/').next().unwrap_or_default();
        match self.state.borrow().maps.get(name) {
            Some(object) => whole(200, object),
            None => refusal(404, "NotFound", &format!("configmaps \"{name}\" not found")),
        }
    }

    fn replace(&self, path: &str, body: &[u8]) -> Answer {
        let name = path.rsplit('/').next().unwrap_or_default();
        let mut object: Value = serde_json::from_slice(body).expect("an object");
        let mut answer = None;
        self.state.send_modify(|state| {
            let there = &state.maps[name]["metadata"]["resourceVersion"];
            let read = &object["metadata"]["resourceVersion"];
            // Without a version it replaces whatever is there.
            if !read.is_null() && read != there {
                let message = format!(
                    "Operation cannot be fulfilled on configmaps \"{name}\": the object has been \
                     modified; please apply your changes to the latest version and try again"
                );
                answer = Some(refusal(409, "Conflict", &message));
                return;
            }
            state.version += 1;
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            answer = Some(whole(200, &object));
            state.maps.insert(name.to_owned(), object);
        });
        answer.expect("answered")
    }

    /// Whom to ask, with good files.
    pub(super) fn api(&self) -> Api {
        self.api_with(self.authority())
    }

    /// Who signed its certificate: itself.
    pub(super) fn authority(&self) -> PathBuf {
        self.files.path().join("ca.crt")
    }

    /// The same, trusting another authority.
    pub(super) fn api_with(&self, authority: PathBuf) -> Api {
        let url = format!("https://{}", self.address);
        Api::new(&url, "sea", self.files.path().join("token"), authority).expect("a good URL")
    }

    /// From now on this token is good, and no other.
    pub(super) fn rotate(&self, token: &str) {
        self.state.send_modify(|state| state.token = token.to_owned());
    }

    /// What the kubelet does: replaces the mounted token.
    pub(super) fn write_token(&self, token: &str) {
        let path = self.files.path().join("token");
        std::fs::write(path, format!("{token}\n")).expect("written");
    }

    /// A pod that runs under this address, changed by `change`.
    pub(super) fn put(&self, name: &str, ip: &str, change: impl Fn(&mut Value)) {
        let text = POD.replace("\"NAME\"", &json!(name).to_string());
        let mut pod: Value =
            serde_json::from_str(&text.replace("\"IP\"", &json!(ip).to_string())).expect("a pod");
        change(&mut pod);
        self.state.send_modify(|state| {
            state.version += 1;
            pod["metadata"]["resourceVersion"] = json!(state.version.to_string());
            let known = state.pods.insert(name.to_owned(), pod.clone()).is_some();
            state.line(if known { "MODIFIED" } else { "ADDED" }, pod);
        });
    }

    pub(super) fn delete(&self, name: &str) {
        self.state.send_modify(|state| {
            let mut pod = state.pods.remove(name).expect("it is there");
            state.version += 1;
            pod["metadata"]["resourceVersion"] = json!(state.version.to_string());
            state.line("DELETED", pod);
        });
    }

    /// Something else in the namespace changed: only the version rises.
    pub(super) fn bookmark(&self) -> u64 {
        self.state.send_modify(|state| {
            state.version += 10;
            let metadata =
                json!({ "resourceVersion": state.version.to_string(), "creationTimestamp": null });
            state.line("BOOKMARK", json!({ "metadata": metadata, "spec": { "containers": null } }));
        });
        self.state.borrow().version
    }

    /// Forgets all history.
    pub(super) fn forget(&self) {
        self.state.send_modify(|state| {
            state.history.clear();
            state.oldest = state.version;
        });
    }

    /// Ends all watches, within a line.
    pub(super) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Waits until the state is so.
    pub(super) async fn until(&self, what: &str, condition: impl FnMut(&State) -> bool) {
        let mut state = self.state.subscribe();
        let met = timeout(PATIENCE, state.wait_for(condition)).await;
        assert!(met.is_ok_and(|met| met.is_ok()), "not in time: {what}");
    }

    /// A ConfigMap as it is stored.
    pub(super) fn map(&self, name: &str) -> Value {
        self.state.borrow().maps[name].clone()
    }

    /// Somebody else changes a ConfigMap.
    pub(super) fn edit(&self, name: &str, change: impl Fn(&mut Value)) {
        self.state.send_modify(|state| {
            state.version += 1;
            let version = json!(state.version.to_string());
            let object = state.maps.get_mut(name).expect("it is there");
            change(object);
            object["metadata"]["resourceVersion"] = version;
        });
    }
}

impl State {
    fn line(&mut self, kind: &str, mut object: Value) {
        object["kind"] = json!("Pod");
        object["apiVersion"] = json!("v1");
        let line = format!("{}\n", json!({ "type": kind, "object": object }));
        self.history.push((self.version, line));
    }

    /// How many requests were answered so.
    pub(super) fn count(&self, request: &str, code: u16) -> usize {
        let fits = |(asked, status): &&(String, u16)| asked.contains(request) && *status == code;
        self.asked.iter().filter(fits).count()
    }
}
