//! A member of the cluster that sends garbage to those who answer requests.

use axum::Router;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::region::{Peer, Region, connect, path_in};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_in_streams_affects_nobody_else() {
    let region = Region::start(2).await;
    region.place(|_| vec![1]).await;
    let path = path_in(5);
    let hostile = Peer::stranger(&region, Router::new());
    connect(&[&hostile, &region.members[1].peer]).await;
    let target = region.id(1);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut held = Vec::new();
    for number in 0..200u32 {
        let mut stream = hostile.quic.open(target).await.expect("connected");
        let garbage = match number % 4 {
            0 => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            1 => [&preface[..], &[0xff; 64]].concat(),
            2 => preface[..9].to_vec(),
            _ => vec![0; 4096],
        };
        // The other side may have had enough already.
        let _ = stream.write_all(&garbage).await;
        match number % 4 {
            // Left open, and silent.
            2 if held.len() < 40 => held.push(stream),
            2 => drop(stream),
            _ => {
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
        let answer = region.surface(0).post(&path, json!({"increment": 1})).await;
        assert_eq!((answer.status, &answer.json()["value"]), (200, &(number + 1).into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_opens_no_more_streams_than_it_may() {
    let region = Region::start(1).await;
    let hostile = Peer::stranger(&region, Router::new());
    connect(&[&hostile, &region.members[0].peer]).await;
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut stream = hostile.quic.open(region.id(0)).await.expect("connected");
        stream.write_all(b"PRI").await.expect("taken");
        held.push(stream);
    }
    let more = hostile.quic.open(region.id(0));
    let more = tokio::time::timeout(crate::region::SHORT, more).await;
    assert!(more.is_err(), "it waits");
    held.clear();
    let freed = tokio::time::timeout(crate::common::DEADLINE, hostile.quic.open(region.id(0)));
    assert!(freed.await.expect("in time").is_ok());
}
