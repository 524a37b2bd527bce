//! The head of every frame.

/// Serializer of actor selections.
pub const SELECTION: i32 = 6;
/// Serializer of control messages.
pub const CONTROL: i32 = 17;
/// PowerJob's own, which is Kryo.
pub const POWERJOB: i32 = 277_777;

/// Bytes before the literals.
const HEAD: usize = 28;
/// In a tag: the text is in a table that one side sent to the other. We send none.
const COMPRESSED: u32 = 0xff00_0000;
const HAS_METADATA: u8 = 1;

/// A frame without its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Number of the system that sent it.
    pub uid: u64,
    /// What the payload is written in.
    pub serializer: i32,
    /// Literal of the actor that sent it; empty if none did.
    pub sender: &'a str,
    /// Literal of the actor that it is for; empty for control messages.
    pub recipient: &'a str,
    /// What the payload is, where its serializer needs that.
    pub manifest: &'a str,
    /// The rest.
    pub payload: &'a [u8],
}

/// Why a frame cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Akka drops these, and so do we.
    #[error("the frame is of a later version of the protocol")]
    Version,
    /// From a worker that still has the table of a Java server that was here before. It forgets it as soon as it knows us.
    #[error("the frame refers to a table that we did not send")]
    Compressed,
    /// It ends too early, or has bytes that are no text.
    #[error("the frame is malformed")]
    Malformed,
}

impl<'a> Envelope<'a> {
    /// Reads a frame.
    ///
    /// # Errors
    /// Only [`EnvelopeError::Malformed`] says that the sender does not speak Artery.
    pub fn parse(frame: &'a [u8]) -> Result<Self, EnvelopeError> {
        let (head, mut rest) = frame.split_at_checked(HEAD).ok_or(EnvelopeError::Malformed)?;
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes of the head"));
        if head[0] > 0 {
            return Err(EnvelopeError::Version);
        }
        let tags = [word(16), word(20), word(24)];
        if tags.iter().any(|tag| tag & COMPRESSED != 0) {
            return Err(EnvelopeError::Compressed);
        }
        if head[1] & HAS_METADATA != 0 {
            let length = take(&mut rest, 4)?;
            let length = u32::from_le_bytes(length.try_into().expect("four bytes were taken"));
            take(&mut rest, length as usize)?;
        }
        let [sender, recipient, manifest] = [literal(&mut rest)?, literal(&mut rest)?, literal(&mut rest)?];
        let uid = u64::from_le_bytes(head[4..12].try_into().expect("eight bytes of the head"));
        Ok(Envelope { uid, serializer: word(12) as i32, sender, recipient, manifest, payload: rest })
    }

    /// Writes the frame with its length. `None` when a literal is longer than can be said.
    pub(super) fn write(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 4 + HEAD];
        frame[8..16].copy_from_slice(&self.uid.to_le_bytes());
        frame[16..20].copy_from_slice(&self.serializer.to_le_bytes());
        for (place, text) in [self.sender, self.recipient, self.manifest].into_iter().enumerate() {
            let offset = (frame.len() - 4) as u32;
            frame[20 + 4 * place..24 + 4 * place].copy_from_slice(&offset.to_le_bytes());
            frame.extend_from_slice(&u16::try_from(text.len()).ok()?.to_le_bytes());
            frame.extend_from_slice(text.as_bytes());
        }
        frame.extend_from_slice(self.payload);
        let length = u32::try_from(frame.len() - 4).ok()?;
        frame[..4].copy_from_slice(&length.to_le_bytes());
        Some(frame)
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], EnvelopeError> {
    let (taken, left) = rest.split_at_checked(count).ok_or(EnvelopeError::Malformed)?;
    *rest = left;
    Ok(taken)
}

fn literal<'a>(rest: &mut &'a [u8]) -> Result<&'a str, EnvelopeError> {
    let length = take(rest, 2)?;
    let length = u16::from_le_bytes(length.try_into().expect("two bytes were taken"));
    std::str::from_utf8(take(rest, length.into())?).map_err(|_| EnvelopeError::Malformed)
}
