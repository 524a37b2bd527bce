//! What readers get of a log: rows put together, with what is missing named.

use super::{LogPart, chunk};

/// How far a log is, for readers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub total: u64,
    pub ended: bool,
    pub cut_at: Option<u64>,
}

/// A part that is being put together.
pub(crate) struct Assembly {
    part: LogPart,
    max_bytes: usize,
}

impl Assembly {
    /// About `max_bytes` from `from` on.
    pub fn new(from: u64, max_bytes: usize) -> Assembly {
        Assembly { part: LogPart { next_offset: from, ..LogPart::default() }, max_bytes }
    }

    pub fn is_full(&self) -> bool {
        self.part.data.len() >= self.max_bytes
    }

    /// The first offset that is not in it yet.
    pub fn next_offset(&self) -> u64 {
        self.part.next_offset
    }

    /// Adds what is asked for of a row. Rows come in order; one before what is wanted does no harm.
    pub fn add(&mut self, start: u64, length: u32, codec: i64, data: &[u8]) {
        let end = start.saturating_add(u64::from(length));
        if end <= self.part.next_offset {
            return;
        }
        self.skip_to(start);
        let Some(bytes) = chunk::unpack(codec, data, length as usize) else {
            tracing::error!(start, length, "a row of a log is damaged; readers see a hole");
            self.skip_to(end);
            return;
        };
        let skipped = (self.part.next_offset - start) as usize;
        let taken = (bytes.len() - skipped).min(self.max_bytes - self.part.data.len());
        self.part.data.extend_from_slice(&bytes[skipped..skipped + taken]);
        self.part.next_offset += taken as u64;
    }

    /// The part, when there are no more rows, or enough of them.
    pub fn finish(mut self, extent: Extent) -> LogPart {
        if !self.is_full() {
            self.skip_to(extent.total);
        }
        let mut part = self.part;
        (part.total, part.cut_at) = (extent.total, extent.cut_at);
        part.end = extent.ended && part.next_offset >= extent.total;
        part
    }

    /// Notes that what lies before `offset` is missing.
    fn skip_to(&mut self, offset: u64) {
        let part = &mut self.part;
        if offset > part.next_offset {
            part.gaps.push((part.next_offset, offset - part.next_offset));
            part.next_offset = offset;
        }
    }
}
