//! The Kubernetes API: pods found and followed through all that goes wrong, and the ConfigMap
//! that says who forms a region.

mod server;

use atoll_replication::transport::NodeId;
use atoll_sharding::discovery::formation::{Formation, FormationError, Place, Record};
use atoll_sharding::discovery::kubernetes::Pods;
use atoll_sharding::discovery::{Failure, Method};
use serde_json::json;

use super::{
    Watching, a_founder_and_who_takes_over_are_not_both_confirmed,
    an_abandoned_record_is_taken_over, claim, one_of_many_forms, registration,
};
use server::Server;

const LIST: &str = "pods?labelSelector=app%2Ekubernetes%2Eio%2Fname%3Datoll";
const WATCH: &str = "watch=true";

fn watching(server: &Server) -> Watching {
    let selector = "app.kubernetes.io/name=atoll".to_owned();
    let pods = Pods { api: server.api(), selector, port: 7401 };
    Watching::start(Method::Kubernetes(pods), registration(1, "10.244.1.1:7401"))
}

/// How often the whole list was read.
fn lists(server: &Server) -> usize {
    let state = server.state.borrow();
    state.count(LIST, 200) - state.count(WATCH, 200)
}

#[tokio::test]
async fn pods_are_found_and_followed() {
    let server = Server::start().await;
    server.put("me", "10.244.1.1", |_| {});
    server.put("a", "10.244.1.2", |_| {});
    server.put("pending", "", |pod| {
        pod["status"] = json!({ "phase": "Pending", "qosClass": "Burstable" });
    });
    server.put("evicted", "10.244.1.9", |pod| pod["status"]["phase"] = json!("Failed"));
    server.put("leaving", "10.244.1.8", |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-03-02T09:20:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(60);
    });
    let mut watching = watching(&server);
    watching.sees(&["10.244.1.2:7401"]).await;
    server.put("pending", "fd00:10:244::7", |_| {});
    watching.sees(&["10.244.1.2:7401", "[fd00:10:244::7]:7401"]).await;
    server.put("b", "10.244.2.2", |_| {});
    server.put("a", "10.244.1.2", |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-03-02T09:20:00Z");
    });
    watching.sees(&["10.244.2.2:7401", "[fd00:10:244::7]:7401"]).await;
    server.delete("pending");
    watching.sees(&["10.244.2.2:7401"]).await;
    assert_eq!(lists(&server), 1, "what changes comes by the watch");
}

#[tokio::test]
async fn a_watch_that_is_cut_within_a_line_resumes() {
    let server = Server::start().await;
    server.put("a", "10.244.1.2", |_| {});
    let mut watching = watching(&server);
    server.put("b", "10.244.1.3", |_| {});
    watching.sees(&["10.244.1.2:7401", "10.244.1.3:7401"]).await;
    server.until("it watches", |state| state.watches == 1).await;
    server.cut();
    server.put("c", "10.244.1.4", |_| {});
    server.delete("a");
    watching.sees(&["10.244.1.3:7401", "10.244.1.4:7401"]).await;
    assert_eq!(lists(&server), 1, "a cut is no reason to read all again");
}

#[tokio::test]
async fn bookmarks_move_the_place_to_resume_from() {
    let server = Server::start().await;
    server.put("a", "10.244.1.2", |_| {});
    let mut watching = watching(&server);
    watching.sees(&["10.244.1.2:7401"]).await;
    let version = server.bookmark();
    server.until("it watches", |state| state.watches == 1).await;
    server.forget();
    server.cut();
    server.put("b", "10.244.1.3", |_| {});
    watching.sees(&["10.244.1.2:7401", "10.244.1.3:7401"]).await;
    let state = server.state.borrow();
    assert_eq!(state.count(&format!("resourceVersion={version}"), 200), 1, "{:?}", state.asked);
    drop(state);
    assert_eq!(lists(&server), 1);
}

#[tokio::test]
async fn a_version_that_is_gone_is_listed_anew() {
    for by_status in [false, true] {
        let server = Server::start().await;
        server.state.send_modify(|state| state.gone_by_status = by_status);
        server.put("a", "10.244.1.2", |_| {});
        server.put("b", "10.244.1.3", |_| {});
        let mut watching = watching(&server);
        watching.sees(&["10.244.1.2:7401", "10.244.1.3:7401"]).await;
        server.until("it watches", |state| state.watches == 1).await;
        // Nobody may watch while the history goes that the next watch would have to show.
        server.rotate("another");
        server.cut();
        server.delete("a");
        server.forget();
        server.rotate("first");
        watching.sees(&["10.244.1.3:7401"]).await;
        assert_eq!(lists(&server), 2, "by status: {by_status}");
    }
}

