//! From a message to bytes, as PowerJob's own server writes them, without its padding and its references.

use super::dialect::Dialect;
use super::message::{Message, Value};
use super::schema::{Class, Kind};
use super::writer::{Writer, count};

const ARRAY_LIST: &str = "java.util.ArrayList";
const HASH_MAP: &str = "java.util.HashMap";

/// The message as `dialect` has it.
///
/// The plain dialect has no field that came later than 4.0, and no way to leave one out: what is absent is written as
/// null, 0 or false. In the named one a message has the fields that were put, and its parts have all of theirs.
pub fn encode(message: &Message, dialect: Dialect) -> Vec<u8> {
    let mut payload = Payload { out: Writer::default(), dialect, names: Vec::new(), headers: Vec::new() };
    payload.class(message.class().name());
    payload.out.byte(NEW);
    payload.bean(message, true);
    payload.out.bytes
}

const NULL: u8 = 0;
const NEW: u8 = 1;

struct Payload {
    out: Writer,
    dialect: Dialect,
    names: Vec<&'static str>,
    headers: Vec<Class>,
}

impl Payload {
    fn class(&mut self, name: &'static str) {
        self.out.byte(1);
        let known = self.names.iter().position(|known| *known == name);
        self.out.varint(count(known.unwrap_or(self.names.len())));
        if known.is_none() {
            self.out.name(name);
            self.names.push(name);
        }
    }

    fn bean(&mut self, message: &Message, is_root: bool) {
        let is_there = |value: Option<&Value>| !is_root || value.is_some();
        match self.dialect {
            Dialect::Plain => {
                for (field, value) in message.all_fields().filter(|(field, _)| !field.later) {
                    self.plain(field.kind, value.unwrap_or(&field.kind.zero()));
                }
            }
            Dialect::Named => {
                if !self.headers.contains(&message.class()) {
                    self.headers.push(message.class());
                    self.out.varint(count(message.all_fields().filter(|(_, value)| is_there(*value)).count()));
                    for (field, _) in message.all_fields().filter(|(_, value)| is_there(*value)) {
                        self.out.text(field.name);
                    }
                }
                for (field, value) in message.all_fields().filter(|(_, value)| is_there(*value)) {
                    self.named(field.kind, value.unwrap_or(&field.kind.zero()));
                }
            }
        }
    }

    fn plain(&mut self, kind: Kind, value: &Value) {
        if matches!(kind, Kind::BoxedInt | Kind::BoxedLong) && *value != Value::Null {
            self.out.byte(NEW);
        }
        match value {
            Value::Text(_) | Value::Bytes(_) => self.out.byte(NEW),
            Value::List(_) => self.new_object(ARRAY_LIST),
            Value::Map(_) => self.new_object(HASH_MAP),
            Value::Bean(message) => self.new_object(message.class().name()),
            Value::Null => self.out.byte(NULL),
            Value::Bool(_) | Value::Int(_) | Value::Long(_) | Value::Double(_) => {}
        }
        self.content(kind, value);
    }

    fn named(&mut self, kind: Kind, value: &Value) {
        match value {
            Value::Null => self.out.byte(0),
            Value::Int(_) => self.out.byte(2),
            Value::Text(_) => self.out.bytes.extend_from_slice(&[3, NEW]),
            Value::Bool(_) => self.out.byte(5),
            Value::Long(_) => self.out.byte(9),
            Value::Double(_) => self.out.byte(10),
            Value::Bytes(_) => self.new_object("[B"),
            Value::List(_) => self.new_object(ARRAY_LIST),
            Value::Map(_) => self.new_object(HASH_MAP),
            Value::Bean(message) => self.new_object(message.class().name()),
        }
        self.content(kind, value);
    }

    fn new_object(&mut self, class: &'static str) {
        self.class(class);
        self.out.byte(NEW);
    }

    /// What stands behind class and mark.
    fn content(&mut self, kind: Kind, value: &Value) {
        match value {
            Value::Null => {}
            Value::Bool(yes) => self.out.bool(*yes),
            Value::Int(number) => self.out.int(*number),
            Value::Long(number) => self.out.long(*number),
            Value::Double(number) => self.out.double(*number),
            Value::Text(text) => self.out.text(text),
            Value::Bytes(bytes) => {
                self.out.varint(count(bytes.len()) + 1);
                self.out.bytes.extend_from_slice(bytes);
            }
            Value::List(items) => self.list(kind, items),
            Value::Map(entries) => {
                self.out.varint(count(entries.len()) + 1);
                for (key, value) in entries.iter() {
                    self.out.byte(NEW);
                    self.out.text(key);
                    self.text_or_null(value);
                }
            }
            Value::Bean(message) => self.bean(message, false),
        }
    }

    fn list(&mut self, kind: Kind, items: &[Value]) {
        let size = count(items.len()) + 1;
        let has_null = items.contains(&Value::Null);
        let Kind::Beans(class) = kind else {
            self.out.flagged(has_null, size);
            return items.iter().for_each(|item| self.text_or_null(item));
        };
        if items.is_empty() {
            return self.out.flagged(false, size);
        }
        // All of one class.
        self.out.flagged(true, size);
        if items.iter().all(|item| *item == Value::Null) {
            return self.out.byte(NULL);
        }
        self.class(class.name());
        self.out.bool(has_null);
        for item in items {
            match item {
                Value::Bean(message) => {
                    self.out.byte(NEW);
                    self.bean(message, false);
                }
                _ => self.out.byte(NULL),
            }
        }
    }

    fn text_or_null(&mut self, value: &Value) {
        match value {
            Value::Text(text) => {
                self.out.byte(NEW);
                self.out.text(text);
            }
            _ => self.out.byte(NULL),
        }
    }
}
