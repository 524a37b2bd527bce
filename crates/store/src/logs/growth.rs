//! What appending makes of a log, whatever database keeps it: each byte once, in rows that do not stay tiny.
//!
//! A task that prints a line now and then would leave a row per line. So the last rows of a log, its tail, are merged
//! when they are many or large enough to be one full row; each byte is rewritten a few times at most.

use super::chunk::{self, Codec, LARGEST};
use super::{Appended, LogAppend};

/// A tail of that many bytes becomes a row that stays.
const FULL: u64 = 32 << 10;
/// A tail of that many rows becomes one row, which may still be in the tail.
const TAIL_ROWS: u64 = 64;

/// Offsets beyond are nonsense from a worker, and would not fit into a column.
const LARGEST_OFFSET: u64 = 1 << 60;

/// How far a log is, as it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    /// Everything before it is stored, known as lost, or dropped.
    pub next_offset: u64,
    /// Nothing follows.
    pub ended: bool,
    /// Of the rows' data, compressed.
    pub stored_bytes: u64,
    /// From here on nothing is stored any more, because the attempt logged too much.
    pub cut_at: Option<u64>,
    /// The last rows, which are too small to stay: where they begin, how many, how many bytes.
    pub tail_start: u64,
    pub tail_rows: u64,
    pub tail_bytes: u64,
}

/// The rows of a tail as they were read back: their bytes, and how many they are as stored.
pub(crate) struct Tail {
    pub bytes: Vec<u8>,
    pub stored: u64,
}

/// A row to be written.
pub(crate) struct Chunk {
    pub start: u64,
    pub length: u64,
    pub codec: Codec,
    pub data: Vec<u8>,
}

/// What has to be written for a log.
pub(crate) struct Growth {
    pub stream: Stream,
    /// Rows from this offset on go, before the new ones come.
    pub replaced_from: Option<u64>,
    pub chunks: Vec<Chunk>,
}

/// New bytes that follow each other.
struct Run {
    start: u64,
    bytes: Vec<u8>,
}

/// A log that grows.
pub(crate) struct Growing {
    stream: Stream,
    runs: Vec<Run>,
}

impl Growing {
    pub fn new(stream: Stream) -> Growing {
        Growing { stream, runs: Vec::new() }
    }

    /// Takes from a piece what is new.
    pub fn accept(&mut self, piece: &LogAppend) -> Appended {
        let stream = &mut self.stream;
        let known = stream.next_offset;
        let offset = piece.offset.min(LARGEST_OFFSET);
        let gap = (offset > known).then(|| (known, offset - known));
        let seen = usize::try_from(known.saturating_sub(offset)).unwrap_or(usize::MAX).min(piece.data.len());
        let new = &piece.data[seen..];
        let new_from = offset.max(known);
        stream.next_offset = new_from + new.len() as u64;
        stream.ended |= piece.end;
        if !new.is_empty() {
            match self.runs.last_mut() {
                Some(run) if run.start + run.bytes.len() as u64 == new_from => run.bytes.extend_from_slice(new),
                _ => self.runs.push(Run { start: new_from, bytes: new.to_vec() }),
            }
        }
        Appended { gap, new_from, next_offset: stream.next_offset, dropped: false }
    }

    /// Where the stored tail begins, if its rows may have to be merged: then [`Growing::finish`] needs them.
    pub fn wanted_tail(&self) -> Option<u64> {
        let tail = &self.stream;
        let new_bytes: u64 = self.runs.iter().map(|run| run.bytes.len() as u64).sum();
        let new_rows: u64 = self.runs.iter().map(|run| run.bytes.len().div_ceil(LARGEST) as u64).sum();
        let is_followed = match self.runs.as_slice() {
            [] => true,
            [run] => tail.tail_start + tail.tail_bytes == run.start,
            _ => false,
        };
        let is_merged =
            !is_followed || tail.ended || tail.tail_rows + new_rows >= TAIL_ROWS || tail.tail_bytes + new_bytes >= FULL;
        (tail.tail_rows > 0 && is_merged).then_some(tail.tail_start)
    }

