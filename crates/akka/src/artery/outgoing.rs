//! All that we send, and nothing else can be sent.
//!
//! It is for the control stream, which may carry everything; on the ordinary one a `HandshakeRsp` would break the
//! worker's inbound streams, as would a message without a recipient on either.

use super::address::{Address, UniqueAddress};
use super::control::Control;
use super::envelope::{CONTROL, Envelope, POWERJOB, SELECTION};
use super::selection::Selection;

/// What opens a connection: `AKKA`, and the number of the control stream.
pub const PREAMBLE: [u8; 5] = *b"AKKA\x01";

/// Us, as one worker knows us. Never the same number under two addresses: the worker would break off over it.
pub type Us = UniqueAddress;

/// Who are you? And this is me.
pub fn handshake(us: &Us, worker: &Address) -> Vec<u8> {
    control(us, "", &Control::HandshakeReq { from: us.clone(), to: worker.clone() })
}

/// It is me whom you dialled.
pub fn handshake_answer(us: &Us) -> Vec<u8> {
    control(us, "", &Control::HandshakeRsp(us.clone()))
}

/// It is fine with us that you stop. `recipient` is who told us so.
pub fn terminating_ack(us: &Us, recipient: &str) -> Vec<u8> {
    control(us, recipient, &Control::TerminatingAck(us.clone()))
}

fn control(us: &Us, recipient: &str, message: &Control) -> Vec<u8> {
    let (manifest, payload) = message.write().expect("what we send has a form");
    let envelope = Envelope { uid: us.uid, serializer: CONTROL, sender: "", recipient, manifest, payload: &payload };
    envelope.write().expect("a literal that came from an envelope fits into one")
}

/// A message to the worker's actor of that name. With `answer_to` it is a question, and that the name under which we
/// wait for the answer.
///
/// `None` when it is longer than a frame can say.
pub fn message(us: &Us, worker: &Address, actor: &str, answer_to: Option<&str>, payload: &[u8]) -> Option<Vec<u8>> {
    let sender = answer_to.map(|name| temporary(&us.address, name)).unwrap_or_default();
    let recipient = format!("{worker}/");
    let payload = Selection { payload, actor }.write();
    Envelope {
        uid: us.uid,
        serializer: SELECTION,
        sender: &sender,
        recipient: &recipient,
        manifest: "",
        payload: &payload,
    }
    .write()
}

/// The answer to a question, for `recipient`, which is the question's sender as it stood there.
pub fn answer(us: &Us, recipient: &str, payload: &[u8]) -> Option<Vec<u8>> {
    if recipient.is_empty() {
        return None;
    }
    Envelope { uid: us.uid, serializer: POWERJOB, sender: "", recipient, manifest: "", payload }.write()
}

/// The literal of one of our own that waits for an answer.
fn temporary(us: &Address, name: &str) -> String {
    format!("{us}/temp/{name}")
}

/// The name in the literal that an answer is for.
pub fn asked_as(recipient: &str) -> Option<&str> {
    Address::of_literal(recipient)?.1.strip_prefix("/temp/")
}
