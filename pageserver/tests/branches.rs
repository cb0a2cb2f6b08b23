//! Branches and time, with WAL that the test writes itself.
#![allow(clippy::unwrap_used)]

mod support;

use std::{path::Path, sync::Arc, time::Duration};

use ogel_ids::{Lsn, TimelineId};
use pageserver::{
    branch::{
        Timestamp,
        create::BranchError,
        delete::DeleteError,
        point::{self, Point, PointError},
    },
    layer::Io,
    manifest::{Edit, TimelineState},
    timeline::Timeline,
};
use support::{FakeSafekeeper, SEGMENT, Server, TENANT, TIMELINE, template};
use wal_decoder::{
    key::{Fork, Rel, RelFork},
    v17::rmgr,
    writer::{AppendAt, RecordContent, append_record},
};

const CHILD: TimelineId = TimelineId::from_bytes([0xc1; 16]);
const GRANDCHILD: TimelineId = TimelineId::from_bytes([0xc2; 16]);
const OTHER: TimelineId = TimelineId::from_bytes([0xc3; 16]);

fn rel(number: u32) -> RelFork {
    Rel { spc: 1663, db: 5, rel: number }.fork(Fork::Main)
}

struct Writer {
    at: AppendAt,
    safekeeper: FakeSafekeeper,
}

impl Writer {
    fn append(&mut self, rmid: u8, info: u8, xid: u32, main_data: &[u8]) -> Lsn {
        let appended = append_record(&self.at, &RecordContent { rmid, info, xid, main_data }).unwrap();
        (self.at.prev, self.at.end) = (appended.start, appended.end);
        self.safekeeper.change(|wal| wal.bytes.extend(appended.bytes));
        self.at.end
    }

    /// Creates a relation and commits at that time. Returns the commit's end.
    fn transaction(&mut self, number: u32, at: Timestamp) -> Lsn {
        let create: Vec<u8> = [1663, 5, number, 0].into_iter().flat_map(u32::to_le_bytes).collect();
        self.append(rmgr::SMGR, rmgr::smgr::CREATE, 0, &create);
        self.append(rmgr::XACT, rmgr::xact::COMMIT, 700 + number, &at.0.to_le_bytes())
    }

    fn noise(&mut self) -> Lsn {
        self.append(rmgr::XLOG, rmgr::xlog::NOOP, 0, &[0x5a; 100])
    }
}

async fn cluster(data: &Path, template: &str) -> (Server, Writer) {
    let safekeeper = FakeSafekeeper::start(Arc::default()).await;
    let server = Server::start(data, template, &[&safekeeper.address], &[]).await;
    let timeline = server.pageserver.create(TENANT, TIMELINE).await.unwrap().0;
    safekeeper.change(|wal| {
        wal.start = timeline.start_lsn;
        wal.terms = vec![(1, timeline.start_lsn)];
    });
    let head = timeline.head();
    let at = AppendAt {
        end: head.lsn,
        prev: head.state.prev_record_lsn,
        system_id: timeline.system_identifier,
        segment_size: SEGMENT,
        timeline_id: 1,
    };
    (server, Writer { at, safekeeper })
}

fn has(timeline: &Timeline, number: u32) -> bool {
    timeline.rel_size(rel(number), timeline.last_record_lsn(), Io::MayBlock).unwrap().is_some()
}

