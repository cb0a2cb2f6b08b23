//! How far an acceptor's log is taken, written, whole and durable.

use ogel_ids::Lsn;

/// Invariants: `flush_lsn ≤ record_end ≤ written_end ≤ write_lsn`; `flush_lsn` and `record_end` are record boundaries.
#[derive(Debug, Clone)]
pub(super) struct LogEnd {
    /// End of the bytes taken from a proposer or a peer: where the next ones must begin.
    write_lsn: Lsn,
    /// End of the bytes handed to the operating system.
    written_end: Lsn,
    /// End of the last whole record therein.
    record_end: Lsn,
    /// End of the last whole durable record.
    flush_lsn: Lsn,
    /// What the sync under way will make durable: only what was written before it began.
    flushing: Option<Lsn>,
    /// Whether the disk is known to hold nothing but zeros behind `write_lsn`. Not so after a restart.
    tail_is_zero: bool,
}

impl LogEnd {
    pub(super) fn after_restart(flush_lsn: Lsn) -> Self {
        let (write_lsn, written_end, record_end) = (flush_lsn, flush_lsn, flush_lsn);
        Self { write_lsn, written_end, record_end, flush_lsn, flushing: None, tail_is_zero: false }
    }

    pub(super) fn write_lsn(&self) -> Lsn {
        self.write_lsn
    }

    pub(super) fn flush_lsn(&self) -> Lsn {
        self.flush_lsn
    }

    pub(super) fn tail_is_zero(&self) -> bool {
        self.tail_is_zero
    }

    /// Whether no write or sync is under way or due; a record that is not whole may still lie behind flush_lsn.
    pub(super) fn is_idle(&self) -> bool {
        self.written_end == self.write_lsn && self.flushing.is_none() && self.record_end == self.flush_lsn
    }

    /// See [`crate::AppendAnswer::settled_lsn`].
    pub(super) fn settled_lsn(&self) -> Lsn {
        if self.is_idle() { self.write_lsn } else { self.flush_lsn }
    }

    /// Takes bytes up to `end`.
    pub(super) fn append(&mut self, end: Lsn) {
        assert!(self.tail_is_zero, "stale WAL must not follow what is appended (H2)");
        assert!(end > self.write_lsn);
        self.write_lsn = end;
    }

    /// Bytes up to `end` are written, and records up to `record_end` whole.
    pub(super) fn wrote(&mut self, end: Lsn, record_end: Lsn) {
        assert!(self.written_end < end && end <= self.write_lsn, "writes are reported in order, each once");
        assert!(self.record_end <= record_end && record_end <= end);
        self.written_end = end;
        self.record_end = record_end;
    }

    /// Whether a sync should begin now: group commit, one at a time, and only for whole records.
    pub(super) fn begin_flush(&mut self) -> bool {
        let due = self.flushing.is_none() && self.record_end > self.flush_lsn;
        if due {
            self.flushing = Some(self.record_end);
        }
        due
    }

    /// The sync under way is complete.
    pub(super) fn flushed(&mut self) {
        if let Some(flushed) = self.flushing.take() {
            self.flush_lsn = flushed;
        }
    }

    /// Makes `at` ≤ flush_lsn the end of the log and forgets what is under way behind it. Says whether something else than
    /// zeros may be on disk there.
    pub(super) fn cut(&mut self, at: Lsn) -> bool {
        assert!(at <= self.flush_lsn);
        let tail_is_zero = self.tail_is_zero && at == self.write_lsn;
        *self = Self { tail_is_zero, ..Self::after_restart(at) };
        !tail_is_zero
    }

    /// Forgets what is not durable yet.
    pub(super) fn abandon(&mut self) {
        self.cut(self.flush_lsn);
    }

    /// What was on disk is gone; the next WAL needs a cut first, which brings it back.
    pub(super) fn dropped(&mut self) {
        *self = Self::after_restart(self.flush_lsn);
    }

    /// The disk holds zeros behind the log.
    pub(super) fn zeroed(&mut self) {
        self.tail_is_zero = true;
    }

    /// For mutations: what the sync under way would have made durable.
    pub(super) fn flushing(&self) -> Option<Lsn> {
        self.flushing
    }

    /// For mutations: believes a completion that speaks of a log that was cut since.
    pub(super) fn believe(&mut self, flushed: Lsn) {
        self.flush_lsn = self.flush_lsn.max(flushed);
    }
}
