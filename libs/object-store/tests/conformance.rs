//! What every store must do, asked of memory and of a local directory, and of both while requests fail at random.
#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ogel_object_store::{
    ObjectStore, RemoteArgs, StoreError, StoreMetrics,
    faults::{Fault, Faults},
};

fn local(folder: &Path) -> ObjectStore {
    ObjectStore::open(&RemoteArgs::default(), &folder.join("remote"), StoreMetrics::default()).unwrap()
}

/// Every third attempt fails, in all the ways there are.
fn shaky(store: &ObjectStore) -> ObjectStore {
    let count = AtomicU64::new(0);
    let faults = Faults::new(move |_, _| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let kinds = [Fault::ServerError, Fault::LostReply, Fault::CutBody, Fault::LostReply];
        number.is_multiple_of(3).then(|| kinds[(number / 3) as usize % kinds.len()])
    });
    store.with_faults_for_tests(faults)
}

async fn conforms(store: &ObjectStore, folder: &Path) {
    store.probe().await.unwrap();
    created_once(store).await;
    one_of_many_wins(store).await;
    ranges_are_exact(store).await;
    lists_and_deletes(store).await;
    large_files_come_back(store, folder).await;
}

async fn created_once(store: &ObjectStore) {
    assert!(store.get("once/a", 100).await.unwrap_err().is_not_found());
    assert!(store.head("once/a").await.unwrap_err().is_not_found());
    store.put_new("once/a", "mine").await.unwrap();
    store.put_new("once/a", "mine").await.unwrap(); // the reply may have been lost
    for other in ["theirs", "min", "mine!"] {
        let error = store.put_new("once/a", other).await.unwrap_err();
        assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
    }
    assert_eq!(store.get("once/a", 4).await.unwrap(), "mine");
    assert!(matches!(store.get("once/a", 3).await.unwrap_err(), StoreError::Refused { .. }), "larger than allowed");
    assert_eq!(store.head("once/a").await.unwrap().size_bytes, 4);
}

async fn one_of_many_wins(store: &ObjectStore) {
    for round in 0..5 {
        let key = format!("race/{round}");
        let writers = (0..16).map(|writer| store.put_new(&key, format!("writer {writer}")));
        let won: Vec<_> = futures::future::join_all(writers).await.iter().map(Result::is_ok).collect();
        let winner = won.iter().position(|won| *won).unwrap();
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "two own {key}");
        assert_eq!(store.get(&key, 100).await.unwrap(), format!("writer {winner}"));
    }
}

async fn ranges_are_exact(store: &ObjectStore) {
    let content: Vec<u8> = (0..=255).collect();
    store.put_new("range/a", content.clone()).await.unwrap();
    assert_eq!(store.get_range("range/a", 3..200).await.unwrap(), &content[3..200]);
    assert_eq!(store.get_range("range/a", 255..256).await.unwrap(), &content[255..]);
    assert!(store.get_range("range/a", 7..7).await.unwrap().is_empty());
    assert!(store.get_range("range/missing", 0..1).await.unwrap_err().is_not_found());
}

async fn lists_and_deletes(store: &ObjectStore) {
    let keys: Vec<String> = (0..25).map(|number| format!("list/{}/{number:03}", number % 2)).collect();
    for key in &keys {
        store.put_new(key, "x").await.unwrap();
    }
    let mut listed: Vec<_> = store.list_all("list").await.unwrap().into_iter().map(|info| info.key).collect();
    listed.sort();
    let mut expected = keys.clone();
    expected.sort();
    assert_eq!(listed, expected);
    let mut folders = store.folders("list").await.unwrap();
    folders.sort();
    assert_eq!(folders, ["0", "1"]);
    assert!(store.list_all("list/none").await.unwrap().is_empty());
    assert!(store.folders("list/none").await.unwrap().is_empty());
    let doomed: Vec<_> = keys[..20].iter().cloned().chain(["list/never/was".to_owned()]).collect();
    store.delete_all(doomed).await.unwrap();
    assert_eq!(store.list_all("list").await.unwrap().len(), 5);
}

async fn large_files_come_back(store: &ObjectStore, folder: &Path) {
    for size in [0, 5000, 40 << 20] {
        let (from, to) = (folder.join("from"), folder.join("to"));
        let content: Vec<u8> = (0..size).map(|at: usize| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
        std::fs::write(&from, &content).unwrap();
        let key = format!("large/{size}");
        store.upload(&key, &from).await.unwrap();
        store.upload(&key, &from).await.unwrap();
        store.download(&key, size as u64, &to).await.unwrap();
        assert!(std::fs::read(&to).unwrap() == content, "{size} bytes came back differently");
    }
    let missing = store.upload("large/none", &folder.join("no such file")).await.unwrap_err();
    assert!(!missing.is_retryable(), "{missing}");
}

#[tokio::test]
async fn memory() {
    let folder = tempfile::tempdir().unwrap();
    conforms(&ObjectStore::memory(StoreMetrics::default()), folder.path()).await;
}

#[tokio::test]
async fn local_directory() {
    let folder = tempfile::tempdir().unwrap();
    conforms(&local(folder.path()), folder.path()).await;
}

#[tokio::test]
async fn local_directory_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    local(folder.path()).put_new("a/b", "kept").await.unwrap();
    assert_eq!(local(folder.path()).get("a/b", 100).await.unwrap(), "kept");
}

#[tokio::test(start_paused = true)]
async fn memory_with_faults() {
    let folder = tempfile::tempdir().unwrap();
    conforms(&shaky(&ObjectStore::memory(StoreMetrics::default())), folder.path()).await;
}

#[tokio::test]
async fn local_directory_with_faults() {
    let folder = tempfile::tempdir().unwrap();
    conforms(&shaky(&local(folder.path())), folder.path()).await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_in_an_error_that_may_be_tried_again() {
    let store = ObjectStore::memory(StoreMetrics::default());
    store.put_new("a", "x").await.unwrap();
    let faults = Faults::new(|_, _| None);
    let store = store.with_faults_for_tests(faults.clone());
    faults.set_outage(true);
    assert!(store.get("a", 10).await.unwrap_err().is_retryable());
    assert!(store.put_new("b", "y").await.unwrap_err().is_retryable());
    faults.set_outage(false);
    store.put_new("b", "y").await.unwrap();
    faults.list_late("b");
    assert_eq!(store.list_all("").await.unwrap().len(), 1, "the listing is late");
    assert_eq!(store.get("b", 10).await.unwrap(), "y");
}

#[tokio::test(start_paused = true)]
async fn what_never_answers_is_given_up() {
    let faults = Faults::new(|_, _| Some(Fault::Delay(std::time::Duration::from_secs(100_000))));
    let store = ObjectStore::memory(StoreMetrics::default()).with_faults_for_tests(Arc::clone(&faults));
    let error = store.get("a", 10).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("no answer within 20 s"), "{error}");
}
