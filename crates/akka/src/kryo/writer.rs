//! Kryo's primitives.

/// Bytes being written.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub(super) fn bool(&mut self, yes: bool) {
        self.byte(yes.into());
    }

    pub(super) fn varint(&mut self, mut value: u32) {
        while value > 0x7f {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    /// The ninth byte has eight bits.
    fn varlong(&mut self, mut value: u64) {
        for _ in 0..8 {
            if value <= 0x7f {
                break;
            }
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    pub(super) fn flagged(&mut self, flag: bool, value: u32) {
        let first = (value & 0x3f) as u8 | u8::from(flag) << 7;
        if value <= 0x3f {
            self.byte(first);
        } else {
            self.byte(first | 0x40);
            self.varint(value >> 6);
        }
    }

    pub(super) fn int(&mut self, value: i32) {
        self.varint((value << 1 ^ value >> 31) as u32);
    }

    pub(super) fn long(&mut self, value: i64) {
        self.varlong((value << 1 ^ value >> 63) as u64);
    }

    pub(super) fn double(&mut self, value: f64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// A name in ASCII, of two characters at least.
    pub(super) fn name(&mut self, name: &str) {
        self.bytes.extend_from_slice(name.as_bytes());
        if let Some(last) = self.bytes.last_mut() {
            *last |= 0x80;
        }
    }

    pub(super) fn text(&mut self, text: &str) {
        if text.is_ascii() && (2..=32).contains(&text.len()) {
            return self.name(text);
        }
        self.flagged(true, count(text.encode_utf16().count()) + 1);
        for unit in text.encode_utf16() {
            match unit {
                0..0x80 => self.byte(unit as u8),
                0x80..0x800 => self.bytes.extend_from_slice(&[0xc0 | (unit >> 6) as u8, tail(unit)]),
                _ => self.bytes.extend_from_slice(&[0xe0 | (unit >> 12) as u8, tail(unit >> 6), tail(unit)]),
            }
        }
    }
}

fn tail(unit: u16) -> u8 {
    0x80 | (unit & 0x3f) as u8
}

/// How many there are, for a length on the wire.
pub(super) fn count(length: usize) -> u32 {
    // The frame that carries it is far smaller.
    u32::try_from(length).unwrap_or(u32::MAX - 1)
}
