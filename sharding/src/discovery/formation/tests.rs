//! Forming with a file, and what a record refuses. Other places are in `sharding/tests`.

use std::path::PathBuf;

use super::*;

fn claim(node: u8) -> Claim {
    Claim {
        cluster: "reef".into(),
        region: "eu".into(),
        node: NodeId([node; 16]),
        council: 0xab + u64::from(node),
        slots: 64,
        replicas: 3,
    }
}

async fn refusal(path: PathBuf, claim: Claim) -> String {
    Formation::new(Place::file(path), claim).claim().await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_named_node_forms_once() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::file(directory.path().join("new/region.json"));
    let formation = Formation::new(place.clone(), claim(1));
    let first = formation.claim().await.unwrap();
    let record = first.record.clone().unwrap();
    assert!(first.by_me && !record.formed && record.council == 0xac);
    // It stopped before the council was on its disk, and starts again: the number stays.
    let again = Formation::new(place, Claim { council: 7, ..claim(1) });
    assert_eq!(again.claim().await.unwrap(), first);
    let confirmed = again.confirm(&record).await.unwrap();
    assert!(confirmed.by_me && confirmed.record.as_ref().unwrap().formed);
    assert_eq!(again.confirm(&record).await.unwrap(), confirmed, "an answer that was lost");
    let later = formation.claim().await.unwrap();
    assert_eq!((later.by_me, later.record), (false, confirmed.record));
}

#[tokio::test]
async fn who_is_not_named_joins() {
    let formation = Formation::new(Place::elsewhere(), claim(1));
    let formed = Formed { record: None, by_me: false };
    assert_eq!(formation.claim().await.unwrap(), formed);
    assert_eq!(formation.settled(Duration::ZERO).await.unwrap(), formed);
}

#[tokio::test]
async fn of_a_slow_founder_and_its_replacement_one_is_confirmed() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::file(directory.path().join("region.json"));
    let (slow, other) = (Formation::new(place.clone(), claim(1)), Formation::new(place, claim(2)));
    let slows = slow.claim().await.unwrap().record.unwrap();
    assert!(!other.claim().await.unwrap().by_me);
    let taken = other.settled(Duration::ZERO).await.unwrap();
    assert!(taken.by_me);
    let lost = slow.confirm(&slows).await.unwrap();
    assert_eq!((lost.by_me, &lost.record), (false, &taken.record), "it was replaced meanwhile");
    let won = other.confirm(&taken.record.unwrap()).await.unwrap();
    assert!(won.by_me);
    assert_eq!(slow.settled(Duration::ZERO).await.unwrap().record, won.record);
}

#[tokio::test]
async fn a_confirmed_record_is_never_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::file(directory.path().join("region.json"));
    let founder = Formation::new(place.clone(), claim(1));
    let unconfirmed = founder.claim().await.unwrap().record.unwrap();
    let confirmed = founder.confirm(&unconfirmed).await.unwrap();
    let other = Formation::new(place, claim(2));
    assert_eq!(other.take_over(&unconfirmed).await.unwrap(), None);
    let settled = other.settled(Duration::ZERO).await.unwrap();
    assert_eq!((settled.by_me, settled.record), (false, confirmed.record));
}

#[tokio::test]
async fn contradictions_name_key_values_and_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("region.json");
    Formation::new(Place::file(path.clone()), claim(1)).claim().await.unwrap();
    let place = path.display();
    for (other, message) in [
        (
            Claim { slots: 128, ..claim(2) },
            format!(
                "`cluster.slots` is 128, but region eu has 64 ({place}): set it to 64: it never \
                 changes"
            ),
        ),
        (
            Claim { replicas: 5, ..claim(2) },
            format!("`cluster.replicas` is 5, but region eu has 3 ({place}): set it to 3"),
        ),
        (
            Claim { region: "us".into(), ..claim(2) },
            format!(
                "`node.region` is us, but region eu has eu ({place}): one data directory is for \
                 one region: use another `node.data`"
            ),
        ),
    ] {
        assert_eq!(refusal(path.clone(), other).await, message);
    }
    let other = refusal(path.clone(), Claim { cluster: "sand".into(), ..claim(2) }).await;
    let start = format!("the certificate's cluster is sand, but region eu has reef ({place}): ");
    assert!(other.starts_with(&start), "{other}");
    std::fs::write(&path, "{}").unwrap();
    let garbled = refusal(path.clone(), claim(1)).await;
    assert!(garbled.contains("holds no record of a region: missing field"), "{garbled}");
}
