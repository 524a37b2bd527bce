//! The codec and the transport from outside.

mod artery;
mod hostile;
mod kryo;
mod peer;
mod transport;
