//! What a run says, for people and for comparing two runs.

use std::cell::RefCell;

/// Where the lines go.
#[derive(Debug)]
pub enum Trace {
    /// Nowhere.
    Off,
    /// To the standard output.
    Printed,
    /// Into the outcome.
    Kept(RefCell<Vec<String>>),
}

impl Trace {
    /// Keeps the lines.
    pub fn kept() -> Self {
        Self::Kept(RefCell::default())
    }

    /// One line, made only if somebody wants it.
    pub(crate) fn line(&self, now_us: u64, text: impl FnOnce() -> String) {
        let line = || format!("{:>10.3} ms  {}", now_us as f64 / 1_000.0, text());
        match self {
            Self::Off => {}
            Self::Printed => println!("{}", line()),
            Self::Kept(lines) => lines.borrow_mut().push(line()),
        }
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        match self {
            Self::Off | Self::Printed => Vec::new(),
            Self::Kept(lines) => lines.into_inner(),
        }
    }
}
