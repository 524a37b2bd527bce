//! The part of one log that the server does not have yet.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use pendula_wire::frame::LOG_CHUNK_BYTES;

/// What a small piece costs besides its bytes; counted so that many of them cannot exceed the bound unnoticed.
const PIECE_OVERHEAD: usize = 64;

/// Unacknowledged log, in pieces that are sent as they are. Offsets count from the start of the whole log.
///
/// ```text
/// 0 ....... acked ......... base | sent pieces | unsent pieces | tail
///              └── dropped ──┘                                 └ still growing
/// ```
#[derive(Debug, Default)]
pub(crate) struct LogBuffer {
    pieces: VecDeque<Piece>,
    /// How many of `pieces` were sent on this connection.
    sent_pieces: usize,
    tail: BytesMut,
    /// Where the tail begins.
    tail_offset: u64,
    /// What was sent on this connection ends here.
    sent: u64,
    acked: u64,
    /// Bytes in pieces with their overhead.
    piece_bytes: usize,
    /// The beginning of a character whose rest may follow.
    carry: Vec<u8>,
    ended: bool,
    end_sent: bool,
    end_acked: bool,
    announced: bool,
}

#[derive(Debug)]
struct Piece {
    offset: u64,
    data: Bytes,
}

impl Piece {
    fn cost(&self) -> usize {
        self.data.len() + PIECE_OVERHEAD
    }
}

/// What goes into one `LogChunk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
    pub(crate) lost_before: u64,
    pub(crate) end: bool,
}

