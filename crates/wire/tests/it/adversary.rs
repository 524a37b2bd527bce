//! Bytes from peers that are newer, broken or hostile: never a panic, never a default taken for a value.

use std::sync::LazyLock;

use pendula_wire::map::{MapAnswer, WorkerMap};
use pendula_wire::report::{EndedAs, News, WorkerReport};
use pendula_wire::results::{self, PageAnswer, PageRequest};
use pendula_wire::v1::*;
use pendula_wire::{WireError, hello, version};
use proptest::prelude::*;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::corpus::examples;

/// Every example of the corpus, encoded.
static EXAMPLES: LazyLock<Vec<Vec<u8>>> =
    LazyLock::new(|| examples().into_iter().map(|example| example.bytes).collect());

/// Decodes as whatever may stand first on the wire, and checks what came out.
fn digest(bytes: &[u8]) {
    if let Ok(ToServer { message: Some(message) }) = ToServer::decode(bytes) {
        match message {
            to_server::Message::Hello(hello) => {
                let _ = version::choose(&hello);
                let _ = hello::worker_info(&hello, String::new());
                let _ = pendula_wire::held::all(&hello.running);
            }
            to_server::Message::Heartbeat(heartbeat) => {
                let _ = pendula_wire::held::all(&heartbeat.held);
            }
            to_server::Message::Reports(reports) => {
                for report in reports.reports {
                    let _ = WorkerReport::try_from(report);
                }
            }
            to_server::Message::Maps(maps) => {
                for request in maps.requests {
                    let _ = WorkerMap::try_from(request);
                }
            }
            to_server::Message::Results(wishes) => {
                for request in wishes.requests {
                    let _ = PageRequest::try_from(request);
                }
            }
            to_server::Message::Logs(_) | to_server::Message::Draining(_) => {}
        }
    }
    if let Ok(ToWorker { message: Some(message) }) = ToWorker::decode(bytes) {
        match message {
            to_worker::Message::Welcome(welcome) => {
                let _ = (welcome.terms(), welcome.addresses().count());
            }
            to_worker::Message::Dispatches(dispatches) => {
                for dispatch in dispatches.dispatches {
                    let _ = (dispatch.held(), dispatch.check());
                }
            }
            to_worker::Message::Maps(maps) => {
                for reply in maps.replies {
                    let _ = MapAnswer::try_from(reply);
                }
            }
            to_worker::Message::Results(results) => {
                for page in results.pages {
                    let _ = PageAnswer::try_from(page);
                }
            }
            _ => {}
        }
    }
}

fn varint_field(number: u32, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(number, WireType::Varint, &mut bytes);
    encode_varint(value, &mut bytes);
    bytes
}

fn bytes_field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut bytes);
    encode_varint(value.len() as u64, &mut bytes);
    bytes.extend_from_slice(value);
    bytes
}

#[test]
fn s1_3_unknown_fields_are_ignored_wherever_they_stand() {
    let stop = Stop { task: Some(Held { instance: 5, attempt: 1, task: 0 }), grace_millis: 9, abandon: true };
    let unknown = [varint_field(900, 1), bytes_field(901, b"new")].concat();
    for bytes in [[unknown.clone(), stop.encode_to_vec()].concat(), [stop.encode_to_vec(), unknown].concat()] {
        assert_eq!(Stop::decode(bytes.as_slice()), Ok(stop));
    }
}

#[test]
fn s1_3_fields_in_another_order_mean_the_same() {
    let bytes = [varint_field(3, 1), varint_field(2, 9)].concat();
    assert_eq!(Stop::decode(bytes.as_slice()), Ok(Stop { task: None, grace_millis: 9, abandon: true }));
}

#[test]
fn s1_3_unknown_outcomes_keep_their_number_and_are_never_zero() {
    for number in [6_u64, 77, i32::MAX as u64] {
        let ended = Ended::decode(varint_field(1, number).as_slice()).unwrap();
        let report =
            Report { task: Some(Held { instance: 5, attempt: 1, task: 0 }), event: Some(report::Event::Ended(ended)) };
        let News::Ended(end) = WorkerReport::try_from(report).unwrap().news else { panic!() };
        assert_eq!(end.outcome, EndedAs::Unknown(number as i32));
    }
}

