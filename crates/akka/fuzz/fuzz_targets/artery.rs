//! Any bytes are a frame or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pendula_akka::artery::control::Control;
use pendula_akka::artery::envelope::Envelope;
use pendula_akka::artery::{Address, outgoing, selection::Selection};
use pendula_akka::kryo::decode;

fuzz_target!(|bytes: &[u8]| {
    let Ok(envelope) = Envelope::parse(bytes) else { return };
    let _ = Address::of_literal(envelope.sender);
    let _ = outgoing::asked_as(envelope.recipient);
    for manifest in ["a", "b", "d", "e", envelope.manifest] {
        let _ = Control::parse(manifest, envelope.payload);
    }
    if let Ok(Some(selection)) = Selection::parse(envelope.payload) {
        let _ = decode(selection.payload);
    }
});
