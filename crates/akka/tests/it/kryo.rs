//! Both dialects against what the real libraries wrote, against each other, and against noise.

use pendula_akka::kryo::schema::{Field, Kind};
use pendula_akka::kryo::{Class, DecodeError, Dialect, JsonError, MAX_DECODED, Message, Value, decode, encode};
use proptest::prelude::*;
use serde_json::json;

/// Who wrote it, what it says, its bytes.
pub(crate) struct Vector {
    written_by: &'static str,
    class: Class,
    json: serde_json::Value,
    pub(crate) bytes: Vec<u8>,
}

impl Vector {
    fn dialect(&self) -> Dialect {
        if self.written_by == "4.0.x" { Dialect::Plain } else { Dialect::Named }
    }
}

pub(crate) fn vectors() -> Vec<Vector> {
    let lines = include_str!("../../golden/kryo.tsv").lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let columns: Vec<_> = line.split('\t').collect();
            let [written_by, class, json, bytes] = columns[..] else { panic!("four columns: {line}") };
            Vector {
                written_by,
                class: Class::MESSAGES.into_iter().find(|known| format!("{known:?}") == class).expect(class),
                json: serde_json::from_str(json).expect(json),
                bytes: from_hex(bytes),
            }
        })
        .collect()
}

pub(crate) fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|digit| digit.to_digit(16).expect("hex") as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn every_vector_says_what_it_says_with_and_without_padding() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 52);
    for Vector { written_by, class, json, bytes } in &vectors {
        let (message, dialect) = decode(bytes).unwrap_or_else(|error| panic!("{written_by} {class:?}: {error}"));
        assert_eq!((message.class(), &message.to_json()), (*class, json), "{written_by}");
        assert_eq!(dialect == Dialect::Plain, *written_by == "4.0.x", "{class:?} of {written_by}");
        let padded = [bytes.as_slice(), &[0; 1024]].concat();
        assert_eq!(decode(&padded), Ok((message, dialect)));
    }
}

/// The library writes other classes of lists and maps than we do, and refers back to what is there twice; all else is
/// the same byte for byte.
#[test]
fn every_vector_is_written_as_it_was() {
    let mut same = 0;
    for vector in vectors() {
        let (message, dialect) = decode(&vector.bytes).unwrap();
        let ours = encode(&message, dialect);
        assert_eq!(decode(&ours), Ok((message.clone(), dialect)));
        let refers_back = vector.json["tag"] == "AKKA";
        let is_empty_map = vector.json["appendedWfContext"] == json!({});
        if !refers_back && !is_empty_map {
            let theirs = replace(&vector.bytes, b"java.util.LinkedLis\xf4", b"java.util.ArrayLis\xf4");
            let theirs = replace(&theirs, b"java.util.concurrent.ConcurrentHashMa\xf0", b"java.util.HashMa\xf0");
            assert_eq!(ours, theirs, "{} {:?}", vector.written_by, vector.class);
            same += 1;
        }
    }
    assert_eq!(same, 48);
}

/// What our server would send is made from JSON.
#[test]
fn what_servers_send_is_made_from_json() {
    for vector in vectors().iter().filter(|vector| vector.written_by != "4.3.6") {
        let message = Message::from_json(vector.class, &vector.json).unwrap();
        let (theirs, _) = decode(&encode(&message, vector.dialect())).unwrap();
        assert_eq!(theirs.to_json(), vector.json);
    }
    let sparse = json!({"instanceId": 7, "maxWorkerCount": 3, "advancedRuntimeConfig": "x"});
    let message = Message::from_json(Class::ServerScheduleJobReq, &sparse).unwrap();
    assert_eq!(message.fields().count(), 19);
    let (plain, _) = decode(&encode(&message, Dialect::Plain)).unwrap();
    assert_eq!(plain.fields().count(), 15);
    assert_eq!(*plain.get("maxWorkerCount"), Value::Null, "4.0 has no such field");
    assert_eq!(*plain.get("instanceId"), Value::Long(7));
}

