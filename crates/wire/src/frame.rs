//! How large a message may be, and how lists are cut so that no message is larger.

use prost::Message;

/// Bytes of one message that a receiver decodes at most; a longer one ends the session.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes after which a sender closes a batch, be it of entries or of what one entry lists. The largest entry is a batch and
/// one more task result (a mebibyte) long; with a batch before it that is still below [`MAX_MESSAGE_BYTES`].
pub const BATCH_BYTES: usize = 1024 * 1024;
/// Entries after which a sender closes a batch, so that the receiver's loop stays responsive.
pub const BATCH_ENTRIES: usize = 4096;
/// Bytes of log data in one chunk at most.
pub const LOG_CHUNK_BYTES: usize = 64 * 1024;

/// Cuts a list into batches of at most [`BATCH_ENTRIES`] entries and about [`BATCH_BYTES`] bytes, in order. None is
/// empty; an entry larger than a batch stands alone.
pub fn batches<T: Message>(entries: impl IntoIterator<Item = T>) -> impl Iterator<Item = Vec<T>> {
    let mut entries = entries.into_iter();
    let mut held_over: Option<T> = None;
    std::iter::from_fn(move || {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(entry) = held_over.take().or_else(|| entries.next()) {
            let size = entry_bytes(&entry);
            if !batch.is_empty() && (bytes + size > BATCH_BYTES || batch.len() == BATCH_ENTRIES) {
                held_over = Some(entry);
                break;
            }
            bytes += size;
            batch.push(entry);
        }
        (!batch.is_empty()).then_some(batch)
    })
}

/// Bytes that `entry` adds to a list: itself, its length and its tag.
pub fn entry_bytes<T: Message>(entry: &T) -> usize {
    let len = entry.encoded_len();
    1 + prost::length_delimiter_len(len) + len
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{Held, LogChunk, LogChunks};

    #[test]
    fn batches_lose_nothing_and_stay_small() {
        let chunk = |n: usize| LogChunk { offset: n as u64, data: vec![b'x'; n % 70_000].into(), ..Default::default() };
        let chunks: Vec<_> = (0..10_000).step_by(7).map(chunk).chain([chunk(69_999)]).collect();
        let batches: Vec<_> = batches(chunks.clone()).collect();
        for batch in &batches {
            assert!(LogChunks { chunks: batch.clone() }.encoded_len() <= BATCH_BYTES);
        }
        assert_eq!(batches.concat(), chunks);
        assert!(batches.len() < 10, "{}", batches.len());
    }

    #[test]
    fn many_small_entries_and_one_huge_one() {
        let held = vec![Held { instance: 1, attempt: 1, task: 0 }; BATCH_ENTRIES + 1];
        assert_eq!(batches(held).map(|batch| batch.len()).collect::<Vec<_>>(), [BATCH_ENTRIES, 1]);
        let huge = LogChunk { data: vec![0; 2 * BATCH_BYTES].into(), ..Default::default() };
        assert_eq!(batches([huge.clone(), huge]).count(), 2);
        assert_eq!(batches(Vec::<Held>::new()).count(), 0);
    }
}
