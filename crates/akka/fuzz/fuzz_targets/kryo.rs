//! Any bytes are refused, or are a message that is written and read again as itself in both dialects and in JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pendula_akka::kryo::{Class, Dialect, Message, Value, decode, encode};

fuzz_target!(|bytes: &[u8]| {
    let Ok((message, dialect)) = decode(bytes) else { return };
    let again = encode(&message, dialect);
    let (read, read_dialect) = decode(&again).expect("what we write can be read");
    assert_eq!(read_dialect, dialect);
    assert_eq!(encode(&read, dialect), again);

    // Bytes that are no JSON may look like the other dialect; see `Dialect`.
    let has_bytes = message.class() == Class::AskResponse && *message.get("data") != Value::Null;
    for other in [Dialect::Plain, Dialect::Named] {
        if !has_bytes {
            let (_, said) = decode(&encode(&message, other)).expect("what we write can be read");
            assert_eq!(said, other);
        }
    }

    let json = message.to_json();
    let read = Message::from_json(message.class(), &json).expect("what we say in JSON fits");
    assert_eq!(encode(&read, Dialect::Plain), encode(&Message::from_json(read.class(), &read.to_json()).expect("it fits"), Dialect::Plain));
});
