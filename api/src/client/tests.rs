//! The client against a small server of our own.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use super::*;

async fn serve(router: Router) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Client::new(&url).expect("a good address")
}

#[test]
fn addresses() {
    for good in ["http://127.0.0.1:7401", "http://atoll.example/", "http://[::1]:1"] {
        assert!(Client::new(good).is_ok(), "{good}");
    }
    for bad in ["127.0.0.1:7401", "https://a:1", "http://a:1/path", "", "http://"] {
        assert!(matches!(Client::new(bad), Err(ClientError::Address(_))), "{bad}");
    }
}

#[tokio::test]
async fn answers_problems_and_silence() {
    let refuse = || async {
        let problem = json!({"code": "not-found", "detail": "no such entity", "status": 404});
        (StatusCode::NOT_FOUND, problem.to_string())
    };
    let router = Router::new()
        .route("/good", get(|| async { "{\"value\":7}" }).post(|body: String| async { body }))
        .route("/absent", get(refuse));
    let client = serve(router).await;
    assert_eq!(client.call(&Call::get("/good")).await.expect("good").body["value"], 7);
    let answer = client.call(&Call::post("/good", json!([1]))).await.expect("good");
    assert_eq!(answer.body, json!([1]));
    match client.call(&Call::get("/absent")).await {
        Err(ClientError::Refused(problem)) => {
            assert!(problem.is_absent());
            assert_eq!(problem.to_string(), "404 not-found: no such entity");
        }
        other => panic!("{other:?}"),
    }
    let nobody = Client::new("http://127.0.0.1:1").expect("a good address");
    let silence = nobody.call(&Call::get("/")).await;
    assert!(matches!(silence, Err(ClientError::Unreachable { .. })), "{silence:?}");
}

#[derive(Clone, Default)]
struct Opened(Arc<AtomicUsize>);

/// Sends one record a connection, then breaks off; the third refuses.
async fn breaking(State(opened): State<Opened>, headers: HeaderMap) -> Response {
    let turn = opened.0.fetch_add(1, Ordering::SeqCst);
    let since = headers.get("last-event-id").map(|v| v.to_str().expect("ASCII").to_string());
    if turn == 2 {
        return (StatusCode::GONE, json!({"code": "gone", "detail": since}).to_string())
            .into_response();
    }
    let record = json!({"event": "change", "cursor": format!("c{turn}"),
        "data": {"data": {"value": turn, "since": since}}});
    Body::from(format!("\n{record}\n{{\"event\":\"cut")).into_response()
}

#[tokio::test]
async fn a_broken_feed_resumes_after_its_cursor() {
    let router = Router::new().route("/feed", get(breaking)).with_state(Opened::default());
    let client = serve(router).await;
    let mut feed = Feed::new(client, Call::get("/feed"), None, true);
    let first = feed.next().await.expect("a record");
    assert_eq!(first.entity(), &json!({"value": 0, "since": null}));
    let second = feed.next().await.expect("a record");
    assert_eq!(second.entity(), &json!({"value": 1, "since": "c0"}));
    match feed.next().await {
        Err(ClientError::Refused(problem)) => assert_eq!(problem.detail, "c1"),
        other => panic!("{other:?}"),
    }
}