#[test]
fn json_that_does_not_fit_is_refused_by_name() {
    let of = |json| Message::from_json(Class::ServerStopInstanceReq, &json);
    let class = Class::ServerStopInstanceReq;
    assert_eq!(of(json!({"instanceID": 1})), Err(JsonError::UnknownField { class, key: "instanceID".into() }));
    assert_eq!(of(json!({"instanceId": "1"})), Err(JsonError::Misfit { class, field: "instanceId" }));
    assert_eq!(of(json!({"instanceId": 1e30})), Err(JsonError::Misfit { class, field: "instanceId" }));
    assert_eq!(of(json!([])), Err(JsonError::NotAnObject(class)));
    let metrics = json!({"cpuLoad": "NaN", "score": 1});
    assert_eq!(Message::from_json(Class::SystemMetrics, &metrics).unwrap().to_json()["cpuLoad"], "NaN");
    assert!(Message::new(class).put("instanceId", Value::Int(1)).is_err());
    assert!(Message::new(class).put("jobId", Value::Long(1)).is_err());
}

#[test]
fn back_references_are_followed_and_counted() {
    // A list of one text and many references to it.
    let list = |references: usize, text: &[u8]| {
        let mut message = Message::new(Class::ServerScheduleJobReq);
        message.put("allWorkerAddress", Value::List([Value::Text("xx".into())].into())).unwrap();
        let bytes = encode(&message, Dialect::Plain);
        let at = find(&bytes, b"\x01\x02\x01x\xf8").expect("mark, count, mark, text");
        // The root is object 0, the list 1, the text 2; the flagged number is the count and one.
        let mut count = Vec::new();
        let wanted = references as u32 + 2;
        count.push(0x40 | (wanted & 0x3f) as u8);
        let mut more = wanted >> 6;
        while more > 0x7f {
            count.push(more as u8 | 0x80);
            more >>= 7;
        }
        count.push(more as u8);
        [&bytes[..=at], &count, b"\x01", text, &vec![4; references], &bytes[at + 5..]].concat()
    };
    let (message, _) = decode(&list(100, b"a\xe2")).unwrap();
    let Value::List(items) = message.get("allWorkerAddress") else { panic!("a list") };
    assert_eq!((items.len(), items[100].as_text()), (101, Some("ab")));

    // 60 KiB that would say 3 GiB.
    let long = [vec![b'a'; 60_000], vec![0xe2]].concat();
    assert_eq!(decode(&list(50_000, &long)), Err(DecodeError::Large));
}

#[test]
fn a_list_that_only_says_how_long_it_is_takes_no_memory() {
    for class in [Class::WorkerLogReportReq, Class::ServerScheduleJobReq] {
        for flagged in [&b"\xff\xff\xff\xff\x0f"[..], b"\x7f\xff\xff\xff\x0f"] {
            let mut message = Message::new(class);
            let field = if class == Class::WorkerLogReportReq { "instanceLogContents" } else { "allWorkerAddress" };
            message.put(field, Value::List([].into())).unwrap();
            for dialect in [Dialect::Plain, Dialect::Named] {
                let bytes = encode(&message, dialect);
                let at = find(&bytes, b"ArrayLis\xf4").expect("the class of the list") + 10;
                let bytes = [&bytes[..at], flagged, &[0; 2000]].concat();
                let error = decode(&bytes).expect_err("there is no such list");
                assert!(matches!(error, DecodeError::Large | DecodeError::Null | DecodeError::Short), "{error}");
            }
        }
    }
}

