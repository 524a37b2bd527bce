//! Frames against what real workers send, and against noise.

use pendula_akka::artery::control::Control;
use pendula_akka::artery::envelope::{CONTROL, Envelope, EnvelopeError, POWERJOB, SELECTION};
use pendula_akka::artery::selection::Selection;
use pendula_akka::artery::{Address, UniqueAddress, outgoing};
use proptest::prelude::*;

use crate::kryo::{any_message, from_hex};

fn worker() -> UniqueAddress {
    UniqueAddress { address: Address::of_worker("10.0.0.5:27777").unwrap(), uid: 0x1122_3344_5566_7788 }
}

fn server() -> UniqueAddress {
    UniqueAddress { address: Address::new("oms-server", "10.0.0.1", 10086).unwrap(), uid: 0x0102_0304_0506_0708 }
}

/// Without its length, which is checked.
fn frame(hex: &str) -> Vec<u8> {
    let bytes = from_hex(hex);
    let (length, frame) = bytes.split_at(4);
    assert_eq!(u32::from_le_bytes(length.try_into().unwrap()) as usize, frame.len());
    frame.to_vec()
}

const REQ_FROM_WORKER: &str = "6b000000000000008877665544332211110000001c0000001e00000020000000000000000100640a250a190a04616b6b6112036f6d731a0831302e302e302e352081d9011088ef99abc5e88c9111121f0a04616b6b61120a6f6d732d7365727665721a0831302e302e302e3120e64e";
const REQ_FROM_US: &str = "6b000000000000000807060504030201110000001c0000001e00000020000000000000000100640a2b0a1f0a04616b6b61120a6f6d732d7365727665721a0831302e302e302e3120e64e10888e98a8c0e080810112190a04616b6b6112036f6d731a0831302e302e302e352081d901";
const RSP_FROM_US: &str = "50000000000000000807060504030201110000001c0000001e00000020000000000000000100650a2b0a1f0a04616b6b61120a6f6d732d7365727665721a0831302e302e302e3120e64e10888e98a8c0e0808101";
const RSP_FROM_WORKER: &str = "4a000000000000008877665544332211110000001c0000001e00000020000000000000000100650a250a190a04616b6b6112036f6d731a0831302e302e302e352081d9011088ef99abc5e88c9111";
const TERMINATING: &str = "8b000000000000008877665544332211110000001c0000005f000000610000004100616b6b613a2f2f6f6d734031302e302e302e353a32373737372f73797374656d2f72656d6f7465466c7573684f6e53687574646f776e232d38353235343739323000000100620a250a190a04616b6b6112036f6d731a0831302e302e302e352081d9011088ef99abc5e88c9111";
const TERMINATING_ACK: &str = "91000000000000000807060504030201110000001c0000001e0000006100000000004100616b6b613a2f2f6f6d734031302e302e302e353a32373737372f73797374656d2f72656d6f7465466c7573684f6e53687574646f776e232d3835323534373932300100630a2b0a1f0a04616b6b61120a6f6d732d7365727665721a0831302e302e302e3120e64e10888e98a8c0e0808101";
const STOP: &str = "a4000000000000000807060504030201060000001c0000001e0000003a00000000001a00616b6b613a2f2f6f6d734031302e302e302e353a32373737372f00000a4a0100746563682e706f7765726a6f622e636f6d6d6f6e2e726571756573742e53657276657253746f70496e7374616e63655265f10101696e7374616e636549e4098081dcb58c8effa2101091fa101a0808011204757365721a0a08011206776f726b65722800";
const ANSWER: &str = "98000000000000000807060504030201113d04001c0000001e0000005300000000003300616b6b613a2f2f6f6d734031302e302e302e353a32373737372f74656d702f5f757365725f7365727665725f6163746f72246100000100746563682e706f7765726a6f622e636f6d6d6f6e2e726573706f6e73652e41736b526573706f6e73e50103646174e16d6573736167e5737563636573f300000501";
const ASK_HEAD: &str = "000000000807060504030201060000001c00000046000000620000002800616b6b613a2f2f6f6d732d7365727665724031302e302e302e313a31303038362f74656d702f71311a00616b6b613a2f2f6f6d734031302e302e302e353a32373737372f0000";

