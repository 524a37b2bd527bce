//! PowerJob's messages as Kryo bytes.
//!
//! Not a deserializer of Java objects: [`schema`] is a table of eleven messages and their fields, and nothing else can be read.
//! A class name from the wire is looked up there and otherwise refused; one that stands in a field that we do not know is
//! skipped, when its shape can be known.
//!
//! Workers write one of two [`Dialect`]s and do not say which. [`decode`] tells them apart by content and says what it found; an
//! answer and everything else for that worker is to be written in the same one, because a worker reads some messages of
//! the wrong dialect without noticing, as another instance for example.

mod dialect;
mod encode;
mod json;
mod message;
mod objects;
mod reader;
pub mod schema;
mod writer;

pub use dialect::Dialect;
pub use encode::encode;
pub use json::JsonError;
pub use message::{Message, Misfit, Value};
pub use objects::{MAX_DECODED, MAX_DEPTH, decode};
pub use reader::DecodeError;
pub use schema::Class;
