//! How a running demo is told what to do: JSON over HTTP on the base port, loopback only.
//!
//! Invariant: a change needs `content-type: application/json`, which no web page can send to
//! another origin without being allowed to; so none can cut or kill.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::supervisor::Supervisor;
use super::{Action, region};
use crate::cli::output::{Paint, paint, plain, table};
use crate::cli::{Failure, Output};
use crate::client::{Call, Client, ClientError};

/// Serves until aborted.
pub(super) async fn serve(listener: TcpListener, supervisor: Supervisor) {
    let router = Router::new()
        .route(
            "/status",
            get(|State(s): State<Supervisor>| async move { answer(Ok(s.status().await)) }),
        )
        .route("/{verb}", post(change))
        .route("/{verb}/{*rest}", post(change))
        .with_state(supervisor);
    // Accepting fails only when the process runs out of files; the demo then goes on without it.
    drop(axum::serve(listener, router).await);
}

async fn change(
    State(supervisor): State<Supervisor>,
    Path(path): Path<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    if headers.get(CONTENT_TYPE).is_none_or(|value| value != "application/json") {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let words: Vec<&str> = path.iter().flat_map(|(_, part)| part.split('/')).collect();
    // A task: a change that was begun is finished even if nobody waits for it any more.
    let words: Vec<String> = words.into_iter().map(String::from).collect();
    let done = tokio::spawn(async move { act_on(&supervisor, &words).await });
    answer(done.await.unwrap_or_else(|e| Err(Failure::failed(e.to_string()))))
}

async fn act_on(supervisor: &Supervisor, words: &[String]) -> Result<Value, Failure> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["partition", a, b] => {
            supervisor.link(region(a)?, region(b)?, true)?;
            format!("cut {a} and {b}")
        }
        ["heal", a, b] => {
            supervisor.link(region(a)?, region(b)?, false)?;
            format!("mended {a} and {b}")
        }
        ["heal"] => {
            supervisor.heal();
            "mended all links".into()
        }
        ["kill", node] => {
            supervisor.kill(node).await?;
            format!("killed {node}")
        }
        ["start", node] => {
            supervisor.start(node).await?;
            format!("{node} is ready")
        }
        ["add", name] => format!("{} is ready", supervisor.add(region(name)?).await?),
        ["stop"] => {
            supervisor.stop().await;
            let supervisor = supervisor.clone();
            tokio::spawn(async move {
                // Long enough for the answer to leave, too short to notice.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                supervisor.answer();
            });
            "stopped".into()
        }
        _ => return Err(Failure::Usage("the demo knows no such command".into())),
    };
    Ok(json!({"done": done}))
}

fn answer(result: Result<Value, Failure>) -> Response {
    let (status, body) = match result {
        Ok(body) => (StatusCode::OK, body),
        Err(failure) => {
            let status = match &failure {
                Failure::Usage(_) => StatusCode::BAD_REQUEST,
                _ => StatusCode::CONFLICT,
            };
            (status, json!({"detail": failure.to_string(), "status": status.as_u16()}))
        }
    };
    (status, [(CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

/// Asks the running demo, and prints what it did.
pub(super) async fn act(base: u16, action: &Action, output: Output) -> Result<(), Failure> {
    let client = Client::new(&format!("http://127.0.0.1:{base}"))?;
    let segment = crate::cli::entity::segment;
    let path = match action {
        Action::Status => "/status".into(),
        Action::Partition { a, b } => format!("/partition/{}/{}", segment(a), segment(b)),
        Action::Heal { between } => match between.as_slice() {
            [] => "/heal".into(),
            [a, b] => format!("/heal/{}/{}", segment(a), segment(b)),
            _ => return Err(Failure::Usage("heal takes two regions, or none".into())),
        },
        Action::Kill { node } => format!("/kill/{}", segment(node)),
        Action::Start { node } => format!("/start/{}", segment(node)),
        Action::Add { region } => format!("/add/{}", segment(region)),
        Action::Stop => "/stop".into(),
    };
    let call = match action {
        Action::Status => Call::get(path),
        _ => Call::post(path, json!({})),
    };
    let body = match client.call(&call).await {
        Ok(answer) => answer.body,
        Err(ClientError::Unreachable { .. }) => {
            return Err(Failure::Unreachable(format!("no demo runs at base port {base}")));
        }
        Err(ClientError::Refused(problem)) if problem.status == 400 => {
            return Err(Failure::Usage(problem.detail));
        }
        Err(ClientError::Refused(problem)) => return Err(Failure::Failed(problem.detail)),
        Err(error) => return Err(error.into()),
    };
    match (output, action) {
        (Output::Json, _) => println!("{body}"),
        (Output::Table, Action::Status) => print!("{}", render(&body)),
        (Output::Table, _) => println!("{}", plain(&body["done"])),
    }
    Ok(())
}

fn render(status: &Value) -> String {
    let mut rows = vec![["NODE", "REGION", "STATE", "HTTP", "PID"].map(String::from).to_vec()];
    for node in status["nodes"].as_array().into_iter().flatten() {
        let pid = node["pid"].as_u64().map_or("-".into(), |pid| pid.to_string());
        let cell = |name: &str| plain(&node[name]);
        let state = state(&cell("state"));
        rows.push(vec![cell("name"), cell("region"), state, cell("http"), pid]);
    }
    let mut text = table(&rows);
    for link in status["links"].as_array().into_iter().flatten() {
        let between = format!("{}-{}", plain(&link["between"][0]), plain(&link["between"][1]));
        let how = match link["cut"] == true {
            true => paint(Paint::Red, "cut"),
            false => format!("{} ms", link["rtt_ms"]),
        };
        text.push_str(&format!("{between}  {how}\n"));
    }
    text.push_str(match status["digests_equal"] == true {
        true => "all running nodes hold the same data\n",
        false => "running nodes differ\n",
    });
    text
}

/// A node's state in its colour.
pub(super) fn state(state: &str) -> String {
    let colour = match state {
        "up" => Paint::Green,
        "down" => Paint::Red,
        _ => Paint::Yellow,
    };
    paint(colour, state)
}
