//! The bare servers that Atoll is measured against, `atoll bench-baseline`.
//!
//! `GET` answers bytes from memory. `POST` parses its body, appends 100 bytes to a file, waits
//! until one fdatasync that it may share with others has covered them, and answers the bytes.
//! That is the least a durable write can do.
//!
//! Left out: everything a store does beyond it.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use clap::Args;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::cli::Failure;

/// What a write appends.
const RECORD: [u8; 100] = [b'x'; 100];
/// Writes under one fdatasync at most.
const GROUP: usize = 4096;

/// Arguments of `bench-baseline`.
#[derive(Debug, Args)]
pub struct Options {
    /// Where to serve.
    #[arg(long)]
    listen: SocketAddr,
    /// File with the bytes to answer.
    #[arg(long)]
    answer: PathBuf,
    /// File to append to.
    #[arg(long)]
    log: PathBuf,
}

#[derive(Clone)]
struct Bare {
    answer: Bytes,
    appends: mpsc::SyncSender<oneshot::Sender<bool>>,
}

/// Serves until standard input ends.
pub async fn run(options: Options) -> Result<(), Failure> {
    let answer = std::fs::read(&options.answer).map_err(Failure::of("answer"))?;
    let log = File::options().create(true).append(true).open(&options.log);
    let log = log.map_err(Failure::of("log"))?;
    let (appends, received) = mpsc::sync_channel(GROUP);
    std::thread::spawn(move || commit(log, &received));
    let router = Router::new()
        .route("/readyz", get(|| async { "{}" }))
        .route("/{*path}", get(read).post(write))
        .with_state(Bare { answer: answer.into(), appends });
    let listener = tokio::net::TcpListener::bind(options.listen).await;
    let listener = listener.map_err(Failure::of("listen"))?;
    let stopped = crate::cli::serve::stopped(true)?;
    tokio::select! {
        served = axum::serve(axum::serve::ListenerExt::tap_io(listener, |stream| {
            // Nagle's delay would measure the kernel's timer.
            let _ = stream.set_nodelay(true);
        }), router) => served.map_err(Failure::of("serve")),
        () = stopped => Ok(()),
    }
}

fn commit(mut log: File, received: &mpsc::Receiver<oneshot::Sender<bool>>) {
    while let Ok(first) = received.recv() {
        let mut waiting = vec![first];
        waiting.extend(received.try_iter().take(GROUP - 1));
        let bytes = RECORD.repeat(waiting.len());
        let durable = log.write_all(&bytes).and_then(|()| log.sync_data()).is_ok();
        for writer in waiting {
            // A client that went away waits no more.
            let _ = writer.send(durable);
        }
    }
}

async fn read(State(bare): State<Bare>) -> Response {
    answer(&bare)
}

async fn write(State(bare): State<Bare>, body: Bytes) -> Response {
    let parsed: Result<Value, _> = serde_json::from_slice(&body);
    if !parsed.is_ok_and(|operation| operation["increment"].is_i64()) {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let (done, durable) = oneshot::channel();
    match bare.appends.try_send(done) {
        Ok(()) if durable.await == Ok(true) => answer(&bare),
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

fn answer(bare: &Bare) -> Response {
    ([(CONTENT_TYPE, "application/json")], bare.answer.clone()).into_response()
}
