//! Batches of operations that several nodes hold.

use serde_json::{Value, json};

use crate::common::{Answer, problem};
use crate::region::{Region, SHORT, path_in};

fn increment(slot: u16) -> Value {
    json!({"method": "POST", "path": path_in(slot), "body": {"increment": 1}})
}

/// Status and value, or code, of each operation.
fn results(answer: &Answer) -> Vec<(u64, Value)> {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let json = answer.json();
    let results = json["results"].as_array().expect("results").iter();
    results
        .map(|result| {
            let (status, body) = (result["status"].as_u64().expect("a status"), &result["body"]);
            let what = if status == 200 { &body["value"] } else { &body["code"] };
            (status, what.clone())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_operation_is_done_where_it_is_held_and_answered_in_its_place() {
    let region = Region::start(3).await;
    region.place(|slot| vec![usize::from(slot) % 3]).await;
    let exact = "170141183460469231731687303715884105727";
    let mut operations: Vec<Value> = (0..6).map(increment).collect();
    operations.push(json!({"method": "POST", "path": "/v1/widgets/a/b", "body": 1}));
    operations.extend((0..3).map(increment));
    operations.push(json!({"method": "POST", "path": path_in(1), "body": {"increment": "x"}}));
    operations.push(json!({"method": "DELETE", "path": path_in(2)}));
    let big = json!({"method": "POST", "path": path_in(40), "body": {"increment": exact}});
    operations.push(big);
    for at in 0..3u64 {
        let surface = region.surface(at as usize);
        let answer = surface.post("/v1/batch", json!({"operations": operations})).await;
        let one = |times: u64| (200, Value::from(at * times + 1));
        let mut expected: Vec<_> = vec![one(2), one(2), (200, 1.into()), one(1), one(1), one(1)];
        expected.push((404, "unknown-kind".into()));
        expected.extend([(200, (at * 2 + 2).into()), (200, (at * 2 + 2).into()), (200, 2.into())]);
        expected.push((400, "bad-request".into()));
        expected.push((200, Value::Null));
        let got = results(&answer);
        assert_eq!(got[..12], expected[..]);
        match at {
            0 => assert_eq!(got[12], (200, exact.into()), "no digit is lost"),
            _ => assert_eq!(got[12], (422, "counter-overflow".into())),
        }
        let bad = &answer.json()["results"][10]["body"];
        assert!(bad["detail"].as_str().is_some_and(|text| text.starts_with("operations[10]")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_those_of_places_in_the_whole_batch() {
    let region = Region::start(3).await;
    region.place(|slot| vec![usize::from(slot) % 3]).await;
    let operations: Vec<Value> = (0..9).map(increment).collect();
    let body = json!({"operations": operations}).to_string();
    let key = [("idempotency-key", "k")];
    for at in [0, 1, 2, 0] {
        let answer = region.surface(at).ask("POST", "/v1/batch", &key, &body).await;
        assert_eq!(results(&answer), vec![(200, 1.into()); 9], "each counts once");
    }
    // The operation alone, with the key of its place, is the same request.
    let single = [("idempotency-key", "k/4")];
    let answer = region.surface(0).ask("POST", &path_in(4), &single, r#"{"increment":1}"#).await;
    assert_eq!((answer.header("idempotent-replay"), &answer.json()["value"]), ("true", &1.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_does_not_do_spoils_no_other() {
    let mut region = Region::start(4).await;
    // Node 0 holds nothing of what node 3 believes, and node 1 dies.
    region.place_at(3, |slot| vec![[3, 0, 1][usize::from(slot) % 3]]).await;
    region.place_at(0, |_| vec![]).await;
    region.members[1].peer.kill();
    let body = json!({"operations": (0..6).map(increment).collect::<Vec<_>>()}).to_string();
    let path = format!("/v1/batch?timeout={}", SHORT.as_millis());
    let answer = region.surface(3).ask("POST", &path, &[], &body).await;
    let got = results(&answer);
    for slot in [0, 3] {
        assert_eq!(got[slot], (200, 1.into()));
        assert_eq!(got[slot + 1], (503, "not-a-replica".into()));
        let (status, code) = &got[slot + 2];
        let outcome = &answer.json()["results"][slot + 2]["body"]["outcome"];
        let unsent = (&"replica-unreachable".into(), &"not-applied".into());
        match status {
            504 => assert_eq!((code, outcome), (&"no-answer".into(), &"unknown".into())),
            _ => assert_eq!((code, outcome), unsent),
        }
    }
    // A second holder does what the first refuses, or never got.
    region
        .place_at(3, |slot| [vec![3], vec![0, 2], vec![1, 2]][usize::from(slot) % 3].clone())
        .await;
    let key = [("idempotency-key", "k")];
    let answer = region.surface(3).ask("POST", "/v1/batch", &key, &body).await;
    let expected = [2, 1, 1, 2, 1, 1].map(|value| (200, Value::from(value)));
    assert_eq!(results(&answer), expected);

    let spoofed = [("atoll-places", "0")];
    let answer = region.surface(3).ask("POST", "/v1/batch", &spoofed, &body).await;
    assert_eq!(results(&answer)[0], (200, 3.into()), "what clients say of places is not heard");
    problem(&region.surface(3).post("/v1/batch", json!({})).await, 400, "bad-request");
}
