//! A row of log bytes, compressed where it pays.

/// Bytes of a log in one row at most.
pub(crate) const LARGEST: usize = 64 << 10;

/// Below it compression saves nothing worth its time.
const WORTH_COMPRESSING: usize = 256;

/// How the data of a row is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Plain,
    Lz4,
}

impl Codec {
    pub fn code(self) -> i64 {
        match self {
            Codec::Plain => 0,
            Codec::Lz4 => 1,
        }
    }
}

/// `bytes` as they are stored.
pub(crate) fn pack(bytes: &[u8]) -> (Codec, std::borrow::Cow<'_, [u8]>) {
    if bytes.len() >= WORTH_COMPRESSING {
        let packed = lz4_flex::block::compress(bytes);
        if packed.len() < bytes.len() {
            return (Codec::Lz4, packed.into());
        }
    }
    (Codec::Plain, bytes.into())
}

/// The `length` bytes that were packed; `None` when the data is damaged.
pub(crate) fn unpack(codec: i64, data: &[u8], length: usize) -> Option<Vec<u8>> {
    let bytes = match codec {
        0 => data.to_vec(),
        1 if length <= LARGEST => lz4_flex::block::decompress(data, length).ok()?,
        _ => return None,
    };
    (bytes.len() == length).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_is_unpacked() {
        let text = "the same line again and again\n".repeat(500);
        let noise: Vec<u8> = (0..5000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for bytes in [text.as_bytes(), &noise, b"short"] {
            let (codec, data) = pack(bytes);
            assert!(data.len() <= bytes.len());
            assert_eq!(unpack(codec.code(), &data, bytes.len()).as_deref(), Some(bytes));
            assert_eq!(unpack(codec.code(), &data, bytes.len() + 1), None);
        }
        assert_eq!(unpack(1, b"\xff\xff\xff", 100), None);
        assert_eq!(unpack(1, b"", usize::MAX), None);
    }
}