    /// Makes rows of what is new, until the log takes `limit` bytes. `tail` is what was read of the stored tail; without it,
    /// or when it is not whole because a row is damaged, those rows stay as they are.
    pub fn finish(self, tail: Option<Tail>, limit: u64) -> Growth {
        let tail = tail.filter(|tail| tail.bytes.len() as u64 == self.stream.tail_bytes);
        let growth = Growth { stream: self.stream, replaced_from: None, chunks: Vec::new() };
        let mut writing =
            Writing { unsaved: self.stream.tail_rows == 0, first_of_tail: 0, old: tail, raw: Vec::new(), growth };
        for run in &self.runs {
            writing.store(run, limit);
        }
        if self.stream.ended && writing.growth.stream.tail_rows > 1 {
            writing.merge();
        }
        writing.growth
    }
}

struct Writing {
    growth: Growth,
    /// Whether all rows of the tail are among the new ones.
    unsaved: bool,
    /// The first of the new rows that is in the tail.
    first_of_tail: usize,
    /// The stored rows of the tail, until they are merged or left alone.
    old: Option<Tail>,
    /// The bytes of the new rows of the tail.
    raw: Vec<u8>,
}

impl Writing {
    fn store(&mut self, run: &Run, limit: u64) {
        let stream = &self.growth.stream;
        if stream.tail_rows > 0 && stream.tail_start + stream.tail_bytes != run.start {
            // After a hole a new tail begins.
            self.merge();
            self.forget_tail();
        }
        let mut start = run.start;
        for bytes in run.bytes.chunks(LARGEST) {
            let stream = &mut self.growth.stream;
            if stream.cut_at.is_some() || stream.stored_bytes >= limit {
                stream.cut_at.get_or_insert(start);
                return;
            }
            if stream.tail_rows == 0 {
                stream.tail_start = start;
            }
            stream.tail_rows += 1;
            stream.tail_bytes += bytes.len() as u64;
            self.raw.extend_from_slice(bytes);
            self.add(start, bytes);
            start += bytes.len() as u64;
            if self.growth.stream.tail_bytes >= FULL || self.growth.stream.tail_rows >= TAIL_ROWS {
                self.merge();
            }
        }
    }

    fn add(&mut self, start: u64, bytes: &[u8]) {
        let (codec, data) = chunk::pack(bytes);
        let data = data.into_owned();
        self.growth.stream.stored_bytes += data.len() as u64;
        self.growth.chunks.push(Chunk { start, length: bytes.len() as u64, codec, data });
    }

    /// Makes one row of the tail (two if it is longer than a row may be). A full one stays and is no tail any more.
    fn merge(&mut self) {
        if self.growth.stream.tail_rows > 1 {
            let saved = match (self.unsaved, self.old.take()) {
                (true, _) => Tail { bytes: Vec::new(), stored: 0 },
                (false, Some(old)) => old,
                // Damaged: it stays as it is, and readers see a hole.
                (false, None) => return self.forget_tail(),
            };
            let stream = &mut self.growth.stream;
            if !self.unsaved {
                self.growth.replaced_from = Some(stream.tail_start);
            }
            let replaced = self.growth.chunks.drain(self.first_of_tail..);
            let stored = saved.stored + replaced.map(|chunk| chunk.data.len() as u64).sum::<u64>();
            stream.stored_bytes = stream.stored_bytes.saturating_sub(stored);
            stream.tail_rows = 1;
            let mut start = stream.tail_start;
            let mut bytes = saved.bytes;
            bytes.append(&mut self.raw);
            for bytes in bytes.chunks(LARGEST) {
                self.add(start, bytes);
                start += bytes.len() as u64;
            }
            (self.unsaved, self.raw) = (true, bytes);
        }
        if self.growth.stream.tail_bytes >= FULL {
            self.forget_tail();
        }
    }

    fn forget_tail(&mut self) {
        let stream = &mut self.growth.stream;
        (stream.tail_start, stream.tail_rows, stream.tail_bytes) = (0, 0, 0);
        (self.unsaved, self.old, self.first_of_tail) = (true, None, self.growth.chunks.len());
        self.raw.clear();
    }
}