#[tokio::test]
async fn tokens_rotate_under_a_running_node() {
    let server = Server::start().await;
    server.put("a", "10.244.1.2", |_| {});
    let mut watching = watching(&server);
    watching.sees(&["10.244.1.2:7401"]).await;
    server.rotate("second");
    server.cut();
    server.put("b", "10.244.1.3", |_| {});
    server.until("it is refused", |state| state.count(WATCH, 401) > 0).await;
    assert_eq!(watching.now(), ["10.244.1.2:7401"], "nothing is given up for a refusal");
    server.write_token("second");
    watching.sees(&["10.244.1.2:7401", "10.244.1.3:7401"]).await;
}

#[tokio::test]
async fn a_region_is_formed_once() {
    let server = Server::start().await;
    let api = server.api();
    let formed = one_of_many_forms(|| Place::config_map(api.clone(), "atoll", "eu")).await;
    let map = server.map("atoll-eu");
    let record = formed.record.expect("confirmed");
    assert_eq!(map["metadata"]["labels"]["app.kubernetes.io/part-of"], "atoll");
    let text = map["data"]["record"].as_str().expect("text");
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(text).expect("JSON"),
        json!({
            "cluster": "reef", "region": "eu", "council": format!("{:016x}", record.council),
            "founder": record.founder.to_string(), "slots": 64, "replicas": 3, "formed": true,
        })
    );
    assert_eq!(server.state.borrow().count("POST", 201), 1);
    an_abandoned_record_is_taken_over(|| Place::config_map(api.clone(), "atoll", "us")).await;
    a_founder_and_who_takes_over_are_not_both_confirmed(|region| {
        Place::config_map(api.clone(), "atoll", region)
    })
    .await;
}

#[tokio::test]
async fn a_founder_that_is_overtaken_at_the_last_moment_joins() {
    let server = Server::start().await;
    let place = || Place::config_map(server.api(), "atoll", "eu");
    let founder = Formation::new(place(), claim(1));
    let mine = founder.claim().await.expect("created").record.expect("created");
    let theirs = Record { founder: NodeId([2; 16]), council: 2, ..mine.clone() };
    let text = serde_json::to_string(&theirs).expect("JSON");
    server.state.send_modify(|state| state.overtaken = Some(("atoll-eu".into(), text)));
    let told = founder.confirm(&mine).await.expect("the server answers");
    assert_eq!((told.by_me, told.record.as_ref()), (false, Some(&theirs)));
    assert_eq!(server.state.borrow().count("PUT", 409), 1, "it was too late");
}

#[tokio::test]
async fn what_others_wrote_into_the_config_map_stays() {
    let server = Server::start().await;
    let founder = Formation::new(Place::config_map(server.api(), "atoll", "eu"), claim(1));
    let record = founder.claim().await.expect("created").record.expect("created");
    server.edit("atoll-eu", |map| {
        map["metadata"]["annotations"] = json!({ "owner": "sea team" });
        map["data"]["note"] = json!("do not touch");
        map["immutable"] = json!(false);
    });
    assert!(founder.confirm(&record).await.expect("confirmed").by_me);
    let map = server.map("atoll-eu");
    assert_eq!(map["metadata"]["annotations"]["owner"], "sea team");
    assert_eq!((&map["data"]["note"], &map["immutable"]), (&json!("do not touch"), &json!(false)));
    assert!(map["data"]["record"].as_str().is_some_and(|text| text.contains("\"formed\":true")));
}

#[tokio::test]
async fn refusals_are_told_as_the_server_words_them() {
    let server = Server::start().await;
    server.state.send_modify(|state| state.forbidden = Some(hyper::Method::POST));
    let formation = Formation::new(Place::config_map(server.api(), "atoll", "eu"), claim(1));
    let error = formation.claim().await.expect_err("forbidden").to_string();
    assert!(error.contains("status 403: configmaps is forbidden: User"), "{error}");
    server.rotate("another");
    let error = formation.claim().await.expect_err("unauthorized").to_string();
    assert!(error.ends_with("status 401: Unauthorized"), "{error}");
}

#[tokio::test]
async fn a_server_that_another_authority_signed_learns_no_token() {
    let (server, stranger) = (Server::start().await, Server::start().await);
    let api = server.api_with(stranger.authority());
    let formation = Formation::new(Place::config_map(api, "atoll", "eu"), claim(1));
    let error = formation.claim().await.expect_err("not trusted");
    assert!(matches!(error, FormationError::Failure(Failure::Tls { .. })), "{error}");
    assert!(server.state.borrow().asked.is_empty());
}
