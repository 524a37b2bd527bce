//! One `${name | filter(…) | …}`: reading it and computing its value.

use jiff::tz::TimeZone;
use jiff::{Span, Zoned};
use serde_json::{Map, Value};

use super::TemplateError;
use super::date::Pattern;
use crate::facts::{Facts, Input, Part, rfc3339};

const NAMES: [&str; 11] = [
    "fire_time",
    "created_time",
    "instance",
    "attempt",
    "app",
    "job",
    "params",
    "task.name",
    "task.input",
    "shard.index",
    "shard.total",
];
/// Beginnings of names that lead into a value.
const PATHS: [&str; 2] = ["params.", "task.input."];
/// Bytes of an input that a template may write. Larger ones would not fit into the environment of a process.
const INPUT_BYTES: usize = 64 * 1024;
/// Filters that one placeholder may chain.
const FILTERS: usize = 8;

/// A placeholder as written.
pub(super) struct Placeholder<'a> {
    pub(super) name: &'a str,
    filters: Vec<Filter>,
    /// Bytes from `$` to `}`, both included.
    pub(super) length: usize,
}

enum Filter {
    Date { pattern: Pattern, zone: Option<TimeZone> },
    Plus(Span),
    Default(String),
    Json,
}

/// What begins with `${`.
pub(super) enum Found<'a> {
    Ours(Placeholder<'a>),
    /// Not one of our names, or followed by what no placeholder has, as in the shell's `${app:-x}`.
    Foreign(&'a str),
}

/// A value ready to be written.
pub(super) struct Rendered {
    pub(super) text: String,
    /// Whether the text is a JSON document rather than plain text.
    pub(super) is_json: bool,
}

pub(super) fn unknown(name: &str) -> TemplateError {
    let known = "fire_time, created_time, instance, attempt, app, job, params.NAME, task.name, task.input, \
                 shard.index, shard.total";
    if name.is_empty() {
        return TemplateError::new(format!(
            "`${{` must be followed by a name ({known}); write `$${{` for the characters"
        ));
    }
    TemplateError::new(format!("`{name}` is not a name that a template may use here; known: {known}"))
}

/// Reads the placeholder at the start of `text`, which begins with `${`.
pub(super) fn read(text: &str) -> Result<Found<'_>, TemplateError> {
    let mut reader = Reader { text, at: 2 };
    reader.spaces();
    let name = reader.word();
    if !NAMES.contains(&name) && !PATHS.iter().any(|path| name.starts_with(path)) {
        return Ok(Found::Foreign(name));
    }
    reader.spaces();
    let mut filters = Vec::new();
    loop {
        if reader.eat('}') {
            return Ok(Found::Ours(Placeholder { name, filters, length: reader.at }));
        }
        if !reader.eat('|') {
            // A dot or a filter is no shell syntax, so whoever wrote it meant a template.
            if filters.is_empty() && !name.contains('.') && !reader.rest().is_empty() {
                return Ok(Found::Foreign(name));
            }
            return Err(TemplateError::new(format!("`}}` is missing after `{}`", &text[..reader.at])));
        }
        if filters.len() == FILTERS {
            return Err(TemplateError::new(format!("`{name}` has more than {FILTERS} filters")));
        }
        filters.push(reader.filter()?);
        reader.spaces();
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.rest().starts_with(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn spaces(&mut self) {
        self.take_while(|c| c == ' ' || c == '\t');
    }

    fn word(&mut self) -> &'a str {
        self.take_while(|c| c.is_alphanumeric() || "_-.".contains(c))
    }

    fn filter(&mut self) -> Result<Filter, TemplateError> {
        self.spaces();
        let name = self.word();
        self.spaces();
        let mut arguments = Vec::new();
        if self.eat('(') {
            loop {
                self.spaces();
                arguments.push(self.quoted(name)?);
                self.spaces();
                if self.eat(')') {
                    break;
                }
                if !self.eat(',') || arguments.len() == 2 {
                    return Err(TemplateError::new(format!("`)` is missing after the arguments of `{name}`")));
                }
            }
        }
        match (name, &arguments[..]) {
            ("json", []) => Ok(Filter::Json),
            ("default", [text]) => Ok(Filter::Default(text.clone())),
            ("plus", [text]) => text.parse().map(Filter::Plus).map_err(|_| {
                TemplateError::new(format!("plus('{text}') is not a span of time; write it as '-1d', '2h30m' or '1mo'"))
            }),
            ("date", [pattern]) => Ok(Filter::Date { pattern: Pattern::parse(pattern)?, zone: None }),
            ("date", [pattern, zone]) => {
                let pattern = Pattern::parse(pattern)?;
                let zone = TimeZone::get(zone)
                    .map_err(|_| TemplateError::new(format!("`{zone}` is not a time zone that this machine knows")))?;
                Ok(Filter::Date { pattern, zone: Some(zone) })
            }
            ("json" | "default" | "plus" | "date", _) => {
                Err(TemplateError::new(format!("`{name}` does not take {} argument(s)", arguments.len())))
            }
            _ => Err(TemplateError::new(format!("`{name}` is not a filter; known: date, plus, default, json"))),
        }
    }

    /// Text in single or double quotes; the quote itself is written twice, as in SQL and YAML.
    fn quoted(&mut self, filter: &str) -> Result<String, TemplateError> {
        let missing = || TemplateError::new(format!("the argument of `{filter}` must be text in quotes"));
        let quote = if self.eat('\'') {
            '\''
        } else if self.eat('"') {
            '"'
        } else {
            return Err(missing());
        };
        let mut text = String::new();
        loop {
            text.push_str(self.take_while(|c| c != quote));
            if !self.eat(quote) {
                return Err(missing());
            }
            if !self.eat(quote) {
                return Ok(text);
            }
            text.push(quote);
        }
    }
}

enum Computed {
    Time(Zoned),
    Text(String),
    Json(Value),
    Document(String),
    Missing,
}

impl Placeholder<'_> {
    /// The value that `facts` give it.
    pub(super) fn render(&self, facts: &Facts) -> Result<Rendered, TemplateError> {
        let mut value = lookup(self.name, facts)?;
        for filter in &self.filters {
            value = filter.apply(value, self.name)?;
        }
        Ok(match value {
            // The same definition runs for the root, which has no input.
            Computed::Missing if self.name.starts_with("task.") && facts.part.as_ref().is_some_and(has_no_input) => {
                Rendered { text: String::new(), is_json: false }
            }
            Computed::Missing => {
                let remedy = if self.name.starts_with("params") { "give the parameter or add" } else { "add" };
                let message = format!("`{}` is not given; {remedy} `| default('…')`", self.name);
                return Err(TemplateError::new(message));
            }
            Computed::Json(Value::String(text)) | Computed::Text(text) => Rendered { text, is_json: false },
            Computed::Time(at) => Rendered { text: rfc3339(&at), is_json: false },
            Computed::Json(value) => Rendered { text: value.to_string(), is_json: true },
            Computed::Document(text) => Rendered { text, is_json: true },
        })
    }
}

