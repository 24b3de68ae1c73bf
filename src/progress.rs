//! Progress of long work: one line every few seconds on standard error, with the time left.
//!
//! Whole lines only: a notebook kernel reads its output by lines, and a carriage return would never be shown.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(3);

/// The same for parts of a longer work: they speak up only where a part takes long, as pictures of a large model do.
const INNER: Duration = Duration::from_secs(20);

thread_local! {
    /// How many [`Part`]s are alive on this thread.
    static PARTS: Cell<usize> = const { Cell::new(0) };
}

/// While it lives, what counts on this thread is part of a longer work that shows its own progress, and prints less.
#[derive(Debug)]
pub struct Part(());

impl Part {
    /// A part that lasts until it is dropped.
    #[must_use]
    pub fn begin() -> Self {
        PARTS.set(PARTS.get() + 1);
        Self(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        PARTS.set(PARTS.get() - 1);
    }
}

/// A counter of work done out of a known total.
#[derive(Debug)]
pub struct Progress {
    what: String,
    total: usize,
    start: Instant,
    first: usize,
    last: Instant,
}

impl Progress {
    /// Starts counting `total` units of `what`.
    #[must_use]
    pub fn new(what: impl Into<String>, total: usize) -> Self {
        let now = Instant::now();
        Self { what: what.into(), total, start: now, first: 0, last: now }
    }

    /// Counts the speed from `done` units on, which were finished before: work that is resumed.
    #[must_use]
    pub fn from(mut self, done: usize) -> Self {
        self.first = done;
        self
    }

    /// `done` units are finished; prints a line if the last one is old enough. `note` adds numbers worth seeing.
    pub fn at(&mut self, done: usize, note: impl std::fmt::Display) {
        let interval = if PARTS.get() > 0 { INNER } else { INTERVAL };
        if self.last.elapsed() < interval && done < self.total {
            return;
        }
        if done >= self.total && self.start.elapsed() < interval {
            return; // short work is silent
        }
        self.last = Instant::now();
        let elapsed = self.start.elapsed().as_secs_f64();
        let rate = done.saturating_sub(self.first) as f64 / elapsed.max(1e-9);
        let left = (self.total.saturating_sub(done)) as f64 / rate.max(1e-9);
        eprintln!("{}: {done}/{} · {} elapsed, {} left {note}", self.what, self.total, clock(elapsed), clock(left));
    }
}

/// Seconds as `m:ss` or `h:mm:ss`.
fn clock(seconds: f64) -> String {
    let s = seconds.round() as u64;
    if s >= 3600 {
        format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
    } else {
        format!("{}:{:02}", s / 60, s % 60)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_part_ends_with_its_guard() {
        let outer = super::Part::begin();
        drop(super::Part::begin());
        assert_eq!(super::PARTS.get(), 1);
        drop(outer);
        assert_eq!(super::PARTS.get(), 0);
    }

    #[test]
    fn clock_reads_like_a_clock() {
        assert_eq!(super::clock(59.6), "1:00");
        assert_eq!(super::clock(3725.0), "1:02:05");
    }
}
