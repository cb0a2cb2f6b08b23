//! What to merge next. Pure.
//!
//! Per partition, in this order:
//!
//! 1. **Depth.** Layers of like size are merged, newest first, once there are `fan_in` of them: a byte is then merged again only when it
//!    has become part of a layer several times as large, so what is written is proportional to the WAL. In a stack that reaches `max_depth`
//!    those are merged that cost least per layer gone. A flush pushes one layer on a stack, and only where there are fewer than
//!    `max_depth`: so no stack is ever longer.
//! 2. **Redo.** A layer that holds the last of many deltas of a page that is read gets an image of it.
//! 3. **Trim.** What lies below the cutoff and is not needed has become more than `trim_percent` of the partition: it is rewritten
//!    without. What a trim costs is thus at most 100 / `trim_percent` times the WAL whose history it drops.
//!
//! While much WAL comes in, all of that waits, but for stacks that have grown half-way to `max_depth`: of those the layers are merged that cost least
//! per layer gone.

use std::ops::Range;

use ogel_ids::Lsn;

use crate::{keyspace::Key, layer::LsnRange};

/// When to merge, and into what.
#[derive(Debug, Clone, Copy)]
pub struct CompactionLimits {
    /// No stack has more layers.
    pub max_depth: usize,
    /// So many layers of like size are merged.
    pub fan_in: usize,
    /// A partition that is larger when it is merged is split.
    pub target_bytes: u64,
    /// Share of a partition that must be superfluous before it is trimmed.
    pub trim_percent: u64,
    /// Less than this is not worth a trim.
    pub min_trim_bytes: u64,
    /// Layers smaller than this are of like size.
    pub small_bytes: u64,
    /// Deltas without an image between them in what is written.
    pub max_chain: usize,
}

impl Default for CompactionLimits {
    fn default() -> Self {
        Self {
            max_depth: 10,
            fan_in: 4,
            target_bytes: 64 << 20,
            trim_percent: 30,
            min_trim_bytes: 256 << 10,
            small_bytes: 64 << 10,
            max_chain: 24,
        }
    }
}

/// A layer in the stack of one partition.
#[derive(Debug, Clone, Copy)]
pub struct LayerState {
    /// Its share of the file.
    pub size_bytes: u64,
    /// Nothing lies below it.
    pub complete: bool,
    /// Its WAL.
    pub lsns: LsnRange,
    /// Estimate: versions that are history once the cutoff has passed its end.
    pub history_bytes: u64,
    /// Estimate: bytes of layers below that its tombstones at or below the cutoff hide.
    pub erased_bytes: u64,
    /// Readers want images of pages in it.
    pub wanted: bool,
}

/// A partition's stack, newest first.
#[derive(Debug, Clone)]
pub struct PartitionState {
    /// First key.
    pub start: Key,
    /// Newest first.
    pub layers: Vec<LayerState>,
}

/// How much is to be merged now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// All that is worth it.
    Calm,
    /// What cannot wait until less WAL comes in.
    Busy,
}

/// Why layers are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The stack grows.
    Depth,
    /// Pages need too many deltas.
    Redo,
    /// History is given up.
    Trim,
}

/// Layers of one partition to merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// First key.
    pub partition: Key,
    /// Places in the stack, 0 the newest.
    pub run: Range<usize>,
    /// Why.
    pub reason: Reason,
}

