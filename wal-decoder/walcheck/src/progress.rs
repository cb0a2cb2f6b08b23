//! How far a check has come, on a terminal.

use std::io::{self, IsTerminal, Stderr, Write};
use walcheck::Report;

/// Bytes between two drawings.
const STEP: u64 = 4 << 20;
const WIDTH: usize = 40;

/// A progress bar, or a count when nobody knows how much is to come. Nothing where standard error is no terminal.
pub struct Progress {
    screen: Option<Stderr>,
    total: Option<u64>,
    done: u64,
    drawn: u64,
}

impl Progress {
    /// `total`: bytes of WAL.
    pub fn new(total: Option<u64>) -> Progress {
        let screen = Some(io::stderr()).filter(|screen| screen.is_terminal());
        Progress { screen, total, done: 0, drawn: 0 }
    }

    /// Bytes were read and checked.
    pub fn advance(&mut self, bytes: usize, report: &Report) {
        self.done += bytes as u64;
        if self.done - self.drawn >= STEP || self.total.is_some_and(|total| self.done >= total) {
            self.drawn = self.done;
            self.draw(report);
        }
    }

    /// Leaves the last state on the screen.
    pub fn finish(mut self, report: &Report) {
        self.draw(report);
        if let Some(screen) = &mut self.screen {
            let _ = writeln!(screen);
        }
    }

    fn draw(&mut self, report: &Report) {
        let Some(screen) = &mut self.screen else { return };
        let bar = self.total.filter(|&total| total > 0).map(|total| {
            let filled = (self.done.min(total) as u128 * WIDTH as u128 / u128::from(total)) as usize;
            format!("[{:<WIDTH$}] {:>3} % ", "#".repeat(filled), self.done.min(total) * 100 / total)
        });
        let (read, compared, different) = (self.done >> 20, report.compared, report.difference_count);
        // A bar that cannot be drawn is no reason to end.
        let _ =
            write!(screen, "\r{}{read} MiB, {compared} pages compared, {different} different", bar.unwrap_or_default());
    }
}
