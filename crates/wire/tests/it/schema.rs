//! The schema may only grow. `golden/<release>/schema.txt` is all that the release speaks; nothing in it may change.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

/// What each release speaks, oldest first.
const RELEASES: [(&str, &str); 2] =
    [("v0.1", include_str!("../../golden/v0.1/schema.txt")), ("v0.2", include_str!("../../golden/v0.2/schema.txt"))];

pub fn descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(pendula_wire::DESCRIPTORS).expect("compiled by build.rs")
}

/// Names of all messages that are not the entries of a map.
pub fn messages() -> BTreeSet<String> {
    let is_map = |message: &DescriptorProto| message.options.as_ref().is_some_and(|options| options.map_entry());
    let set = descriptors();
    let messages = set.file.iter().flat_map(|file| &file.message_type);
    messages
        .inspect(|message| assert!(message.nested_type.iter().all(is_map), "list nested messages here too"))
        .map(|message| message.name().to_owned())
        .collect()
}

/// One line per message, field, enum value, reservation and method: everything that the bytes on the wire depend on.
fn lines(set: &FileDescriptorSet) -> Vec<String> {
    let mut lines = Vec::new();
    for file in &set.file {
        lines.push(format!("package {}", file.package()));
        for service in &file.service {
            for method in &service.method {
                let stream = |is_stream: bool| if is_stream { "stream " } else { "" };
                lines.push(format!(
                    "rpc {}/{} {}{} {}{}",
                    service.name(),
                    method.name(),
                    stream(method.client_streaming()),
                    method.input_type(),
                    stream(method.server_streaming()),
                    method.output_type(),
                ));
            }
        }
        for message in &file.message_type {
            message_lines(message, message.name(), &mut lines);
        }
        for values in &file.enum_type {
            for value in &values.value {
                lines.push(format!("enum {} {} = {}", values.name(), value.name(), value.number()));
            }
        }
    }
    lines
}

fn message_lines(message: &DescriptorProto, name: &str, lines: &mut Vec<String>) {
    lines.push(format!("message {name}"));
    for field in &message.field {
        let repeated = if field.label() == Label::Repeated { "repeated " } else { "" };
        let kind = match field.r#type() {
            Type::Message | Type::Enum => field.type_name().to_owned(),
            other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
        };
        let oneof = field.oneof_index.map(|index| format!(" in {}", message.oneof_decl[index as usize].name()));
        let oneof = oneof.unwrap_or_default();
        lines.push(format!("field {name} {} {repeated}{kind} {}{oneof}", field.number(), field.name()));
    }
    for range in &message.reserved_range {
        lines.extend((range.start()..range.end()).map(|number| format!("reserved {name} {number}")));
    }
    for nested in &message.nested_type {
        message_lines(nested, &format!("{name}.{}", nested.name()), lines);
    }
}

/// What breaks peers of the committed release. A field may go if its number is reserved.
fn breaks(committed: &str, current: &[String]) -> Vec<String> {
    let current: BTreeSet<&str> = current.iter().map(String::as_str).collect();
    let is_reserved = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (message, number) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        line.starts_with("field ") && current.contains(format!("reserved {message} {number}").as_str())
    };
    committed
        .lines()
        .filter(|line| !line.is_empty() && !current.contains(line) && !is_reserved(line))
        .map(str::to_owned)
        .collect()
}

#[test]
fn s1_10_nothing_was_removed_renumbered_or_retyped() {
    let current = lines(&descriptors());
    for (release, committed) in RELEASES {
        let broken = breaks(committed, &current);
        assert!(broken.is_empty(), "peers of release {release} rely on:\n{}", broken.join("\n"));
    }
    let (newest, committed) = RELEASES[RELEASES.len() - 1];
    let known: BTreeSet<_> = committed.lines().collect();
    let added: Vec<_> = current.iter().filter(|line| !known.contains(line.as_str())).cloned().collect();
    assert!(
        added.is_empty(),
        "until {newest} is released, add to golden/{newest}/schema.txt (later: a new version):\n{}",
        added.join("\n")
    );
}

#[test]
fn s1_10_the_check_notices_each_kind_of_break() {
    let committed = "field A 1 string name\nfield A 2 uint32 count\nenum E X = 1";
    let current = |lines: &[&str]| breaks(committed, &lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>());
    let kept = ["field A 1 string name", "field A 2 uint32 count", "enum E X = 1"];
    assert!(current(&kept).is_empty());
    assert!(current(&[kept[0], kept[1], kept[2], "field A 3 bytes new"]).is_empty());
    assert!(current(&[kept[0], "reserved A 2", kept[2]]).is_empty());
    for (spoiled, broken) in [
        (["", kept[1], kept[2]], kept[0]),
        (["field A 3 string name", kept[1], kept[2]], kept[0]),
        ([kept[0], "field A 2 uint64 count", kept[2]], kept[1]),
        ([kept[0], kept[1], "enum E X = 2"], kept[2]),
        (["reserved B 1", kept[1], kept[2]], kept[0]),
    ] {
        assert_eq!(current(&spoiled), [broken]);
    }
}

#[test]
fn enums_begin_with_unspecified_and_numbers_are_not_used_twice() {
    let set = descriptors();
    for values in set.file.iter().flat_map(|file| &file.enum_type) {
        assert!(values.value[0].number() == 0 && values.value[0].name().ends_with("_UNSPECIFIED"), "{}", values.name());
    }
    let mut seen = BTreeMap::new();
    for line in lines(&set).iter().filter(|line| line.starts_with("field ") || line.starts_with("reserved ")) {
        let mut words = line.split(' ').skip(1);
        let number = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        assert_eq!(seen.insert(number, line.clone()), None, "{line}");
    }
}