#[test]
fn s1_3_an_unknown_role_is_not_taken_for_another() {
    for number in [8_u64, 77, i32::MAX as u64] {
        let dispatch = Dispatch::decode(varint_field(16, number).as_slice()).unwrap();
        assert_eq!(dispatch.task_role().unwrap_err().field, "role");
        let processor = "shell".to_owned();
        assert_eq!(Dispatch { processor, ..dispatch }.check().unwrap_err().field, "role");
        let result = TaskResult::decode(varint_field(3, number).as_slice()).unwrap();
        let outcome = results::TaskResult::try_from(result).unwrap().outcome;
        assert_eq!(outcome, results::TaskOutcome::Unknown(number as i32));
    }
}

#[test]
fn s1_3_an_unknown_message_type_is_told_from_every_known_one() {
    let bytes = bytes_field(500, b"from the future");
    assert_eq!(ToServer::decode(bytes.as_slice()), Ok(ToServer { message: None }));
    assert_eq!(ToWorker::decode(bytes.as_slice()), Ok(ToWorker { message: None }));
}

#[test]
fn s1_3_a_field_of_another_type_is_an_error_that_names_it() {
    let error = Hello::decode(varint_field(4, 1).as_slice()).unwrap_err().to_string();
    assert!(error.contains("Hello.name"), "{error}");
    let error = Held::decode(bytes_field(2, b"x").as_slice()).unwrap_err().to_string();
    assert!(error.contains("Held.attempt"), "{error}");
    // Text that is no UTF-8, as from a peer that made the field `bytes`.
    let error = Hello::decode(bytes_field(4, b"\xff").as_slice()).unwrap_err().to_string();
    assert!(error.contains("Hello.name"), "{error}");
}

#[test]
fn s1_3_a_field_that_is_gone_is_refused_where_it_identifies() {
    let refused = |report: Report| WorkerReport::try_from(report).unwrap_err();
    let ended = || Some(report::Event::Ended(Ended { outcome: 1, ..Ended::default() }));
    assert_eq!(refused(Report { task: None, event: ended() }), WireError::new("Report", "task", "is missing"));
    assert_eq!(refused(Report { task: Some(Held::default()), event: ended() }).message, "Held");
    assert_eq!(hello::worker_info(&Hello::default(), String::new()).unwrap_err().field, "name");
}

#[test]
fn s1_8_a_length_beyond_the_message_allocates_nothing() {
    let mut bytes = Vec::new();
    encode_key(2, WireType::LengthDelimited, &mut bytes);
    encode_varint(4 << 30, &mut bytes);
    assert!(Dispatch::decode(bytes.as_slice()).is_err());
    assert!(LogChunk::decode([0x1a, 0xff, 0xff, 0xff, 0xff, 0x0f].as_slice()).is_err());
}

#[test]
fn s1_8_deep_nesting_ends_in_an_error() {
    // Groups are the only way to nest without end in fields that are skipped.
    let bytes = [0xa3_u8, 0x06].repeat(1_000_000);
    assert!(ToServer::decode(bytes.as_slice()).is_err());
}

#[test]
fn s1_8_http_text_is_no_message() {
    let request = b"GET /api/v1/apps HTTP/1.1\r\nhost: localhost\r\n\r\n".as_slice();
    assert!(ToServer::decode(request).is_err() && ToWorker::decode(request).is_err());
}

#[test]
fn s1_8_every_truncation_of_every_example_is_survived() {
    for bytes in EXAMPLES.iter() {
        let step = (bytes.len() / 300).max(1);
        for end in (0..bytes.len()).step_by(step) {
            digest(&bytes[..end]);
            for field in 1..=8 {
                digest(&bytes_field(field, &bytes[..end]));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn s1_8_random_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..512), field in 1..9_u32) {
        digest(&bytes);
        digest(&bytes_field(field, &bytes));
    }

    #[test]
    fn s1_8_damaged_messages_do_no_harm(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), to in any::<u8>(), field in 1..9_u32) {
        let mut bytes = which.get(&EXAMPLES).clone();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        digest(&bytes);
        digest(&bytes_field(field, &bytes));
    }
}
