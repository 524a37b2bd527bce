//! Kryo's primitives. Each read is bounded by what is there.

/// Why bytes are no message. What it names is for people; the bytes came from outside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends in the middle.
    #[error("the message ends too early")]
    Short,
    /// A number with more bytes than it can have.
    #[error("a number is too long")]
    Number,
    /// Neither 0 nor 1.
    #[error("a truth value is {0}")]
    Bool(u8),
    /// Bytes that no writer makes.
    #[error("a text is not one")]
    Text,
    /// A class that is not of the table.
    #[error("the class {0} is not of the protocol")]
    Class(String),
    /// Another class than the field has.
    #[error("{0} holds something of another class")]
    Misfit(&'static str),
    /// The number of a class that was not named, or of too many.
    #[error("the class number {0} is unknown")]
    ClassNumber(u32),
    /// To an object that is not there or not complete.
    #[error("a reference leads nowhere")]
    Reference,
    /// What has to be there is null.
    #[error("what must be there is null")]
    Null,
    /// Names of fields that no writer makes.
    #[error("the names of fields cannot be read")]
    FieldNames,
    /// A value in a field that we do not know, whose end cannot be known.
    #[error("a field that is not of the protocol cannot be skipped")]
    Unskippable,
    /// Over [`super::MAX_DEPTH`].
    #[error("it is nested too deep")]
    Deep,
    /// Over [`super::MAX_DECODED`].
    #[error("it is too large")]
    Large,
    /// More than padding behind the message.
    #[error("something follows the message")]
    Trailing,
}

type Read<T> = Result<T, DecodeError>;

/// Bytes not read yet.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(super) fn byte(&mut self) -> Read<u8> {
        let (first, rest) = self.rest.split_first().ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(super) fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Nothing but zeros is left: senders give their whole buffer.
    pub(super) fn is_padding(&self) -> bool {
        self.rest.iter().all(|byte| *byte == 0)
    }

    pub(super) fn bool(&mut self) -> Read<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Bool(other)),
        }
    }

    /// At most five bytes, of which the last holds four bits.
    pub(super) fn varint(&mut self) -> Read<u32> {
        self.continued(0, 0)
    }

    /// The bytes of a varint from bit `shift` on.
    fn continued(&mut self, mut value: u32, mut shift: u32) -> Read<u32> {
        loop {
            let byte = self.byte()?;
            let bits = u32::from(byte & 0x7f);
            if bits.checked_shl(shift).is_none_or(|shifted| shifted >> shift != bits) {
                return Err(DecodeError::Number);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
            shift += 7;
        }
    }

    /// At most nine bytes, of which the last holds eight bits.
    fn varlong(&mut self) -> Read<u64> {
        let mut value = 0;
        for shift in (0..56).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Ok(value | u64::from(self.byte()?) << 56)
    }

    /// A flag, and a number that has six bits in the first byte.
    pub(super) fn flagged(&mut self) -> Read<(bool, u32)> {
        let first = self.byte()?;
        let bits = u32::from(first & 0x3f);
        let value = if first & 0x40 == 0 { bits } else { self.continued(bits, 6)? };
        Ok((first & 0x80 != 0, value))
    }

    pub(super) fn int(&mut self) -> Read<i32> {
        let raw = self.varint()?;
        Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
    }

    pub(super) fn long(&mut self) -> Read<i64> {
        let raw = self.varlong()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    pub(super) fn double(&mut self) -> Read<f64> {
        let bytes = self.take(8)?;
        Ok(f64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }

    /// Bytes up to and with the first whose top bit is set: the form of short ASCII texts and of all names.
    pub(super) fn name(&mut self) -> Read<&'a [u8]> {
        let end = self.rest.iter().position(|byte| byte & 0x80 != 0).ok_or(DecodeError::Short)?;
        self.take(end + 1)
    }

    /// A text; nowhere may it be null without a mark before it.
    pub(super) fn text(&mut self) -> Read<String> {
        if self.rest.first().is_some_and(|byte| byte & 0x80 == 0) {
            let bytes = self.name()?;
            return Ok(bytes.iter().map(|byte| char::from(byte & 0x7f)).collect());
        }
        let (_, length) = self.flagged()?;
        let units = length.checked_sub(1).ok_or(DecodeError::Null)? as usize;
        // Each unit has a byte at least.
        if units > self.rest.len() {
            return Err(DecodeError::Short);
        }
        let ascii = self.rest[..units].iter().position(|byte| byte & 0x80 != 0).unwrap_or(units);
        let mut text = String::from_utf8(self.take(ascii)?.to_vec()).expect("ASCII is UTF-8");
        let mut left = units - ascii;
        let mut utf16 = std::iter::from_fn(|| {
            left = left.checked_sub(1)?;
            Some(self.unit())
        });
        // A pair of surrogates is one character, and half of one is none.
        let mut half = None;
        utf16.try_for_each(|unit| {
            let unit = unit?;
            match (half.take(), unit) {
                (None, 0xd800..0xdc00) => half = Some(unit),
                (pending, 0xd800..0xdc00) => {
                    text.extend(pending.map(|_| char::REPLACEMENT_CHARACTER));
                    half = Some(unit);
                }
                (Some(high), 0xdc00..0xe000) => text.extend(char::decode_utf16([high, unit]).map_while(Result::ok)),
                (pending, unit) => {
                    text.extend(pending.map(|_| char::REPLACEMENT_CHARACTER));
                    text.push(char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
            }
            Ok(())
        })?;
        text.extend(half.map(|_| char::REPLACEMENT_CHARACTER));
        Ok(text)
    }

    /// One UTF-16 unit in one to three bytes.
    fn unit(&mut self) -> Read<u16> {
        let first = self.byte()?;
        let mut more = || match self.byte()? {
            byte @ 0x80..0xc0 => Ok(u16::from(byte & 0x3f)),
            _ => Err(DecodeError::Text),
        };
        match first {
            0..0x80 => Ok(first.into()),
            0xc0..0xe0 => Ok(u16::from(first & 0x1f) << 6 | more()?),
            0xe0..0xf0 => Ok(u16::from(first & 0x0f) << 12 | more()? << 6 | more()?),
            _ => Err(DecodeError::Text),
        }
    }
}
