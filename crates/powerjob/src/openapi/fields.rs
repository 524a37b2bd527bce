//! What a client sends, as a form or as JSON: some fields.

use serde_json::{Map, Value};

/// The fields of one call.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a body. What is neither an object nor a form has no fields.
    pub(super) fn read(content_type: &str, body: &[u8]) -> Fields {
        if content_type.contains("json") {
            let fields = serde_json::from_slice::<Value>(body).ok();
            return match fields {
                Some(Value::Object(fields)) => Fields(fields),
                // A list of nodes: whose they are stands in each.
                Some(Value::Array(list)) => match list.into_iter().next() {
                    Some(Value::Object(first)) => Fields(first),
                    _ => Fields(Map::new()),
                },
                _ => Fields(Map::new()),
            };
        }
        let text = String::from_utf8_lossy(body);
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        Fields(pairs.map(|(name, value)| (decode(name), Value::String(decode(value)))).collect())
    }

    /// Fields that did not come by a call.
    pub(crate) fn of(fields: Map<String, Value>) -> Fields {
        Fields(fields)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A whole number, as a number or as text.
    pub(super) fn long(&self, name: &str) -> Option<i64> {
        as_long(self.get(name)?)
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(yes) => Some(yes.to_string()),
            _ => None,
        }
    }

    pub(super) fn double(&self, name: &str) -> Option<f64> {
        match self.get(name)? {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        match self.get(name)? {
            Value::Bool(yes) => Some(*yes),
            Value::String(text) => Some(text.eq_ignore_ascii_case("true")),
            Value::Number(number) => number.as_i64().map(|number| number != 0),
            _ => None,
        }
    }

    /// The numbers of a list; none if there is none.
    pub(super) fn longs(&self, name: &str) -> Option<Vec<i64>> {
        let list = self.get(name)?.as_array()?;
        Some(list.iter().filter_map(as_long).collect())
    }

    /// An object, which may come as JSON text.
    pub(super) fn object(&self, name: &str) -> Option<Map<String, Value>> {
        match self.get(name)? {
            Value::Object(object) => Some(object.clone()),
            Value::String(text) => serde_json::from_str(text).ok(),
            _ => None,
        }
    }
}

pub(crate) fn as_long(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn decode(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_and_json_say_the_same() {
        let form = Fields::read("application/x-www-form-urlencoded", b"jobId=12&params=a%20b+c%3D%26&delay=0");
        let json =
            Fields::read("application/json; charset=utf-8", br#"{"jobId":12,"params":"a b c=&","delay":"0","x":null}"#);
        for fields in [form, json] {
            assert_eq!((fields.long("jobId"), fields.long("delay")), (Some(12), Some(0)));
            assert_eq!(fields.text("params").as_deref(), Some("a b c=&"));
            assert!(fields.get("x").is_none());
        }
    }
}
