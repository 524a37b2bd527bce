//! What happened, for people and for the proof that a seed always tells the same story.

use std::collections::VecDeque;

/// Lines kept.
const KEPT: usize = 10_000;

/// Off by default, as writing lines takes longer than living through them; a seed that fails is run again with it on.
#[derive(Debug, Default)]
pub struct Trace {
    on: bool,
    lines: VecDeque<String>,
    hash: u64,
    count: u64,
}

impl Trace {
    pub fn new(on: bool) -> Self {
        Trace { on, hash: 0xcbf2_9ce4_8422_2325, ..Trace::default() }
    }

    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Adds a line, `micros` after the beginning of the history.
    pub fn add(&mut self, micros: u64, line: std::fmt::Arguments<'_>) {
        let line = format!("{:>12.6} {line}", micros as f64 / 1e6);
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.count += 1;
        self.lines.push_back(line);
        if self.lines.len() > KEPT {
            self.lines.pop_front();
        }
    }

    /// Of every line since the beginning (FNV-1a).
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    pub fn tail(&self, count: usize) -> String {
        let skipped = self.lines.len().saturating_sub(count);
        let mut text = format!("… {} lines before\n", self.count - (self.lines.len() - skipped) as u64);
        for line in self.lines.iter().skip(skipped) {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// Adds a line to the trace of a world, if it is on.
macro_rules! trace {
    ($world:expr, $($arg:tt)*) => {
        if $world.trace.is_on() {
            let now = $world.now;
            $world.trace.add(now, format_args!($($arg)*));
        }
    };
}
pub(crate) use trace;
