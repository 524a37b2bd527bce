//! `${…}` in definitions: a value of the attempt, put where it stands and never understood as anything but a value.
//!
//! A placeholder is a name and filters: `${fire_time | plus('-1d') | date('yyyy-MM-dd')}`. The language is total: no
//! loops, no nesting, one pass; what a placeholder expands to is not looked at again. How a value is written depends on
//! the place ([`Place`]); shell text has its own rules, in [`shell`].

pub mod date;
mod placeholder;
pub mod shell;

use crate::facts::Facts;
use placeholder::{Found, Rendered};

/// Bytes that a text may have after expansion.
const EXPANDED_BYTES: usize = 1024 * 1024;

/// Why a template cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(String);

impl TemplateError {
    fn new(message: impl Into<String>) -> Self {
        TemplateError(message.into())
    }
}

/// Where a value will stand, which decides how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// As it is: arguments, environment, standard input, plain bodies.
    Plain,
    /// In a URL or a form: everything but letters, digits and `-._~` is percent-encoded.
    Url,
    /// In a header: line breaks and other control characters are refused.
    Header,
    /// In a JSON document: inside a string, the value's text is escaped; elsewhere, it is written as a JSON value.
    Json,
}

/// Expands every placeholder of `text`; `$${` stands for `${`.
///
/// # Errors
/// An unknown name, a missing parameter without `default`, a filter that does not fit, a value that must not stand in
/// this place, or a text that grows beyond 1 MiB.
pub fn expand(text: &str, facts: &Facts, place: Place) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(text.len());
    let mut json = JsonPosition::default();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            for literal in [before, "${"] {
                json.pass(literal);
                out.push_str(literal);
            }
            rest = &from[2..];
            continue;
        }
        json.pass(before);
        out.push_str(before);
        let placeholder = match placeholder::read(from)? {
            Found::Ours(placeholder) => placeholder,
            Found::Foreign(name) => return Err(placeholder::unknown(name)),
        };
        let value = placeholder.render(facts)?;
        out.push_str(&written(value, place, json.in_string, placeholder.name)?);
        if out.len() > EXPANDED_BYTES {
            return Err(TemplateError::new("the text grows beyond 1 MiB when its templates are expanded"));
        }
        rest = &from[placeholder.length..];
    }
    out.push_str(rest);
    Ok(out)
}

fn written(value: Rendered, place: Place, in_string: bool, name: &str) -> Result<String, TemplateError> {
    match place {
        Place::Plain => Ok(value.text),
        Place::Url => {
            // The percent-encoded forms of these mean the same to a URL parser, so no encoding makes them harmless.
            if value.text == "." || value.text == ".." {
                let message = format!("`{name}` is {:?}, which would change the path of the address", value.text);
                return Err(TemplateError::new(message));
            }
            Ok(percent_encoded(&value.text))
        }
        Place::Header => {
            if value.text.chars().any(|c| c.is_control()) {
                let message = format!("`{name}` has a line break or control character, which no header may have");
                return Err(TemplateError::new(message));
            }
            Ok(value.text)
        }
        Place::Json if in_string => {
            let quoted = serde_json::Value::String(value.text).to_string();
            Ok(quoted[1..quoted.len() - 1].to_owned())
        }
        Place::Json if value.is_json => Ok(value.text),
        Place::Json => Ok(serde_json::Value::String(value.text).to_string()),
    }
}

fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Whether the end of the literal text seen so far lies inside a JSON string.
#[derive(Default)]
struct JsonPosition {
    in_string: bool,
    escaped: bool,
}

impl JsonPosition {
    fn pass(&mut self, literal: &str) {
        for byte in literal.bytes() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Input, Part, sample};
    use pendula_worker::{Shard, TaskRole};
    use serde_json::json;

    fn plain(text: &str) -> Result<String, String> {
        let facts = sample(json!({
            "day": "monday", "n": 5, "list": [1, "two"], "deep": { "a.b": { "c": true } }, "nothing": null, "x-y": "z"
        }));
        expand(text, &facts, Place::Plain).map_err(|e| e.to_string())
    }