fn ago(seconds: i64) -> Timestamp {
    Timestamp(Timestamp::now().0 - seconds * 1_000_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_has_what_was_committed_by_then() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (server, mut writer) = cluster(folder.path(), &template).await;
    let times: Vec<Timestamp> = (0..5).map(|at| ago(500 - at * 100)).collect();
    let ends: Vec<Lsn> = (0..5).map(|at| writer.transaction(30_000 + at, times[at as usize])).collect();
    let noise = writer.noise();
    let root = server.timeline();

    // At the head: the pageserver has perhaps not seen the last records when it is asked.
    let (head, created) = server.pageserver.create_branch(TENANT, OTHER, TIMELINE, Point::Head).await.unwrap();
    assert!(created && head.start_lsn == noise && has(&head, 30_004));
    assert_eq!(head.logical_size_bytes(), root.logical_size_bytes());

    // At a time between two commits, in the middle of the record behind one, and exactly at one.
    for (id, point, last) in [
        (0xd0, Point::Time(Timestamp(times[2].0 + 5)), 2),
        (0xd1, Point::Time(times[1]), 1),
        (0xd2, Point::Lsn(Lsn(ends[3].0 + 9)), 3),
        (0xd3, Point::Lsn(ends[0]), 0),
    ] {
        let id = TimelineId::from_bytes([id; 16]);
        let branch = server.pageserver.create_branch(TENANT, id, TIMELINE, point).await.unwrap().0;
        assert_eq!(branch.start_lsn, ends[last], "{point:?}");
        assert_eq!(branch.head().state.newest_commit, Some(times[last]));
        for number in 0..5 {
            assert_eq!(has(&branch, 30_000 + number), number <= last as u32, "{point:?}, relation {number}");
        }
        let mut backup = Vec::new();
        pageserver::basebackup::write(&branch, branch.start_lsn, &mut backup).unwrap();
        assert!(backup.len() > 10_000, "a compute can start there");
    }

    // Through a branch into its ancestor's past.
    let (_, grandchild) = (
        server.pageserver.create_branch(TENANT, CHILD, OTHER, Point::Lsn(noise)).await.unwrap(),
        server.pageserver.create_branch(TENANT, GRANDCHILD, CHILD, Point::Lsn(ends[1])).await.unwrap().0,
    );
    assert!(has(&grandchild, 30_001) && !has(&grandchild, 30_002));
    assert_eq!(grandchild.ancestor.as_ref().unwrap().timeline.id, TIMELINE, "the history is the root's");
    assert!(root.branches().len() == 6 + 1 && root.branches()[&GRANDCHILD] == ends[1], "{:?}", root.branches());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_branched_is_refused() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (server, mut writer) = cluster(folder.path(), &template).await;
    let pageserver = &server.pageserver;
    let branch = |id, source, point| pageserver.create_branch(TENANT, id, source, point);
    let too_early = branch(CHILD, TIMELINE, Point::Time(ago(60))).await.err().unwrap();
    assert!(matches!(too_early, BranchError::Point(PointError::BeforeHistory { .. })), "{too_early}");
    let end = writer.transaction(30_000, ago(50));
    let error = branch(CHILD, TIMELINE, Point::Time(ago(-60))).await.err().unwrap();
    assert!(matches!(error, BranchError::Point(PointError::FutureTime { .. })), "{error}");
    let error = branch(CHILD, TIMELINE, Point::Lsn(Lsn(end.0 + 4096))).await.err().unwrap();
    assert!(matches!(error, BranchError::Point(PointError::FutureLsn { newest, .. }) if newest == end), "{error}");
    let error = branch(CHILD, TIMELINE, Point::Lsn(Lsn(8))).await.err().unwrap();
    assert!(matches!(error, BranchError::Point(PointError::BeforeHistory { .. })), "{error}");
    let error = branch(CHILD, OTHER, Point::Head).await.err().unwrap();
    assert!(matches!(error, BranchError::Source(_)), "{error}");
    let error = branch(TIMELINE, TIMELINE, Point::Head).await.err().unwrap();
    assert!(matches!(error, BranchError::Taken(..)), "{error}");

    let first = branch(CHILD, TIMELINE, Point::Lsn(end)).await.unwrap();
    let again = branch(CHILD, TIMELINE, Point::Lsn(end)).await.unwrap();
    assert!(first.1 && !again.1 && Arc::ptr_eq(&first.0, &again.0), "a repeated request finds what it made");
    let error = pageserver.delete(TENANT, TIMELINE).await.unwrap_err();
    assert!(matches!(&error, DeleteError::HasBranches { branches, .. } if branches.contains_key(&CHILD)), "{error}");
    assert!(has(&server.timeline(), 30_000), "nothing was touched");
    writer.safekeeper.kill().await;
    let error = branch(OTHER, TIMELINE, Point::Head).await.err().unwrap();
    assert!(matches!(error, BranchError::Point(PointError::NoMajority(_))), "{error}");
    assert!(server.timeline().branches().len() == 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_leases_and_deletions_survive_a_restart() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (server, mut writer) = cluster(folder.path(), &template).await;
    let interrupted = Edit::BranchAdded { timeline: OTHER, lsn: server.timeline().start_lsn };
    let ends = [writer.transaction(30_000, ago(90)), writer.transaction(30_001, ago(80))];
    let pageserver = server.pageserver.clone();
    pageserver.create_branch(TENANT, CHILD, TIMELINE, Point::Lsn(ends[1])).await.unwrap();
    pageserver.create_branch(TENANT, GRANDCHILD, CHILD, Point::Lsn(ends[1])).await.unwrap();
    pageserver.create_branch(TENANT, OTHER, TIMELINE, Point::Lsn(ends[0])).await.unwrap();
    let hour = Duration::from_secs(3600);
    let (origin, lease) = pageserver.lease(server.timeline(), "look", Point::Time(ago(85)), hour).await.unwrap();
    assert_eq!((origin.timeline.id, lease.lsn), (TIMELINE, ends[0]));
    pageserver.lease(server.timeline(), "short", Point::Lsn(ends[0]), Duration::ZERO).await.unwrap();
    pageserver.delete(TENANT, OTHER).await.unwrap();
    assert!(pageserver.delete(TENANT, OTHER).await.is_err(), "it is gone");
    // A creation of which only the ancestor's record was written, and a deletion of which only the mark was.
    server.timeline().record(&interrupted).await.unwrap();
    let marked = pageserver.timeline(TENANT, GRANDCHILD).unwrap();
    marked.record(&Edit::State { state: TimelineState::Deleting }).await.unwrap();
    drop((pageserver, origin, marked));
    server.stop().await;

    let server = Server::start(folder.path(), &template, &[&writer.safekeeper.address], &[]).await;
    let root = server.timeline();
    let child = server.pageserver.timeline(TENANT, CHILD).unwrap();
    assert_eq!((child.start_lsn, child.head().lsn), (ends[1], ends[1]));
    assert!(has(&child, 30_001) && child.head().state.newest_commit.is_some());
    assert_eq!(root.branches().keys().collect::<Vec<_>>(), [&CHILD,], "the root's only child at {:?}", root.branches());
    assert_eq!(server.pageserver.timelines().len(), 2);
    assert!(root.leases().contains_key("look"));
    root.drop_expired_leases().await.unwrap();
    assert!(!root.leases().contains_key("short") && root.return_lease("look").await.unwrap());
    let found = point::resolve(&server.pageserver, child, Point::Lsn(ends[0])).await.unwrap();
    assert_eq!((found.timeline.id, found.lsn), (TIMELINE, ends[0]));
    server.pageserver.delete(TENANT, CHILD).await.unwrap();
    server.stop().await;
}
