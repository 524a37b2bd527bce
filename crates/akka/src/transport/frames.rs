//! A connection that is only read, frame by frame.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use super::counters::Refused;
use super::limits::Limits;
use super::room::{Held, Place};

/// Read at once at most. Memory grows with what came, and not with what was announced.
const CHUNK: usize = 16 << 10;
/// A buffer that grew beyond this is not kept for the next frame.
const KEPT: usize = 64 << 10;

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("it does not begin as Artery does")]
    Preamble,
    #[error("a frame of {0} bytes")]
    Length(usize),
    #[error("it holds more than it may")]
    Full,
    #[error("it ended within a frame")]
    Cut,
    #[error("it was too slow")]
    Slow,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl FrameError {
    /// A connection that ended, in whichever way, was not refused: a worker that is killed has no other.
    pub(super) fn counts_as(&self) -> Option<Refused> {
        match self {
            FrameError::Length(_) | FrameError::Full => Some(Refused::TooLarge),
            FrameError::Preamble | FrameError::Slow => Some(Refused::Broken),
            FrameError::Cut | FrameError::Io(_) => None,
        }
    }
}

/// A frame without its length, and its bytes counted.
pub(super) struct Frame {
    pub(super) bytes: BytesMut,
    pub(super) held: Held,
}

/// Cuts the stream.
pub(super) struct Frames<R> {
    stream: R,
    place: Place,
    limits: Limits,
    buffer: BytesMut,
    held: Held,
    /// Until when what is being read must be there; `None` between frames, where peers may be silent for ever.
    deadline: Option<Instant>,
    is_open: bool,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) fn new(stream: R, place: Place, limits: Limits) -> Self {
        let deadline = Some(Instant::now() + limits.first_frame);
        let held = place.hold();
        Frames { stream, place, limits, buffer: BytesMut::new(), held, deadline, is_open: false }
    }

    /// The next frame; `None` when the peer ended the connection. Cancellation loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = self.cut()? {
                return Ok(Some(frame));
            }
            if self.fill().await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Cut) };
            }
        }
    }

    /// What is there of the stream's beginning or of a whole frame.
    fn cut(&mut self) -> Result<Option<Frame>, FrameError> {
        if !self.is_open {
            let begun = &self.buffer[..self.buffer.len().min(5)];
            if !b"AKKA".starts_with(&begun[..begun.len().min(4)])
                || begun.get(4).is_some_and(|id| !(1..=3).contains(id))
            {
                return Err(FrameError::Preamble);
            }
            if begun.len() < 5 {
                return Ok(None);
            }
            let _ = self.buffer.split_to(5);
            self.is_open = true;
        }
        let Some(length) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > self.limits.frame {
            return Err(FrameError::Length(length));
        }
        if self.buffer.len() - 4 < length {
            return Ok(None);
        }
        let _ = self.buffer.split_to(4);
        let bytes = self.buffer.split_to(length);
        let mut next = self.place.hold();
        std::mem::swap(&mut self.held, &mut next);
        // Were there no room for the rest, the next read would say so.
        let _ = self.held.grow_to(self.buffer.len());
        self.deadline = (!self.buffer.is_empty()).then(|| Instant::now() + self.limits.whole_frame);
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT {
            self.buffer = BytesMut::new();
        }
        Ok(Some(Frame { bytes, held: next }))
    }

    async fn fill(&mut self) -> Result<usize, FrameError> {
        self.buffer.reserve(CHUNK);
        let mut chunk = (&mut self.stream).take(CHUNK as u64);
        let read = chunk.read_buf(&mut self.buffer);
        let count = match self.deadline {
            Some(deadline) => timeout_at(deadline, read).await.map_err(|_| FrameError::Slow)??,
            None => read.await?,
        };
        self.held.grow_to(self.buffer.len()).map_err(|_| FrameError::Full)?;
        if self.deadline.is_none() && count > 0 {
            self.deadline = Some(Instant::now() + self.limits.whole_frame);
        }
        Ok(count)
    }
}