impl LogBuffer {
    /// Appends bytes as UTF-8. After the end they are ignored.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if self.ended {
            return;
        }
        if self.carry.is_empty() {
            self.append_lossy(bytes);
        } else {
            let mut joined = std::mem::take(&mut self.carry);
            joined.extend_from_slice(bytes);
            self.append_lossy(&joined);
        }
    }

    fn append_lossy(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => return self.append_text(text),
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.append_text(std::str::from_utf8(valid).expect("checked up to here"));
                    let Some(bad) = error.error_len() else {
                        self.carry.extend_from_slice(after);
                        return;
                    };
                    self.append_text("\u{FFFD}");
                    rest = &after[bad..];
                }
            }
        }
    }

    fn append_text(&mut self, mut text: &str) {
        while !text.is_empty() {
            let room = LOG_CHUNK_BYTES - self.tail.len();
            let mut fits = text.len().min(room);
            while !text.is_char_boundary(fits) {
                fits -= 1;
            }
            if fits == 0 {
                self.seal();
                continue;
            }
            self.tail.extend_from_slice(&text.as_bytes()[..fits]);
            text = &text[fits..];
        }
    }

    /// Makes the tail a piece.
    fn seal(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let piece = Piece { offset: self.tail_offset, data: self.tail.split().freeze() };
        self.tail_offset += piece.data.len() as u64;
        self.piece_bytes += piece.cost();
        self.pieces.push_back(piece);
    }

    /// Nothing follows.
    pub(crate) fn finish(&mut self) {
        if !self.carry.is_empty() {
            self.carry.clear();
            self.append_text("\u{FFFD}");
        }
        self.seal();
        self.ended = true;
    }

    /// Bytes held, overhead included.
    pub(crate) fn unacked(&self) -> usize {
        self.piece_bytes + self.tail.len()
    }

    /// Drops from the oldest end until at most `bound` is held. The newest bytes may have to go too.
    pub(crate) fn drop_oldest(&mut self, bound: usize) {
        while self.unacked() > bound {
            if self.pieces.is_empty() {
                self.seal();
            }
            let Some(piece) = self.pieces.pop_front() else { return };
            self.piece_bytes -= piece.cost();
            self.sent_pieces = self.sent_pieces.saturating_sub(1);
        }
    }

    /// Whether this is the first news since the loop last found nothing to send.
    pub(crate) fn announce(&mut self) -> bool {
        !std::mem::replace(&mut self.announced, true)
    }

    pub(crate) fn has_unsent(&self) -> bool {
        self.sent < self.end_offset() || (self.ended && !self.end_sent && !self.is_empty())
    }

    /// Whether nothing was ever written; such a log is not sent at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.end_offset() == 0
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.ended && (self.end_acked || self.is_empty())
    }

    /// Takes the next piece that this connection has not seen. The last one of a log that ended carries the mark, if
    /// need be without data.
    pub(crate) fn next_chunk(&mut self) -> Option<Chunk> {
        if !self.has_unsent() {
            self.announced = false;
            return None;
        }
        if self.sent_pieces == self.pieces.len() {
            self.seal();
        }
        let (offset, data) = match self.pieces.get(self.sent_pieces) {
            Some(piece) => {
                self.sent_pieces += 1;
                (piece.offset, piece.data.clone())
            }
            // All that is left was dropped, or only the mark is missing.
            None => (self.end_offset(), Bytes::new()),
        };
        // An acknowledgement may end inside a piece, which is then sent again as a whole.
        let lost_before = offset.saturating_sub(self.sent);
        self.sent = offset + data.len() as u64;
        let end = self.ended && self.sent == self.end_offset();
        self.end_sent = end;
        Some(Chunk { offset, data, lost_before, end })
    }

    /// The server has everything before `offset`. What was never sent cannot be acknowledged.
    pub(crate) fn acknowledge(&mut self, offset: u64) {
        self.acked = self.acked.max(offset.min(self.sent));
        while let Some(piece) = self.pieces.front() {
            if piece.offset + piece.data.len() as u64 > self.acked {
                break;
            }
            self.piece_bytes -= piece.cost();
            self.pieces.pop_front();
            self.sent_pieces = self.sent_pieces.saturating_sub(1);
        }
        self.end_acked |= self.end_sent && self.acked == self.end_offset();
    }

    /// A new connection has seen nothing that was not acknowledged.
    pub(crate) fn rewind(&mut self) {
        self.sent_pieces = 0;
        self.sent = self.acked;
        self.end_sent = self.end_acked;
    }

    fn end_offset(&self) -> u64 {
        self.tail_offset + self.tail.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(offset: u64, data: &str, lost_before: u64, end: bool) -> Chunk {
        Chunk { offset, data: Bytes::copy_from_slice(data.as_bytes()), lost_before, end }
    }

    #[test]
    fn bytes_become_characters_across_calls() {
        let mut log = LogBuffer::default();
        for byte in "añ€😀".as_bytes() {
            log.append(&[*byte]);
        }
        log.append(b"\xff\xfe|");
        log.append(b"\xe2\x82");
        assert_eq!(log.next_chunk(), Some(chunk(0, "añ€😀\u{FFFD}\u{FFFD}|", 0, false)));
        log.finish();
        assert_eq!(log.next_chunk(), Some(chunk(17, "\u{FFFD}", 0, true)));
        assert_eq!(log.next_chunk(), None);
        log.append(b"too late");
        assert!(!log.has_unsent());
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again() {
        let mut log = LogBuffer::default();
        log.append(b"one\n");
        assert_eq!(log.next_chunk(), Some(chunk(0, "one\n", 0, false)));
        log.append(b"two\n");
        assert_eq!(log.next_chunk(), Some(chunk(4, "two\n", 0, false)));
        log.acknowledge(4);
        log.rewind();
        assert_eq!(log.next_chunk(), Some(chunk(4, "two\n", 0, false)));
        log.finish();
        assert_eq!(log.next_chunk(), Some(chunk(8, "", 0, true)));
        log.acknowledge(8);
        assert!(log.is_settled());
        log.rewind();
        assert_eq!(log.next_chunk(), None);
    }

    #[test]
    fn an_end_that_was_not_acknowledged_is_marked_again() {
        let mut log = LogBuffer::default();
        log.append(b"one\n");
        log.next_chunk();
        log.acknowledge(4);
        log.finish();
        assert!(!log.is_settled());
        log.rewind();
        assert_eq!(log.next_chunk(), Some(chunk(4, "", 0, true)));
    }

    #[test]
    fn what_was_dropped_is_told_once_and_only_if_it_was_not_sent() {
        let mut log = LogBuffer::default();
        log.append(b"sent");
        log.next_chunk();
        log.append(b"lost");
        log.drop_oldest(0);
        assert_eq!(log.unacked(), 0);
        log.append(b"kept");
        assert_eq!(log.next_chunk(), Some(chunk(8, "kept", 4, false)));
        // After a reconnect nobody knows whether the first bytes arrived: the server does.
        log.rewind();
        assert_eq!(log.next_chunk(), Some(chunk(8, "kept", 8, false)));
    }

    #[test]
    fn a_log_whose_end_was_dropped_says_so() {
        let mut log = LogBuffer::default();
        log.append(b"gone");
        log.drop_oldest(0);
        log.finish();
        assert_eq!(log.next_chunk(), Some(chunk(4, "", 4, true)));
        log.acknowledge(4);
        assert!(log.is_settled());
    }

    #[test]
    fn silence_is_not_sent() {
        let mut log = LogBuffer::default();
        log.finish();
        assert!(!log.has_unsent() && log.is_settled());
        assert_eq!(log.next_chunk(), None);
    }

    #[test]
    fn pieces_end_at_character_boundaries() {
        let text = "€".repeat(LOG_CHUNK_BYTES);
        let mut log = LogBuffer::default();
        log.append(text.as_bytes());
        let mut seen = String::new();
        while let Some(chunk) = log.next_chunk() {
            assert!(chunk.data.len() <= LOG_CHUNK_BYTES);
            assert_eq!(chunk.offset, seen.len() as u64);
            seen.push_str(std::str::from_utf8(&chunk.data).unwrap());
        }
        assert_eq!(seen, text);
    }
}
