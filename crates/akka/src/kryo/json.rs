//! Messages as the JSON of PowerJob's HTTP protocol, which its gateway has structs for.
//!
//! Bytes are base64url without padding, and numbers that JSON lacks are texts (`"NaN"`), as Jackson has it.

use std::sync::Arc;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use serde_json::Value as Json;

use super::message::{Message, Value};
use super::schema::{Class, Kind};

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// JSON does not say a message of that class.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// An object was expected.
    #[error("{0:?} is an object")]
    NotAnObject(Class),
    /// A key that the class has no field for.
    #[error("{class:?} has no field {key:?}")]
    UnknownField {
        /// The class.
        class: Class,
        /// The key.
        key: String,
    },
    /// A value of another type, or a number that does not fit.
    #[error("{class:?}.{field} does not hold that")]
    Misfit {
        /// The class.
        class: Class,
        /// The field.
        field: &'static str,
    },
}

impl Message {
    /// As an object; what is absent stays absent.
    pub fn to_json(&self) -> Json {
        Json::Object(self.fields().map(|(field, value)| (field.json.to_owned(), value_to_json(value))).collect())
    }

    /// From an object, with every field of the class: what is absent or null becomes null, 0 or false.
    ///
    /// # Errors
    /// The first key that is not of the class or whose value does not fit. Nothing is left out in silence: a field
    /// that went missing on the way to a worker would be found by nobody.
    pub fn from_json(class: Class, json: &Json) -> Result<Self, JsonError> {
        let object = json.as_object().ok_or(JsonError::NotAnObject(class))?;
        if let Some(key) = object.keys().find(|key| class.fields().iter().all(|field| field.json != **key)) {
            return Err(JsonError::UnknownField { class, key: key.clone() });
        }
        let mut message = Message::new(class);
        for (place, field) in class.fields().iter().enumerate() {
            let misfit = JsonError::Misfit { class, field: field.name };
            let value = match object.get(field.json) {
                None | Some(Json::Null) => field.kind.zero(),
                Some(json) => value_from_json(field.kind, json)?.ok_or(misfit)?,
            };
            message.set(place, value);
        }
        Ok(message)
    }
}

impl Kind {
    /// What Java has where nothing was said.
    pub(super) fn zero(self) -> Value {
        match self {
            Kind::Bool => Value::Bool(false),
            Kind::Int => Value::Int(0),
            Kind::Long => Value::Long(0),
            Kind::Double => Value::Double(0.0),
            _ => Value::Null,
        }
    }
}

fn value_to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(yes) => Json::Bool(*yes),
        Value::Int(number) => (*number).into(),
        Value::Long(number) => (*number).into(),
        Value::Double(number) => match serde_json::Number::from_f64(*number) {
            Some(finite) => Json::Number(finite),
            None if number.is_nan() => "NaN".into(),
            None if *number > 0.0 => "Infinity".into(),
            None => "-Infinity".into(),
        },
        Value::Text(text) => (**text).into(),
        Value::Bytes(bytes) => URL_SAFE_NO_PAD.encode(bytes).into(),
        Value::List(items) => items.iter().map(value_to_json).collect(),
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|(key, value)| (String::from(&**key), value_to_json(value))).collect())
        }
        Value::Bean(message) => message.to_json(),
    }
}

/// `None` when it does not fit.
fn value_from_json(kind: Kind, json: &Json) -> Result<Option<Value>, JsonError> {
    let text = |json: &Json| match json {
        Json::Null => Some(Value::Null),
        Json::String(text) => Some(Value::Text(text.as_str().into())),
        _ => None,
    };
    Ok(match kind {
        Kind::Bool => json.as_bool().map(Value::Bool),
        Kind::Int | Kind::BoxedInt => json.as_i64().and_then(|number| i32::try_from(number).ok()).map(Value::Int),
        Kind::Long | Kind::BoxedLong => json.as_i64().map(Value::Long),
        Kind::Double => match json.as_str() {
            Some("NaN") => Some(Value::Double(f64::NAN)),
            Some("Infinity") => Some(Value::Double(f64::INFINITY)),
            Some("-Infinity") => Some(Value::Double(f64::NEG_INFINITY)),
            Some(_) => None,
            None => json.as_f64().map(Value::Double),
        },
        Kind::Text => text(json),
        Kind::Bytes => json.as_str().and_then(bytes_from_text).map(|bytes| Value::Bytes(bytes.into())),
        Kind::Texts => match json.as_array() {
            Some(items) => items.iter().map(text).collect::<Option<Arc<[Value]>>>().map(Value::List),
            None => None,
        },
        Kind::TextMap => match json.as_object() {
            Some(object) => {
                let entries = object.iter().map(|(key, value)| Some((key.as_str().into(), text(value)?)));
                entries.collect::<Option<Arc<[_]>>>().map(Value::Map)
            }
            None => None,
        },
        Kind::Bean(class) => Some(Value::Bean(Arc::new(Message::from_json(class, json)?))),
        Kind::Beans(class) => match json.as_array() {
            Some(items) => {
                let beans = items.iter().map(|item| match item {
                    Json::Null => Ok(Value::Null),
                    item => Ok(Value::Bean(Arc::new(Message::from_json(class, item)?))),
                });
                Some(Value::List(beans.collect::<Result<_, _>>()?))
            }
            None => None,
        },
    })
}

/// Both alphabets, with or without padding.
fn bytes_from_text(text: &str) -> Option<Vec<u8>> {
    let url = GeneralPurpose::new(&URL_SAFE, LENIENT).decode(text);
    url.or_else(|_| GeneralPurpose::new(&STANDARD, LENIENT).decode(text)).ok()
}
