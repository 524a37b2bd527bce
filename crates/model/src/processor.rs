//! What a worker runs: a built-in processor with its settings, or a handler that a user registered with an SDK.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::invalid::Invalid;
use crate::limits;
use crate::powerjob::PowerJob;

/// In a definition, one key names the processor: `{ shell: "./report.sh" }`, `{ http: { url: … } }`,
/// `{ handler: report }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Processor {
    /// A script for `/bin/sh` or another interpreter.
    Shell(#[serde(with = "short_form")] Script),
    /// A script for `python3`.
    Python(#[serde(with = "short_form")] Script),
    /// A request made by the worker.
    Http(Http),
    /// A function registered with a worker SDK.
    Handler(#[serde(with = "short_form")] Handler),
    /// A processor in a PowerJob worker.
    #[serde(rename = "powerjob")]
    PowerJob(PowerJob),
}

/// A script, either as bare text or with settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The program text. `${…}` templates in it become safely quoted values (shell only, where a POSIX-like shell
    /// reads it).
    pub script: String,
    /// Program that reads the script, with arguments; default `python3`, or for `shell` the one that a first line `#!…`
    /// names, else `/bin/sh`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interpreter: Vec<String>,
    /// Arguments of the script; templates are expanded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Further environment variables; templates are expanded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Text for standard input; templates are expanded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Working directory; default is an empty one made for the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Exit codes that mean success; default 0 alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub success_codes: Vec<i32>,
    /// User to run as, where the worker is allowed to change user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as: Option<String>,
}

impl Script {
    /// A script without settings.
    pub fn new(script: impl Into<String>) -> Self {
        Script {
            script: script.into(),
            interpreter: Vec::new(),
            args: Vec::new(),
            env: BTreeMap::new(),
            stdin: None,
            directory: None,
            success_codes: Vec::new(),
            run_as: None,
        }
    }
}

impl ShortForm for Script {
    fn from_text(text: String) -> Self {
        Script::new(text)
    }

    fn as_text(&self) -> Option<&str> {
        (*self == Script::new(self.script.as_str())).then_some(&self.script)
    }
}

/// A request and the rule that tells success.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Http {
    /// `http` or `https`; templates are expanded and percent-encoded.
    pub url: String,
    /// Default `GET`.
    #[serde(default = "get", skip_serializing_if = "is_get")]
    pub method: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Sent as it is after templates were expanded (as JSON values where the content type is JSON, percent-encoded where
    /// it is a form). Without a content type among the headers, a body that begins with `{` or `[` is JSON, any other
    /// plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// When the answer counts as success.
    #[serde(default, skip_serializing_if = "is_default")]
    pub success: HttpSuccess,
    /// Time for the whole exchange, redirects included. Default 30 s.
    #[serde(default, with = "crate::duration::option", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub timeout: Option<Duration>,
    /// Bytes of the answer's body that are read. Default 1 MiB, at most 64 MiB; a longer body fails the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body: Option<u64>,
    /// Redirects followed, each checked by the egress guard. Default 5, at most 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirects: Option<u32>,
}

/// Both rules must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HttpSuccess {
    /// Status codes (`"204"`) and inclusive ranges (`"200-299"`); default `200-299`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<String>,
    /// A condition on the body, such as `json.code == 0 && body contains "ok"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// A registered handler, either as its bare name or with settings for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handler {
    pub name: String,
    /// Settings that the handler understands; opaque to Pendula.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
}

impl ShortForm for Handler {
    fn from_text(text: String) -> Self {
        Handler { name: text, config: None }
    }

    fn as_text(&self) -> Option<&str> {
        self.config.is_none().then_some(&self.name)
    }
}

/// What may be written as a bare text when it has no settings.
trait ShortForm {
    fn from_text(text: String) -> Self;
    /// The text, if that says it all.
    fn as_text(&self) -> Option<&str>;
}

/// Reads both forms and writes the shorter. Unlike an untagged enum it keeps the messages about single fields.
mod short_form {
    use std::marker::PhantomData;

    use serde::de::value::MapAccessDeserializer;
    use serde::de::{MapAccess, Visitor};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::ShortForm;