impl Filter {
    fn apply(&self, value: Computed, name: &str) -> Result<Computed, TemplateError> {
        match (self, value) {
            (Filter::Default(text), Computed::Missing) => Ok(Computed::Text(text.clone())),
            (Filter::Default(_), value) => Ok(value),
            (_, Computed::Missing) => Ok(Computed::Missing),
            (Filter::Date { pattern, zone }, Computed::Time(at)) => {
                let at = match zone {
                    Some(zone) => at.with_time_zone(zone.clone()),
                    None => at,
                };
                Ok(Computed::Text(pattern.format(&at)))
            }
            (Filter::Plus(span), Computed::Time(at)) => at
                .checked_add(*span)
                .map(Computed::Time)
                .map_err(|_| TemplateError::new(format!("plus('{span}') leads outside the calendar"))),
            (Filter::Date { .. }, _) => {
                Err(TemplateError::new(format!("`date` needs a time, which `{name}` is not at this place")))
            }
            (Filter::Plus(_), _) => {
                Err(TemplateError::new(format!("`plus` needs a time, which `{name}` is not at this place")))
            }
            (Filter::Json, Computed::Json(value)) => Ok(Computed::Document(value.to_string())),
            (Filter::Json, Computed::Time(at)) => Ok(Computed::Document(Value::String(rfc3339(&at)).to_string())),
            (Filter::Json, Computed::Text(text)) => Ok(Computed::Document(Value::String(text).to_string())),
            (Filter::Json, Computed::Document(text)) => Ok(Computed::Document(text)),
        }
    }
}

