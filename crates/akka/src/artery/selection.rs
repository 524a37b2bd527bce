//! Messages to an actor by its path. Akka sends them to the root of the system, with the path inside.

use super::envelope::POWERJOB;
use super::protobuf::{Malformed, put_bytes, put_number, read};

/// The message, and who is to get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection<'a> {
    /// Kryo, padded with zeros.
    pub payload: &'a [u8],
    /// Below `/user/`.
    pub actor: &'a str,
}

/// One step to the child of that name.
const CHILD: u64 = 1;

impl<'a> Selection<'a> {
    /// Reads one; `None` is one for an actor that is not right below `/user/`, or not of PowerJob's serializer.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let (mut payload, mut serializer) = (None, 0);
        let mut path = [None; 2];
        let mut steps = 0;
        read(bytes, |number, field| {
            match number {
                1 => payload = Some(field.bytes()?),
                2 => serializer = field.number()?,
                3 => {
                    let child = step(field.bytes()?)?;
                    if let Some(place) = path.get_mut(steps) {
                        *place = child;
                    }
                    steps += 1;
                }
                _ => {}
            }
            Ok(())
        })?;
        let payload = payload.ok_or(Malformed)?;
        Ok(match path {
            [Some("user"), Some(actor)] if steps == 2 && serializer == POWERJOB as u64 => {
                Some(Selection { payload, actor })
            }
            _ => None,
        })
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.payload.len() + 64);
        put_bytes(&mut out, 1, self.payload);
        put_number(&mut out, 2, POWERJOB as u64);
        for name in ["user", self.actor] {
            let mut step = Vec::new();
            put_number(&mut step, 1, CHILD);
            put_bytes(&mut step, 2, name.as_bytes());
            put_bytes(&mut out, 3, &step);
        }
        // No wildcards.
        put_number(&mut out, 5, 0);
        out
    }
}

/// The child that a step leads to; `None` for a step up, or to whatever matches.
fn step(bytes: &[u8]) -> Result<Option<&str>, Malformed> {
    let (mut kind, mut name) = (0, "");
    read(bytes, |number, field| {
        match number {
            1 => kind = field.number()?,
            2 => name = field.text()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((kind == CHILD).then_some(name))
}