    pub(super) fn serialize<T: ShortForm + Serialize, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value.as_text() {
            Some(text) => serializer.serialize_str(text),
            None => value.serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: ShortForm + Deserialize<'de>,
        D: Deserializer<'de>,
    {
        struct TextOrSettings<T>(PhantomData<T>);

        impl<'de, T: ShortForm + Deserialize<'de>> Visitor<'de> for TextOrSettings<T> {
            type Value = T;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text, or an object with settings")
            }

            fn visit_str<E>(self, text: &str) -> Result<T, E> {
                Ok(T::from_text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_any(TextOrSettings(PhantomData))
    }
}

/// Names that a handler must not take, because a built-in processor has them or will.
pub const RESERVED: [&str; 6] = ["shell", "python", "http", "sql", "wasm", "powerjob"];

impl Processor {
    /// Its name, for people and on the wire.
    pub fn name(&self) -> &str {
        match self {
            Processor::Shell(_) => "shell",
            Processor::Python(_) => "python",
            Processor::Http(_) => "http",
            Processor::Handler(handler) => &handler.name,
            Processor::PowerJob(_) => "powerjob",
        }
    }

    /// The name under which a worker offers it: see [`WorkerInfo::offers`](crate::worker::WorkerInfo::offers).
    pub fn offered_as(&self) -> Cow<'_, str> {
        match self {
            Processor::PowerJob(powerjob) => powerjob.offered_as().into(),
            _ => self.name().into(),
        }
    }

    /// Whether it runs code that the definition contains, which an administrator must have allowed for the app.
    pub fn is_script(&self) -> bool {
        matches!(self, Processor::Shell(_) | Processor::Python(_))
    }

    /// What travels to the worker: the settings as JSON, without the processor's name.
    pub fn config_json(&self) -> String {
        let json = match self {
            Processor::Shell(script) | Processor::Python(script) => serde_json::to_string(script),
            Processor::Http(http) => serde_json::to_string(http),
            Processor::Handler(handler) => serde_json::to_string(&handler.config),
            Processor::PowerJob(powerjob) => serde_json::to_string(powerjob),
        };
        json.expect("maps with string keys always become JSON")
    }

    /// Checks what can be checked without a worker.
    pub fn validate(&self) -> Result<(), Invalid> {
        match self {
            Processor::Shell(script) => check_script(script).map_err(|e| e.inside("shell")),
            Processor::Python(script) => check_script(script).map_err(|e| e.inside("python")),
            Processor::Http(http) => check_http(http).map_err(|e| e.inside("http")),
            Processor::PowerJob(powerjob) => powerjob.validate().map_err(|e| e.inside("powerjob")),
            Processor::Handler(handler) => {
                limits::check_name("handler", &handler.name)?;
                if RESERVED.contains(&handler.name.as_str()) || handler.name.starts_with("powerjob:") {
                    let message = format!("`{}` is the name of a built-in processor", handler.name);
                    return Err(Invalid::new("handler", message));
                }
                Ok(())
            }
        }
    }
}

fn check_script(script: &Script) -> Result<(), Invalid> {
    if script.script.trim().is_empty() {
        return Err(Invalid::new("script", "is empty; write the commands to run"));
    }
    let texts = script.interpreter.iter().chain(&script.args).chain(script.env.values()).chain([&script.script]);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(Invalid::new("script", "contains a NUL character"));
    }
    for name in script.env.keys() {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if name.is_empty() || !plain || name.starts_with(|c: char| c.is_ascii_digit()) {
            let message = format!("{name:?} is not the name of an environment variable; use letters, digits and _");
            return Err(Invalid::new("env", message));
        }
        if name.starts_with("PENDULA_") || name.starts_with("__PENDULA_") {
            let message = format!("{name} begins with PENDULA_, which is for what the worker itself tells a script");
            return Err(Invalid::new("env", message));
        }
    }
    Ok(())
}

fn check_http(http: &Http) -> Result<(), Invalid> {
    let url = &http.url;
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(Invalid::new("url", format!("{url:?} must begin with http:// or https://")));
    }
    if http.method.is_empty() || !http.method.bytes().all(|b| b.is_ascii_uppercase()) {
        return Err(Invalid::new("method", format!("{:?} is not a method; write GET, POST, PUT …", http.method)));
    }
    for status in &http.success.status {
        parse_status_range(status).ok_or_else(|| {
            Invalid::new("success.status", format!("{status:?} is neither a code (\"204\") nor a range (\"200-299\")"))
        })?;
    }
    if http.max_body.is_some_and(|max| max > 64 * 1024 * 1024) {
        return Err(Invalid::new("max_body", "at most 67108864 (64 MiB)"));
    }
    if http.redirects.is_some_and(|redirects| redirects > 20) {
        return Err(Invalid::new("redirects", "at most 20"));
    }
    Ok(())
}

/// Reads `"204"` or `"200-299"`, both ends inclusive and between 100 and 599.
pub fn parse_status_range(text: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high): (u16, u16) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
    (100 <= low && low <= high && high <= 599).then_some(low..=high)
}

fn get() -> String {
    "GET".to_owned()
}

fn is_get(method: &String) -> bool {
    method == "GET"
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Processor {
        serde_json::from_str(json).expect(json)
    }

    #[test]
    fn short_and_long_forms_mean_the_same_and_are_written_back_short() {
        assert_eq!(read(r#"{"shell":"ls"}"#), read(r#"{"shell":{"script":"ls"}}"#));
        assert_eq!(read(r#"{"handler":"a"}"#), read(r#"{"handler":{"name":"a"}}"#));
        for json in [r#"{"shell":"ls"}"#, r#"{"handler":"a"}"#, r#"{"http":{"url":"http://a"}}"#] {
            assert_eq!(serde_json::to_string(&read(json)).unwrap(), json);
        }
    }

    #[test]
    fn a_wrong_setting_is_named() {
        for (json, part) in [
            (r#"{"shell":{"script":"ls","argz":[]}}"#, "unknown field `argz`"),
            (r#"{"shell":{"script":"ls","success_codes":["x"]}}"#, "expected i32"),
            (r#"{"shell":5}"#, "a text, or an object"),
            (r#"{"handler":{"config":1}}"#, "missing field `name`"),
        ] {
            let error = serde_json::from_str::<Processor>(json).unwrap_err().to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
    }

    #[test]
    fn what_cannot_run_is_refused_with_its_field() {
        for (json, field) in [
            (r#"{"shell":" "}"#, "shell.script"),
            (r#"{"shell":{"script":"ls","env":{"A B":"1"}}}"#, "shell.env"),
            (r#"{"shell":{"script":"ls","env":{"PENDULA_JOB":"1"}}}"#, "shell.env"),
            (r#"{"http":{"url":"file:///etc/passwd"}}"#, "http.url"),
            (r#"{"http":{"url":"http://a","success":{"status":["abc"]}}}"#, "http.success.status"),
            (r#"{"handler":"shell"}"#, "handler"),
        ] {
            assert_eq!(read(json).validate().unwrap_err().field, field, "{json}");
        }
    }
}