    #[test]
    fn names_and_filters() {
        for (text, expected) in [
            ("a ${instance}-${attempt} b", "a 7001-2 b"),
            ("${app}/${job}", "demo/nightly"),
            ("${fire_time}", "2026-11-21T02:30:00+08:00"),
            ("${ fire_time | date('yyyy-MM-dd HH:mm:ss') }", "2026-11-21 02:30:00"),
            ("${fire_time|date(\"yyyy-MM-dd'T'HH\")}", "2026-11-21T02"),
            ("${fire_time | date('yyyy-MM-dd HH:mm', 'UTC')}", "2026-11-20 18:30"),
            ("${fire_time | plus('-1d') | date('yyyyMMdd')}", "20261120"),
            ("${fire_time | plus('1mo') | date('yyyyMMdd')}", "20261221"),
            ("${params.day} ${params.n} ${params.x-y}", "monday 5 z"),
            ("${params.list} ${params.list.1}", "[1,\"two\"] two"),
            ("${params.deep.a.b.c}", "true"),
            ("${params.day | json}", "\"monday\""),
            ("${params.none | default('it''s')}", "it's"),
            ("${params.nothing | default('x')}", "x"),
            ("$${instance} $ $5 {}", "${instance} $ $5 {}"),
        ] {
            assert_eq!(plain(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, part) in [
            ("${HOME}", "`HOME`"),
            ("${params.none}", "`params.none`"),
            ("${params.nothing}", "`params.nothing`"),
            ("${fire_time | date('jj')}", "j"),
            ("${fire_time | date('yyyy', 'Mars/Base')}", "Mars/Base"),
            ("${fire_time | plus('soon')}", "soon"),
            ("${fire_time | shout}", "shout"),
            ("${params.day | date('yyyy')}", "date"),
            ("${instance", "`}`"),
            ("${}", "name"),
        ] {
            let message = plain(text).expect_err(text);
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn a_day_back_is_a_calendar_day_where_the_day_has_23_hours() {
        let mut facts = sample(json!({}));
        facts.fire_time = "2026-03-30T02:30:00[Europe/Berlin]".parse().unwrap();
        let text = "${fire_time | plus('-1d') | date('yyyy-MM-dd')} ${fire_time | plus('-24h') | date('dd HH:mm')}";
        assert_eq!(expand(text, &facts, Place::Plain).unwrap(), "2026-03-29 29 01:30");
        facts.fire_time = "2026-03-30T00:10:00[Europe/Berlin]".parse().unwrap();
        assert_eq!(expand("${fire_time | plus('-1d')}", &facts, Place::Plain).unwrap(), "2026-03-29T00:10:00+01:00");
    }

    #[test]
    fn what_a_value_contains_is_not_expanded_again() {
        let facts = sample(json!({ "a": "${instance}", "b": "$${instance}" }));
        let expanded = expand("${params.a} ${params.b}", &facts, Place::Plain).unwrap();
        assert_eq!(expanded, "${instance} $${instance}");
    }

    #[test]
    fn each_place_has_its_own_writing() {
        let facts = sample(json!({ "v": "a b&c=\"d\"/é\r\n", "n": 5, "o": { "k": [null] }, "up": ".." }));
        let write = |text: &str, place| expand(text, &facts, place);
        let url = write("http://h/${params.v}?n=${params.n}", Place::Url).unwrap();
        assert_eq!(url, "http://h/a%20b%26c%3D%22d%22%2F%C3%A9%0D%0A?n=5");
        assert!(write("http://h/${params.up}/x", Place::Url).is_err());
        assert!(write("Bearer ${params.v}", Place::Header).is_err());
        let body = write(
            r#"{"s": "\"${params.v}", "v": ${params.v}, "n": ${params.n}, "o": ${params.o}, "j": ${params.o | json}}"#,
            Place::Json,
        )
        .unwrap();
        let read: serde_json::Value = serde_json::from_str(&body).unwrap();
        let v = "a b&c=\"d\"/é\r\n";
        let expected = json!({ "s": format!("\"{v}"), "v": v, "n": 5, "o": { "k": [null] }, "j": { "k": [null] } });
        assert_eq!(read, expected);
    }

    #[test]
    fn parts_of_an_instance_show_name_input_and_shard() {
        let part = |input: Option<(&[u8], &str)>| {
            let input = input.map(|(bytes, kind)| Input { bytes: bytes.to_vec(), content_type: kind.to_owned() });
            let shard = Some(Shard { index: 1, total: 8 });
            let part = Part { role: TaskRole::Sub, id: 7, name: "it's".to_owned(), input, shard };
            Facts { part: Some(part), ..sample(json!({})) }
        };
        let write = |text, input, place| expand(text, &part(input), place).map_err(|error| error.to_string());
        let text = Some((b"a \"b\"".as_slice(), "text/plain"));
        let object = Some((br#"{"z": "\"", "a": [1]}"#.as_slice(), "application/json; charset=utf-8"));
        for (template, input, place, expected) in [
            ("${task.name} ${shard.index}/${shard.total}", None, Place::Plain, "it's 1/8"),
            ("${task.input}", text, Place::Plain, "a \"b\""),
            (r#"{"i": ${task.input}, "s": "${task.input}"}"#, text, Place::Json, r#"{"i": "a \"b\"", "s": "a \"b\""}"#),
            ("${task.input}", object, Place::Json, r#"{"z": "\"", "a": [1]}"#),
            ("${task.input.z} ${task.input.a.0}", object, Place::Plain, "\" 1"),
            ("${task.input}", Some((br#""x""#.as_slice(), "application/json")), Place::Plain, "x"),
            // The root of a map has no input, and the same definition.
            ("[${task.input}${task.input.z}]", None, Place::Plain, "[]"),
            ("${task.input | default('-')}", None, Place::Plain, "-"),
            ("${task.input.none | default('-')}", text, Place::Plain, "-"),
        ] {
            assert_eq!(write(template, input, place).as_deref(), Ok(expected), "{template}");
        }
        let large = vec![b'x'; 64 * 1024 + 1];
        for (template, input, message) in [
            ("${task.input}", Some((b"\xff".as_slice(), "a/b")), "not text"),
            ("${task.input}", Some((large.as_slice(), "a/b")), "65537 bytes"),
            ("${task.input.none}", object, "`task.input.none` is not given"),
            ("${task.role}", object, "`task.role` is not a name"),
        ] {
            let error = write(template, input, Place::Plain).expect_err(template);
            assert!(error.contains(message), "{error}");
        }
        assert!(plain("${task.input}").is_err() && plain("${shard.index}").is_err());
    }

    #[test]
    fn growth_is_bounded() {
        let facts = sample(json!({ "big": "x".repeat(60_000) }));
        assert!(expand(&"${params.big}".repeat(100), &facts, Place::Plain).is_err());
    }
}