#[test]
fn a_field_of_a_later_version_is_skipped() {
    let base = Message::from_json(Class::ServerStopInstanceReq, &json!({"instanceId": 7})).unwrap();
    let bytes = encode(&base, Dialect::Named);
    let head = bytes.len() - b"\x01instanceI\xe4\x09\x0e".len();
    let with = |value: &[u8]| [&bytes[..head], b"\x02aFutur\xe5instanceI\xe4", value, b"\x09\x0e"].concat();
    for value in [
        &b"\x00"[..],                                                                                // null
        b"\x03\x01te\xf8",                                                                           // a text
        b"\x02\x04",                                                                                 // an int
        b"\x0a\0\0\0\0\0\0\0\0",                                                                     // a double
        b"\x01\x01[\xc2\x01\x03ab",                                                                  // bytes
        b"\x01\x01tech.powerjob.common.model.Late\xf2\x01\x02bes\xf4wors\xf4\x02\x04\x03\x01te\xf8", // a bean of a new class
    ] {
        let (message, dialect) = decode(&with(value)).unwrap_or_else(|error| panic!("{value:?}: {error}"));
        assert_eq!((message, dialect), (base.clone(), Dialect::Named));
    }
    // How a list is written depends on how the field was declared.
    assert_eq!(decode(&with(b"\x01\x01java.util.ArrayLis\xf4\x01\x01")), Err(DecodeError::Unskippable));
    let evil = decode(&with(b"\x01\x01javax.script.ScriptEngineManage\xf2\x01\x00"));
    assert_eq!(evil, Err(DecodeError::Class("javax.script.ScriptEngineManager".into())));
}

#[test]
fn nesting_has_an_end() {
    let bytes = encode(&Message::new(Class::ServerStopInstanceReq), Dialect::Plain);
    let head = bytes.len() - 1;
    let mut deep = [&bytes[..head], b"\x02aFutur\xe5instanceI\xe4"].concat();
    deep.extend_from_slice(b"\x01\x01tech.powerjob.Nes\xf4\x01\x01de\xe5");
    for _ in 0..100_000 {
        deep.extend_from_slice(b"\x01\x01\x01");
    }
    assert_eq!(decode(&deep), Err(DecodeError::Deep));
}

#[test]
fn what_follows_a_message_is_not_passed_over() {
    for vector in vectors() {
        let followed = [vector.bytes.as_slice(), b"\0\0\x01"].concat();
        let error = decode(&followed).expect_err("something follows");
        assert_eq!(error, DecodeError::Trailing);
    }
}

#[test]
fn only_messages_travel_by_themselves() {
    for class in Class::PARTS {
        let error = decode(&encode(&Message::new(class), Dialect::Plain)).expect_err("a part of a message");
        assert_eq!(error, DecodeError::Misfit("the message"));
    }
    assert_eq!(decode(b"\x01\x00java.lang.Objec\xf4\x01"), Err(DecodeError::Class("java.lang.Object".into())));
    assert_eq!(decode(b""), Err(DecodeError::Short));
    assert_eq!(decode(b"\x00"), Err(DecodeError::Null));
}

/// Which matters: a worker of 4.0 takes what it is told by name for another instance, without an error.
#[test]
fn the_dialect_is_told_from_the_first_bytes() {
    // What a worker of 4.0 would misread in silence is the named dialect here.
    let message = Message::from_json(Class::ServerStopInstanceReq, &json!({"instanceId": 1})).unwrap();
    let named = encode(&message, Dialect::Named);
    assert_eq!(decode(&named).unwrap().1, Dialect::Named);
    // A plain text field that begins as a name would: one field, "instanceId".
    let mut query = Message::new(Class::AskResponse);
    query.put("message", Value::Text("success".into())).unwrap();
    assert_eq!(decode(&encode(&query, Dialect::Plain)).unwrap().1, Dialect::Plain);
    let mut query = Message::new(Class::WorkerLogReportReq);
    query.put("workerAddress", Value::Text("workerAddress".into())).unwrap();
    assert_eq!(decode(&encode(&query, Dialect::Plain)).unwrap().1, Dialect::Plain);
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let Some(at) = find(bytes, from) else { return bytes.to_vec() };
    [&bytes[..at], to, &replace(&bytes[at + from.len()..], from, to)].concat()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Texts of all lengths and alphabets, and those that matter: names of fields and of classes.
fn text() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<String>(),
        "[a-z]{0,40}",
        Just("instanceId".to_owned()),
        Just("containerId".to_owned()),
        Just("workerAddress".to_owned()),
        Just("\u{1f600}".to_owned()),
    ]
    .prop_map(|text| Value::Text(text.into()))
}