#[test]
fn what_we_send_is_what_workers_were_seen_to_take() {
    let (us, worker) = (server(), worker());
    assert_eq!(outgoing::handshake(&us, &worker.address), from_hex(REQ_FROM_US));
    assert_eq!(outgoing::handshake_answer(&us), from_hex(RSP_FROM_US));
    let flush = "akka://oms@10.0.0.5:27777/system/remoteFlushOnShutdown#-852547920";
    assert_eq!(outgoing::terminating_ack(&us, flush), from_hex(TERMINATING_ACK));

    let stop = frame(STOP);
    let kryo = Selection::parse(Envelope::parse(&stop).unwrap().payload).unwrap().unwrap().payload.to_vec();
    assert_eq!(outgoing::message(&us, &worker.address, "worker", None, &kryo).unwrap(), from_hex(STOP));
    let ask = outgoing::message(&us, &worker.address, "worker", Some("q1"), &kryo).unwrap();
    assert_eq!(ask[4..104], from_hex(ASK_HEAD));

    let expected = frame(ANSWER);
    let envelope = Envelope::parse(&expected).unwrap();
    assert_eq!(envelope.serializer, POWERJOB);
    assert_eq!(outgoing::answer(&us, envelope.recipient, envelope.payload).unwrap(), from_hex(ANSWER));
    assert_eq!(outgoing::answer(&us, "", b"x"), None, "without a recipient it would break the worker");
    assert_eq!(outgoing::asked_as("akka://oms-server@10.0.0.1:10086/temp/q1"), Some("q1"));
}

#[test]
fn what_workers_send_is_read() {
    let control = |hex: &str| {
        let frame = frame(hex);
        let envelope = Envelope::parse(&frame).unwrap();
        assert_eq!(envelope.serializer, CONTROL);
        Control::parse(envelope.manifest, envelope.payload).unwrap()
    };
    assert_eq!(control(REQ_FROM_WORKER), Control::HandshakeReq { from: worker(), to: server().address });
    assert_eq!(control(RSP_FROM_WORKER), Control::HandshakeRsp(worker()));
    assert_eq!(control(TERMINATING), Control::Terminating(worker()));

    let stop = frame(STOP);
    let envelope = Envelope::parse(&stop).unwrap();
    assert_eq!((envelope.serializer, envelope.recipient), (SELECTION, "akka://oms@10.0.0.5:27777/"));
    assert_eq!(Selection::parse(envelope.payload).unwrap().unwrap().actor, "worker");
}

#[test]
fn strange_frames_are_told_apart_from_broken_ones() {
    let mut later = frame(REQ_FROM_WORKER);
    later[0] = 1;
    assert_eq!(Envelope::parse(&later), Err(EnvelopeError::Version));
    let mut compressed = frame(REQ_FROM_WORKER);
    compressed[19] = 0xff;
    assert_eq!(Envelope::parse(&compressed), Err(EnvelopeError::Compressed));
    let whole = frame(REQ_FROM_WORKER);
    for cut in 0..28 + 7 {
        assert_eq!(Envelope::parse(&whole[..cut]), Err(EnvelopeError::Malformed));
    }
    let mut annotated = whole.clone();
    annotated[1] = 1;
    annotated.splice(28..28, [3, 0, 0, 0, 9, 9, 9]);
    assert_eq!(Envelope::parse(&annotated).unwrap().payload, Envelope::parse(&whole).unwrap().payload);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_travel_whole(message in any_message(), actor in "[a-z_]{1,20}") {
        let kryo = pendula_akka::kryo::encode(&message, pendula_akka::kryo::Dialect::Named);
        let sent = outgoing::message(&server(), &worker().address, &actor, Some("q"), &kryo).unwrap();
        let envelope = Envelope::parse(&sent[4..]).unwrap();
        let selection = Selection::parse(envelope.payload).unwrap().unwrap();
        prop_assert_eq!((selection.payload, selection.actor), (&kryo[..], &actor[..]));
        prop_assert_eq!(outgoing::asked_as(envelope.sender), Some("q"));
    }

    #[test]
    fn noise_is_read_or_refused(
        which in 0..4_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = frame([REQ_FROM_WORKER, TERMINATING, STOP, ANSWER][which]);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Ok(envelope) = Envelope::parse(&bytes) {
            let _ = Selection::parse(envelope.payload);
            for manifest in ["a", "b", "d", "e", "f", envelope.manifest] {
                let _ = Control::parse(manifest, envelope.payload);
            }
        }
    }
}
