//! Lists of collections that no node holds alone.

use serde_json::json;

use crate::common::{Surface, problem};
use crate::region::{Region, connect};

/// Writes the same entities to a region, through any of its nodes, and to a node that is alone.
async fn fill(region: &Region, alone: &Surface) {
    for number in 0..90u32 {
        let value = json!({"n": number, "large": 12_345_678_901_u64, "text": "a \" \\ é"});
        let path =
            format!("/v1/registers/c/{}%2F{number:03}", ["a", "b", "é"][number as usize % 3]);
        let near = region.surface(number as usize % region.members.len());
        for surface in [near, alone] {
            let put = surface.ask("PUT", &path, &[], &value.to_string()).await;
            assert_eq!(put.status, 200, "{}", put.text);
        }
    }
    let gone = "/v1/registers/c/a%2F003";
    for surface in [region.surface(0), alone] {
        assert_eq!(surface.ask("DELETE", gone, &[], "").await.status, 200);
    }
}

/// A page with the versions left out: each copy has its own.
fn unversioned(text: &str) -> String {
    let mut parts = text.split("\"version\":\"");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (version, rest) = part.split_once('"').expect("a version");
        assert_eq!(version.len(), 32);
        out.push_str(rest);
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_that_of_a_node_which_has_everything() {
    let region = Region::start(3).await;
    region.place(|slot| vec![usize::from(slot) % 3]).await;
    let alone = Surface::start().await;
    fill(&region, &alone).await;
    for query in ["?", "?values=true", "?prefix=b/&limit=7", "?limit=1000", "?prefix=none"] {
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/registers/c{query}{cursor}");
            let expected = alone.get(&path).await;
            assert_eq!(expected.status, 200, "{}", expected.text);
            for at in 0..3 {
                let answer = region.surface(at).get(&path).await;
                assert_eq!(answer.status, 200, "{}", answer.text);
                assert_eq!(unversioned(&answer.text), unversioned(&expected.text), "{path}");
            }
            match expected.json()["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
    }
    let near = region.surface(0);
    problem(&near.get("/v1/registers/c?limit=0").await, 400, "bad-request");
    problem(&near.get("/v1/registers/c?cursor=!").await, 400, "bad-request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_never_a_part_of_one() {
    let mut region = Region::start(3).await;
    region.place(|slot| vec![usize::from(slot) % 3]).await;
    fill(&region, &Surface::start().await).await;
    let whole = "/v1/registers/c?limit=1000";
    let count = |text: &str| text.matches("\"id\"").count();
    assert_eq!(count(&region.surface(0).get(whole).await.text), 89);
    // What clients say of slots is not heard.
    let spoofed = region.surface(0).ask("GET", whole, &[("atoll-slots", "0")], "").await;
    assert_eq!(count(&spoofed.text), 89);

    // Node 2 gives up what the others believe that it holds.
    region.place_at(2, |_| vec![]).await;
    for at in 0..2 {
        problem(&region.surface(at).get(whole).await, 503, "replica-unreachable");
    }
    // Others hold it too: they are asked instead.
    region.place(|slot| vec![0, 1 + usize::from(slot) % 2]).await;
    region.place_at(0, |_| vec![]).await;
    for at in 1..3 {
        let answer = region.surface(at).get(whole).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    // A node that dies is noticed by its silence.
    region.place(|slot| vec![usize::from(slot) % 3]).await;
    region.members[2].peer.kill();
    let answer = region.surface(0).get(whole).await;
    let code = answer.json()["code"].clone();
    assert!(code == "no-answer" || code == "replica-unreachable", "{}", answer.text);
    assert_eq!(answer.json()["outcome"], "not-applied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_anything_lists_everything() {
    let region = Region::start(3).await;
    region.place(|slot| vec![1 + usize::from(slot) % 2]).await;
    let alone = Surface::start().await;
    fill(&region, &alone).await;
    let path = "/v1/registers/c?values=true&limit=50";
    let (answer, expected) = (region.surface(0).get(path).await, alone.get(path).await);
    assert_eq!(unversioned(&answer.text), unversioned(&expected.text));
    // One that nobody is connected to has nobody to ask.
    let lonely = Region::start(1).await;
    lonely.place(|_| vec![]).await;
    problem(&lonely.surface(0).get(path).await, 503, "replica-unreachable");
    connect(&[&lonely.members[0].peer]).await;
}
