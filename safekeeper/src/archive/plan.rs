//! What a timeline's archive work does next. Pure: takes the time, returns a step.

use std::time::Duration;

use ogel_ids::Lsn;

/// A member that is one place further back in the timeline's order waits so much longer for the others' progress. The lag of
/// the archive stays below 5 s when two of three cannot upload.
pub const TAKE_OVER: Duration = Duration::from_millis(1_500);

/// What is known of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Bytes of a segment.
    pub segment_size_bytes: u64,
    /// This node's place in the timeline's order; `None`: it is no member and uploads nothing.
    pub rank: Option<u32>,
    /// As the acceptor knows them.
    pub flush_lsn: Lsn,
    /// Committed.
    pub commit_lsn: Lsn,
    /// In the object store.
    pub backup_lsn: Lsn,
    /// Durably ingested.
    pub remote_consistent_lsn: Lsn,
    /// Below may be removed, by what is persisted here.
    pub horizon_lsn: Lsn,
    /// Number of the first segment that is here; `None` when there is no WAL here.
    pub first_segment: Option<u64>,
    /// Nobody is connected and nothing is under way.
    pub idle: bool,
}

/// What earlier steps came to. Times are those of a clock that only goes forward, since any moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Past {
    /// Since when the next segment waits to be uploaded, or since the last progress if that is later.
    pub waiting_since: Duration,
    /// The last progress was this node's own: it goes on without waiting for the others.
    pub mine: bool,
    /// Something failed: nothing is tried before.
    pub retry_at: Duration,
    /// Since when nobody is connected; `None` while somebody is.
    pub quiet_since: Option<Duration>,
    /// How long that must last before local WAL is dropped.
    pub idle_after: Duration,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Upload this segment.
    Upload(u64),
    /// Persist what is known, so that more may be removed.
    Checkpoint,
    /// Remove segments below this one.
    Remove(u64),
    /// Upload the tail up to commit_lsn, read it back, and drop local WAL.
    ArchiveTail,
    /// Look again at this time, or when there is news.
    Wait(Duration),
    /// Nothing to do until there is news.
    Done,
}

/// Decides.
pub fn next(view: &View, past: &Past, now: Duration) -> Step {
    let size = view.segment_size_bytes;
    let mut due = None;
    if let (Some(rank), Some(number)) = (view.rank, waiting_segment(view)) {
        let turn = if past.mine { Duration::ZERO } else { past.waiting_since + TAKE_OVER * rank };
        let at = turn.max(past.retry_at);
        if at <= now {
            return Step::Upload(number);
        }
        due = Some(at);
    }
    let Some(first) = view.first_segment else { return due.map_or(Step::Done, Step::Wait) };
    if first < view.horizon_lsn.segment_number(size) {
        return Step::Remove(view.horizon_lsn.segment_number(size));
    }
    let safe = view.commit_lsn.min(view.backup_lsn).min(view.remote_consistent_lsn).segment_number(size);
    if first < safe {
        return Step::Checkpoint;
    }
    // A pageserver that has not stored what it ingested reads the WAL from the object store, should it have to.
    if let (Some(rank), Some(quiet_since)) = (view.rank, past.quiet_since)
        && waiting_segment(view).is_none()
        && view.idle
        && view.flush_lsn == view.commit_lsn
    {
        let at = (quiet_since + past.idle_after + TAKE_OVER * rank).max(past.retry_at);
        if at <= now {
            return Step::ArchiveTail;
        }
        due = Some(due.map_or(at, |due: Duration| due.min(at)));
    }
    due.map_or(Step::Done, Step::Wait)
}

