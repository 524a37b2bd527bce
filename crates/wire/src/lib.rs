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
#[expect(clippy::doc_lazy_continuation, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("pendula.worker.v1");
}

pub mod dispatch;
pub mod error;
pub mod frame;
pub mod held;
pub mod hello;
pub mod report;
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
