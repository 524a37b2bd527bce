//! The protocol between native workers and servers: its messages, its versions, its limits, and the only place where
//! its messages become words of `pendula-model` and back.
//!
//! [`v1`] is generated from `proto/worker.proto`, whose comments are the specification. The other modules check what
//! arrived: a message that decodes to defaults (a zero id, an empty name, an enum without a value) is refused with a
//! [`WireError`], an unknown enum value keeps its number, and nothing here panics on bytes from outside. This crate
//! neither opens connections nor decides anything.

#![warn(missing_docs)]

/// The generated messages, client and server.
#[expect(missing_docs, reason = "generated; documented in worker.proto")]
pub mod v1 {
    tonic::include_proto!("pendula.worker.v1");
}

pub mod dispatch;
pub mod error;
pub mod frame;
pub mod held;
pub mod hello;
pub mod map;
pub mod report;
pub mod results;
pub mod version;
pub mod welcome;

pub use error::WireError;
pub use version::{CAPABILITIES, PROTOCOL_MAX, PROTOCOL_MIN};

/// The compiled `worker.proto` as an encoded `google.protobuf.FileDescriptorSet`, for tools and the schema test.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Metadata key in which a worker may name the app that it means to serve.
///
/// The token decides. A server refuses the session when both are there and differ, so that a mixed-up token is
/// noticed instead of serving another app.
pub const APP_METADATA: &str = "pendula-app";

/// What stands under [`APP_METADATA`] for the app `name`: percent-encoded, because names may be in any script and
/// metadata may not. A server compares it with the encoded name of the token's app.
pub fn app_metadata(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn app_names_in_any_script_fit_into_metadata() {
        assert_eq!(super::app_metadata("demo-1"), "demo-1");
        assert_eq!(super::app_metadata("a b/é"), "a%20b%2F%C3%A9");
    }
}
