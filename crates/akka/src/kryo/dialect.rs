//! Which of the two ways a message is written in.

use super::reader::Reader;
use super::schema::Class;

/// How fields are written. Same serializer, same class names, and no mark on the wire that tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// By position, as PowerJob 4.0.0 and 4.0.1 write.
    Plain,
    /// By name and with the class of each value, as 4.1.0 and later write.
    Named,
}

/// Most fields of a class in the named dialect.
pub(super) const FIELDS: u32 = 64;
/// Longest name of a field; a longer one would be written with its length.
const NAME: usize = 32;

impl Dialect {
    /// How the object of `class` is written whose content begins where `rest` stands.
    ///
    /// In the named dialect it begins with the number of its fields and their names, in ascending order. In the plain one it
    /// begins with its first field. That may be null, in all classes that travel by themselves, so the first byte is 0 or
    /// 1; and with 1 the rest would have to spell the very name of a field, where there is the value of one. Only the bytes
    /// of an answer could do that, if there were 64 or more of them and they began as no JSON does. (The one message that
    /// begins with a text begins with an address, which has a colon.)
    pub(super) fn detect(mut rest: Reader<'_>, class: Class) -> Dialect {
        let Ok(count @ 1..=FIELDS) = rest.varint() else { return Dialect::Plain };
        let mut previous: &[u8] = b"";
        let mut is_known = false;
        for _ in 0..count {
            let Ok(name) = rest.name() else { return Dialect::Plain };
            if !is_identifier(name) || plain(name).le(plain(previous)) {
                return Dialect::Plain;
            }
            is_known |= class.fields().iter().any(|field| same(name, field.name));
            previous = name;
        }
        if is_known { Dialect::Named } else { Dialect::Plain }
    }
}

/// Whether the bytes, of which the last has its top bit set, spell `name`.
fn same(bytes: &[u8], name: &str) -> bool {
    plain(bytes).eq(name.bytes())
}

fn plain(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|byte| byte & 0x7f)
}

fn is_identifier(bytes: &[u8]) -> bool {
    (2..=NAME).contains(&bytes.len())
        && !bytes[0].is_ascii_digit()
        && plain(bytes).all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$')
}
