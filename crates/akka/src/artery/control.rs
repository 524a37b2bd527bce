//! What two actor systems tell each other about themselves.

use super::address::{Address, UniqueAddress};
use super::protobuf::{Malformed, put_bytes, read};

/// A message of serializer 17.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// `from` wants to talk to whoever is at `to`. Repeated for as long as it has something to say.
    HandshakeReq {
        /// Who it is.
        from: UniqueAddress,
        /// As it dialled; the answer must name exactly this.
        to: Address,
    },
    /// The one who was dialled says who it is. Only on the control stream.
    HandshakeRsp(UniqueAddress),
    /// `from` will hear nothing of `to` any more, until that has another number.
    Quarantined {
        /// Who quarantines.
        from: UniqueAddress,
        /// Whom.
        to: UniqueAddress,
    },
    /// It stops, and waits a moment for the acknowledgement.
    Terminating(UniqueAddress),
    /// The acknowledgement.
    TerminatingAck(UniqueAddress),
    /// A table of texts that we need not use, and need not acknowledge.
    Advertisement,
    /// What no PowerJob worker sends.
    Other,
}

impl Control {
    /// Reads the payload that has that manifest.
    ///
    /// # Errors
    /// It is not what the manifest says.
    pub fn parse(manifest: &str, payload: &[u8]) -> Result<Self, Malformed> {
        let (mut first, mut second): (&[u8], &[u8]) = (&[], &[]);
        if matches!(manifest, "a" | "b" | "c" | "d" | "e") {
            read(payload, |number, field| {
                match number {
                    1 => first = field.bytes()?,
                    2 => second = field.bytes()?,
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(match manifest {
            "a" => Control::Quarantined { from: UniqueAddress::parse(first)?, to: UniqueAddress::parse(second)? },
            "b" => Control::Terminating(UniqueAddress::parse(first)?),
            "c" => Control::TerminatingAck(UniqueAddress::parse(first)?),
            "d" => Control::HandshakeReq { from: UniqueAddress::parse(first)?, to: Address::parse(second)? },
            "e" => Control::HandshakeRsp(UniqueAddress::parse(first)?),
            "f" | "h" => Control::Advertisement,
            _ => Control::Other,
        })
    }

    /// Manifest and payload. `None` for what is never sent.
    pub(super) fn write(&self) -> Option<(&'static str, Vec<u8>)> {
        let mut out = Vec::new();
        let manifest = match self {
            Control::HandshakeReq { from, to } => {
                put_bytes(&mut out, 1, &from.write());
                put_bytes(&mut out, 2, &to.write());
                "d"
            }
            Control::Quarantined { from, to } => {
                put_bytes(&mut out, 1, &from.write());
                put_bytes(&mut out, 2, &to.write());
                "a"
            }
            Control::HandshakeRsp(address) => {
                put_bytes(&mut out, 1, &address.write());
                "e"
            }
            Control::Terminating(address) => {
                put_bytes(&mut out, 1, &address.write());
                "b"
            }
            Control::TerminatingAck(address) => {
                put_bytes(&mut out, 1, &address.write());
                "c"
            }
            Control::Advertisement | Control::Other => return None,
        };
        Some((manifest, out))
    }
}