fn or_null(value: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Value> {
    prop_oneof![4 => value, 1 => Just(Value::Null)].boxed()
}

fn value(kind: Kind) -> BoxedStrategy<Value> {
    let long = || prop_oneof![any::<i64>(), -200..200_i64].prop_map(Value::Long);
    let int = || prop_oneof![any::<i32>(), -200..200].prop_map(Value::Int);
    let list = |item: BoxedStrategy<Value>| {
        or_null(prop::collection::vec(item, 0..4).prop_map(|items| Value::List(items.into())))
    };
    match kind {
        Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Kind::Int => int().boxed(),
        Kind::Long => long().boxed(),
        Kind::Double => (-1e300..1e300).prop_map(Value::Double).boxed(),
        Kind::BoxedInt => or_null(int()),
        Kind::BoxedLong => or_null(long()),
        Kind::Text => or_null(text()),
        Kind::Bytes => or_null(prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Value::Bytes(bytes.into()))),
        Kind::Texts => list(or_null(text())),
        Kind::TextMap => {
            // JSON has no order, and each key once.
            let entries = prop::collection::btree_map("[a-z]{1,40}", or_null(text()), 0..4);
            or_null(
                entries.prop_map(|map| Value::Map(map.into_iter().map(|(key, value)| (key.into(), value)).collect())),
            )
        }
        Kind::Bean(class) => or_null(message(class).prop_map(|message| Value::Bean(message.into()))),
        Kind::Beans(class) => list(value(Kind::Bean(class))),
    }
}

pub(crate) fn message(class: Class) -> BoxedStrategy<Message> {
    let of_field = |field: &Field| match (class, field.name) {
        // What comes first tells the dialect; this is no name of a field, because it has a colon.
        (Class::ProcessorTrackerStatusReportReq, "address") => {
            or_null("[a-z0-9.-]{1,40}:[0-9]{1,5}".prop_map(|address| Value::Text(address.into())))
        }
        _ => value(field.kind),
    };
    let values: Vec<_> = class.fields().iter().map(of_field).collect();
    values
        .prop_map(move |values| {
            let mut message = Message::new(class);
            for (field, value) in class.fields().iter().zip(values) {
                message.put(field.name, value).expect("it was made for the field");
            }
            message
        })
        .boxed()
}

pub(crate) fn any_message() -> impl Strategy<Value = Message> {
    prop::sample::select(&Class::MESSAGES[..]).prop_flat_map(message)
}

/// Only what the plain dialect has.
fn without_later(message: &Message) -> Message {
    let mut plain = Message::new(message.class());
    for (field, value) in message.fields().filter(|(field, _)| !field.later) {
        plain.put(field.name, part_without_later(value)).expect("it was there");
    }
    plain
}

fn part_without_later(value: &Value) -> Value {
    match value {
        Value::Bean(part) => Value::Bean(without_later(part).into()),
        Value::List(items) => Value::List(items.iter().map(part_without_later).collect()),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_in_its_dialect(message in any_message(), padding in 0..3_usize) {
        for (dialect, expected) in [(Dialect::Plain, without_later(&message)), (Dialect::Named, message)] {
            let mut bytes = encode(&expected, dialect);
            bytes.resize(bytes.len() + padding * 500, 0);
            prop_assert_eq!(decode(&bytes), Ok((expected, dialect)));
        }
    }

    #[test]
    fn json_says_the_same(message in any_message()) {
        prop_assert_eq!(Message::from_json(message.class(), &message.to_json()), Ok(message));
    }

    #[test]
    fn broken_messages_are_refused_or_read_and_never_more(
        message in any_message(),
        is_plain in any::<bool>(),
        cut in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = encode(&message, if is_plain { Dialect::Plain } else { Dialect::Named });
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = decode(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = decode(&bytes);
        // The head is right, the rest is noise.
        bytes.truncate(message.class().name().len() + 3);
        bytes.extend_from_slice(&[1, 1, 0xff, 0xff, 0xff, 0xff, 0x7f]);
        if let Ok((message, _)) = decode(&bytes) {
            prop_assert!(serde_json::to_vec(&message.to_json()).unwrap().len() < MAX_DECODED);
        }
    }

    #[test]
    fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(decode(&bytes).is_err());
    }
}