impl Growth {
    /// What remains to be said to who appended: whether some of it was dropped.
    pub fn complete(&self, answer: &mut Appended) {
        let is_cut = self.stream.cut_at.is_some_and(|cut| cut < answer.next_offset);
        answer.dropped = answer.new_from < answer.next_offset && is_cut;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pendula_model::{AppId, InstanceId};
    use proptest::prelude::*;

    use super::*;
    use crate::logs::assembly::{Assembly, Extent};
    use crate::logs::{LogKey, LogPart};

    const KEY: LogKey = LogKey { app: AppId(1), instance: InstanceId(1), attempt: 1, task: 0 };

    /// A database in a few lines.
    #[derive(Default)]
    struct Rows {
        stream: Stream,
        rows: BTreeMap<u64, Chunk>,
    }

    impl Rows {
        fn append(&mut self, pieces: &[LogAppend], limit: u64) {
            let growing = || {
                let mut growing = Growing::new(self.stream);
                for piece in pieces {
                    growing.accept(piece);
                }
                growing
            };
            let tail = |start: u64| {
                let rows = self.rows.range(start..).map(|(_, row)| row);
                let stored = rows.clone().map(|row| row.data.len() as u64).sum();
                let unpack = |row: &Chunk| chunk::unpack(row.codec.code(), &row.data, row.length as usize).unwrap();
                Tail { bytes: rows.flat_map(unpack).collect(), stored }
            };
            let growth = growing().finish(growing().wanted_tail().map(tail), limit);
            // It is not asked for where it makes no difference, and only there.
            let always = growing().finish(Some(tail(self.stream.tail_start)), limit);
            assert_eq!((growth.stream, growth.replaced_from), (always.stream, always.replaced_from));
            if let Some(start) = growth.replaced_from {
                self.rows.split_off(&start);
            }
            for chunk in growth.chunks {
                assert!(self.rows.insert(chunk.start, chunk).is_none(), "a row was written twice");
            }
            self.stream = growth.stream;
            let stored: u64 = self.rows.values().map(|row| row.data.len() as u64).sum();
            assert_eq!(stored, self.stream.stored_bytes);
        }

        fn read(&self) -> LogPart {
            let mut assembly = Assembly::new(0, usize::MAX);
            for row in self.rows.values() {
                assembly.add(row.start, row.length as u32, row.codec.code(), &row.data);
            }
            let Stream { next_offset: total, ended, cut_at, .. } = self.stream;
            assembly.finish(Extent { total, ended, cut_at })
        }
    }

    /// What the task writes: each byte follows from its offset.
    fn written(from: u64, size: usize) -> Vec<u8> {
        (from..from + size as u64).map(|offset| (offset ^ (offset >> 9)) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        /// Pieces of any size, repeated, with holes, several at once: every byte that is not missing is there once, and
        /// rows are few.
        #[test]
        fn each_byte_is_kept_once_in_few_rows(
            batches in prop::collection::vec(
                prop::collection::vec((0..300_u16, 0..200_usize), 1..3),
                1..300,
            ),
            ends in any::<bool>(),
        ) {
            let mut rows = Rows::default();
            let (mut at, mut holes) = (0_u64, Vec::new());
            for batch in batches {
                let pieces: Vec<_> = batch.into_iter().map(|(kind, size)| {
                    let size = match kind {
                        0..=285 => size,
                        286..=290 => size * 50,
                        291 | 292 => size * 400,
                        // Again what came before.
                        293..=296 => return LogAppend { key: KEY, offset: 0, data: written(0, at.min(70_000) as usize), end: false },
                        _ => {
                            if size > 100 {
                                holes.push((at, size as u64));
                                at += size as u64;
                            }
                            size
                        }
                    };
                    let piece = LogAppend { key: KEY, offset: at, data: written(at, size), end: false };
                    // A hole is known by what comes after it.
                    at += size as u64;
                    piece
                }).collect();
                rows.append(&pieces, u64::MAX);
            }
            rows.append(&[LogAppend { key: KEY, offset: at, data: Vec::new(), end: ends }], u64::MAX);
            let part = rows.read();
            prop_assert_eq!((part.next_offset, part.end), (at, ends));
            let mut expected = written(0, at as usize);
            for (offset, size) in holes.iter().rev() {
                expected.drain(*offset as usize..(offset + size) as usize);
            }
            prop_assert!(part.data == expected);
            prop_assert_eq!(part.gaps.iter().map(|gap| gap.1).sum::<u64>(), holes.iter().map(|hole| hole.1).sum::<u64>());
            // Two for each stretch between holes, at the most one for each full row, and a tail.
            let most = 2 * (holes.len() + 1) + (at / FULL) as usize + if ends { 1 } else { TAIL_ROWS as usize };
            prop_assert!(rows.rows.len() <= most, "{} rows, {most} at most", rows.rows.len());
        }
    }
}