/// The first segment that is finished and committed, but not in the object store.
pub fn waiting_segment(view: &View) -> Option<u64> {
    let number = view.backup_lsn.segment_number(view.segment_size_bytes);
    (number < view.commit_lsn.segment_number(view.segment_size_bytes)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 100;
    const NOW: Duration = Duration::from_secs(1_000);

    fn view(commit: u64, backup: u64) -> View {
        View {
            segment_size_bytes: SIZE,
            rank: Some(0),
            flush_lsn: Lsn(commit),
            commit_lsn: Lsn(commit),
            backup_lsn: Lsn(backup),
            remote_consistent_lsn: Lsn(130),
            horizon_lsn: Lsn(130),
            first_segment: Some(1),
            idle: false,
        }
    }

    #[test]
    fn the_first_uploads_at_once_and_the_next_takes_over() {
        let past = Past { waiting_since: NOW, ..Past::default() };
        assert_eq!(next(&view(399, 130), &past, NOW), Step::Upload(1));
        assert_eq!(next(&view(199, 130), &past, NOW), Step::Done, "not finished");
        assert_eq!(next(&view(400, 400), &past, NOW), Step::Done);
        let second = View { rank: Some(1), ..view(399, 130) };
        assert_eq!(next(&second, &past, NOW), Step::Wait(NOW + TAKE_OVER));
        assert_eq!(next(&second, &past, NOW + TAKE_OVER), Step::Upload(1));
        let third = View { rank: Some(2), ..second };
        assert_eq!(next(&third, &past, NOW), Step::Wait(NOW + 2 * TAKE_OVER));
        assert!(2 * TAKE_OVER < Duration::from_secs(5));
        assert_eq!(next(&second, &Past { mine: true, ..past }, NOW), Step::Upload(1), "it has taken over");
        let failed = Past { retry_at: NOW + TAKE_OVER, ..past };
        assert_eq!(next(&view(399, 130), &failed, NOW), Step::Wait(NOW + TAKE_OVER));
        assert_eq!(next(&View { rank: None, ..second }, &past, NOW), Step::Done, "no member");
    }

    #[test]
    fn only_what_a_restart_knows_to_be_safe_is_removed() {
        let past = Past::default();
        let all = View { remote_consistent_lsn: Lsn(350), ..view(370, 300) };
        assert_eq!(next(&all, &past, NOW), Step::Checkpoint);
        assert_eq!(next(&View { horizon_lsn: Lsn(300), ..all }, &past, NOW), Step::Remove(3));
        assert_eq!(next(&View { horizon_lsn: Lsn(299), ..all }, &past, NOW), Step::Remove(2));
        let removed = View { horizon_lsn: Lsn(300), first_segment: Some(3), ..all };
        assert_eq!(next(&removed, &past, NOW), Step::Done);
        assert_eq!(next(&View { remote_consistent_lsn: Lsn(199), ..all }, &past, NOW), Step::Done, "not ingested");
        assert_eq!(next(&View { first_segment: None, ..all }, &past, NOW), Step::Done);
    }

    #[test]
    fn the_tail_goes_when_nobody_has_come_for_a_while() {
        let idle = View { idle: true, first_segment: Some(3), ..view(370, 300) };
        let idle_after = Duration::from_secs(60);
        let quiet = Past { quiet_since: Some(NOW), idle_after, ..Past::default() };
        assert_eq!(next(&idle, &quiet, NOW), Step::Wait(NOW + idle_after));
        assert_eq!(next(&idle, &quiet, NOW + idle_after), Step::ArchiveTail);
        let later = NOW + 2 * idle_after;
        assert_eq!(next(&idle, &Past { quiet_since: None, ..quiet }, later), Step::Done);
        assert_eq!(next(&View { flush_lsn: Lsn(371), ..idle }, &quiet, later), Step::Done, "not all is committed (H5)");
        assert_eq!(next(&View { idle: false, ..idle }, &quiet, later), Step::Done);
        assert_eq!(next(&View { first_segment: None, ..idle }, &quiet, later), Step::Done, "it is gone already");
        let behind = View { first_segment: Some(1), remote_consistent_lsn: Lsn(130), ..idle };
        assert_eq!(next(&behind, &quiet, later), Step::ArchiveTail, "whatever the pageserver has stored");
        let unarchived = View { rank: Some(2), backup_lsn: Lsn(250), ..idle };
        let not_its_turn = Past { waiting_since: later, ..quiet };
        assert_eq!(next(&unarchived, &not_its_turn, later), Step::Wait(later + 2 * TAKE_OVER), "not all is archived");
    }
}