/// All that should be merged now, most urgent first; at most one job per partition.
pub fn plan(partitions: &[PartitionState], cutoff: Lsn, limits: &CompactionLimits, pace: Pace) -> Vec<Job> {
    let mut jobs: Vec<(Reason, std::cmp::Reverse<u64>, Job)> = Vec::new();
    for partition in partitions {
        let layers = &partition.layers;
        let depth = depth_run(layers, limits, pace).map(|run| (Reason::Depth, layers.len() as u64, run));
        let redo = || {
            let wanted = layers.iter().position(|layer| layer.wanted)?;
            Some((Reason::Redo, 0, wanted..wanted + 1))
        };
        let trim = || trim_run(layers, cutoff, limits).map(|(run, bytes)| (Reason::Trim, bytes, run));
        let found = match pace {
            Pace::Calm => depth.or_else(redo).or_else(trim),
            Pace::Busy => depth,
        };
        if let Some((reason, urgency, run)) = found {
            jobs.push((reason, std::cmp::Reverse(urgency), Job { partition: partition.start, run, reason }));
        }
    }
    jobs.sort_by_key(|(reason, urgency, _)| (*reason, *urgency));
    jobs.into_iter().map(|(_, _, job)| job).collect()
}

/// Layers to merge because there are many.
pub fn depth_run(layers: &[LayerState], limits: &CompactionLimits, pace: Pace) -> Option<Range<usize>> {
    if pace == Pace::Busy {
        return is_urgent(layers.len(), limits).then(|| 0..cheapest_run(layers));
    }
    let deltas = layers.iter().filter(|layer| !layer.complete).count();
    if deltas < limits.fan_in {
        return None;
    }
    let (mut end, mut total) = (1, layers[0].size_bytes);
    while let Some(next) = layers.get(end)
        && next.size_bytes <= total.saturating_mul(2).max(limits.small_bytes)
    {
        total += next.size_bytes;
        end += 1;
    }
    if end < limits.fan_in && layers.len() >= limits.max_depth {
        end = cheapest_run(layers);
    }
    (end >= limits.fan_in || layers.len() >= limits.max_depth).then_some(0..end)
}

/// The number of newest layers that costs least per layer that goes away.
fn cheapest_run(layers: &[LayerState]) -> usize {
    let totals = layers.iter().scan(0_u64, |total, layer| {
        *total = total.saturating_add(layer.size_bytes);
        Some(*total)
    });
    let costs = totals.enumerate().skip(1).map(|(gone, total)| (total / gone as u64, gone + 1));
    costs.min().map_or(layers.len(), |(_, end)| end)
}

/// Layers to merge because much of the partition is superfluous, and an estimate of how much.
fn trim_run(layers: &[LayerState], cutoff: Lsn, limits: &CompactionLimits) -> Option<(Range<usize>, u64)> {
    let first = layers.iter().position(|layer| layer.lsns.start < cutoff || layer.erased_bytes > 0)?;
    let run = &layers[first..];
    let total: u64 = run.iter().map(|layer| layer.size_bytes).sum();
    let oldest = run.len() - 1;
    let superfluous = run.iter().enumerate().map(|(place, layer)| {
        let LsnRange { start, end } = layer.lsns;
        let passed = cutoff.min(end).bytes_since(start);
        let history = super::super::flush::share(layer.history_bytes, passed, end.bytes_since(start).max(1));
        // The newest versions of a layer on top of another one become part of that one's values.
        let absorbed = if place < oldest && end <= cutoff { layer.size_bytes.saturating_sub(history) } else { 0 };
        history + absorbed + layer.erased_bytes
    });
    let superfluous = superfluous.sum::<u64>().min(total);
    let worthwhile =
        superfluous >= limits.min_trim_bytes.max(1) && superfluous.saturating_mul(100) >= limits.trim_percent * total;
    worthwhile.then_some((first..layers.len(), superfluous))
}

/// How far the deepest stack is on its way from where merging begins (0) to the bound (1).
pub fn debt(depth: usize, limits: &CompactionLimits) -> f64 {
    let begins = limits.fan_in + 1;
    depth.saturating_sub(begins) as f64 / limits.max_depth.saturating_sub(begins).max(1) as f64
}

/// Whether a stack has grown half-way to its bound: it is merged whatever else there is to do.
pub fn is_urgent(depth: usize, limits: &CompactionLimits) -> bool {
    depth >= limits.max_depth || debt(depth, limits) >= 0.5
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
