//! Golden messages of each release, decoded for ever (scenario S1-1).
//!
//! A release has a directory with three files for each message that is new or changed in it: `<Message>.none.bin`
//! (nothing set), `.all.bin` (everything set) and `.max.bin` (the largest values). They are written once: a missing one is
//! made by running the tests with `PENDULA_WIRE_GOLDEN=write`, an existing one is never touched.

mod v0_1;
mod v0_2;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;

use prost::Message;

use crate::schema;

/// One example, with its type hidden so that all fit into one list.
pub struct Example {
    release: &'static str,
    pub message: &'static str,
    kind: &'static str,
    pub bytes: Vec<u8>,
    equals: Compare,
}

/// Decodes bytes and says how they differ from the example.
type Compare = Box<dyn Fn(&[u8]) -> Result<(), String>>;

fn example<M: Message + Default + PartialEq + Debug + 'static>(kind: &'static str, value: M) -> Example {
    let name = std::any::type_name::<M>().rsplit("::").next().expect("split yields something");
    let bytes = value.encode_to_vec();
    let equals = Box::new(move |bytes: &[u8]| {
        let decoded = M::decode(bytes).map_err(|error| error.to_string())?;
        if decoded == value { Ok(()) } else { Err(format!("{decoded:?}\ninstead of\n{value:?}")) }
    });
    Example { release: "", message: name, kind, bytes, equals }
}

fn three<M: Message + Default + PartialEq + Debug + 'static>(all: M, max: M) -> [Example; 3] {
    [example("none", M::default()), example("all", all), example("max", max)]
}

/// What each release says, oldest first.
pub fn examples() -> Vec<Example> {
    let released = |release: &'static str, examples: Vec<Example>| {
        examples.into_iter().map(move |example| Example { release, ..example })
    };
    released("v0.1", v0_1::examples()).chain(released("v0.2", v0_2::examples())).collect()
}

impl Example {
    fn path(&self) -> PathBuf {
        let file = format!("golden/{}/{}.{}.bin", self.release, self.message, self.kind);
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file)
    }
}

#[test]
fn s1_1_every_golden_message_is_decoded_exactly() {
    let write = std::env::var_os("PENDULA_WIRE_GOLDEN").is_some_and(|value| value == "write");
    for example in examples() {
        let path = example.path();
        if write && !path.exists() {
            fs::write(&path, &example.bytes).unwrap();
        }
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if let Err(difference) = (example.equals)(&bytes) {
            panic!("{} decodes to {difference}", path.display());
        }
    }
}

#[test]
fn s1_1_every_message_has_its_golden_examples() {
    let in_examples: BTreeSet<String> = examples().iter().map(|example| example.message.to_owned()).collect();
    assert_eq!(in_examples, schema::messages(), "a new message needs an example here");
    for message in schema::messages() {
        for kind in ["none", "all", "max"] {
            let has = examples().iter().any(|example| example.message == message && example.kind == kind);
            assert!(has, "{message}.{kind}.bin is missing");
        }
    }
}

/// What one release froze is decoded for ever, so an example may only go together with its file, which is never.
#[test]
fn s1_1_every_golden_file_is_of_an_example() {
    let known: BTreeSet<PathBuf> = examples().iter().map(Example::path).collect();
    for release in fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")).unwrap() {
        for file in fs::read_dir(release.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            assert!(known.contains(&path) || path.ends_with("schema.txt"), "nothing decodes {}", path.display());
        }
    }
}

#[test]
fn s1_1_every_field_of_the_schema_is_set_in_an_example() {
    let set = schema::descriptors();
    for message in set.file.iter().flat_map(|file| &file.message_type) {
        let (oneofs, plain): (Vec<_>, Vec<_>) = message
            .field
            .iter()
            .map(|field| (field.number() as u32, field.oneof_index))
            .partition(|(_, oneof)| oneof.is_some());
        let all = examples().into_iter().filter(|example| example.message == message.name() && example.kind == "all");
        let present: BTreeSet<u32> = all.flat_map(|example| field_numbers(&example.bytes)).collect();
        for (number, _) in plain {
            assert!(present.contains(&number), "{}: field {number} is not set", message.name());
        }
        assert!(oneofs.is_empty() || oneofs.iter().any(|(number, _)| present.contains(number)), "{}", message.name());
    }
}

/// Field numbers at the top level of an encoded message.
fn field_numbers(mut bytes: &[u8]) -> BTreeSet<u32> {
    use prost::encoding::{DecodeContext, decode_key, skip_field};
    let mut numbers = BTreeSet::new();
    while !bytes.is_empty() {
        let (number, wire_type) = decode_key(&mut bytes).unwrap();
        skip_field(wire_type, number, &mut bytes, DecodeContext::default()).unwrap();
        numbers.insert(number);
    }
    numbers
}