fn has_no_input(part: &Part) -> bool {
    part.input.is_none()
}

fn lookup(name: &str, facts: &Facts) -> Result<Computed, TemplateError> {
    let part = facts.part.as_ref();
    let shard = part.and_then(|part| part.shard);
    Ok(match name {
        "fire_time" => Computed::Time(facts.fire_time.clone()),
        "created_time" => Computed::Time(facts.created_time.clone()),
        "instance" => Computed::Text(facts.instance.clone()),
        "attempt" => Computed::Json(Value::from(facts.attempt)),
        "app" => Computed::Text(facts.app.clone()),
        "job" => Computed::Text(facts.job.clone()),
        "params" => Computed::Json(Value::Object(facts.params.clone())),
        "task.name" => part.map_or(Computed::Missing, |part| Computed::Text(part.name.clone())),
        "task.input" => match part.and_then(|part| part.input.as_ref()) {
            Some(input) => whole(input)?,
            None => Computed::Missing,
        },
        "shard.index" => shard.map_or(Computed::Missing, |shard| Computed::Json(Value::from(shard.index))),
        "shard.total" => shard.map_or(Computed::Missing, |shard| Computed::Json(Value::from(shard.total))),
        _ => match name.strip_prefix("task.input.") {
            Some(path) => found(part.and_then(|part| part.input.as_ref()?.json()).as_ref(), path),
            None => {
                let path = name.strip_prefix("params.").unwrap_or(name);
                found_in(&facts.params, path)
            }
        },
    })
}

/// The input as it is: JSON as JSON, anything else as text.
fn whole(input: &Input) -> Result<Computed, TemplateError> {
    let refuse = |why: String| Err(TemplateError::new(format!("`task.input` {why}; read $PENDULA_TASK_INPUT_FILE")));
    let Some(text) = input.text() else { return refuse("is not text".to_owned()) };
    if text.len() > INPUT_BYTES {
        return refuse(format!("has {} bytes, of which a template may write {INPUT_BYTES}", text.len()));
    }
    Ok(match input.json() {
        None => Computed::Text(text.to_owned()),
        Some(Value::String(text)) => Computed::Text(text),
        // As it came: reading and writing would put its keys in another order.
        Some(_) => Computed::Document(text.to_owned()),
    })
}

fn found(value: Option<&Value>, path: &str) -> Computed {
    match value {
        Some(Value::Object(map)) => found_in(map, path),
        Some(value) => given(descend(value, path)),
        None => Computed::Missing,
    }
}

fn found_in(map: &Map<String, Value>, path: &str) -> Computed {
    given(map.get(path).or_else(|| {
        let (first, rest) = path.split_once('.')?;
        descend(map.get(first)?, rest)
    }))
}

fn given(value: Option<&Value>) -> Computed {
    match value {
        None | Some(Value::Null) => Computed::Missing,
        Some(value) => Computed::Json(value.clone()),
    }
}

/// A key that contains the dots is preferred to a path; numbers lead into arrays.
fn descend<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let step = |value: &'a Value, key: &str| match value {
        Value::Object(map) => map.get(key),
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    };
    let mut value = value;
    let mut path = path;
    loop {
        if let Some(found) = step(value, path) {
            return Some(found);
        }
        // The shortest key that exists, so that `a.b.c` finds {"a.b": {"c": …}} as well.
        let (key, rest) = path
            .match_indices('.')
            .map(|(at, _)| (&path[..at], &path[at + 1..]))
            .find(|(key, _)| step(value, key).is_some())?;
        value = step(value, key)?;
        path = rest;
    }
}
