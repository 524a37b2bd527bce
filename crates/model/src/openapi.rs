//! Schemas of the types that are written as plain text in JSON.

use utoipa::openapi::{ObjectBuilder, RefOr, Schema, schema::Type};
use utoipa::{PartialSchema, ToSchema};

macro_rules! text_schema {
    ($($name:ty, $label:literal, $description:literal, $example:literal;)+) => {$(
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .description(Some($description))
                    .examples([serde_json::json!($example)])
                    .into()
            }
        }

        impl ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                $label.into()
            }
        }
    )+};
}

text_schema! {
    crate::AppId, "AppId", "A decimal number.", "123456789012345678";
    crate::JobId, "JobId", "A decimal number.", "123456789012345678";
    crate::InstanceId, "InstanceId", "A decimal number.", "123456789012345678";
    crate::TokenId, "TokenId", "A decimal number.", "123456789012345678";
    crate::Timestamp, "Timestamp", "A time, as RFC 3339 has it, in UTC.", "2026-11-21T08:00:00Z";
}

macro_rules! word_schema {
    ($($name:ident),+) => {$(
        impl PartialSchema for crate::instance::$name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .enum_values(Some(crate::instance::$name::ALL.iter().map(|value| value.as_str())))
                    .into()
            }
        }

        impl ToSchema for crate::instance::$name {}
    )+};
}

word_schema!(InstanceState, TaskState, Origin, StopCause);

macro_rules! object_or_text_schema {
    ($($path:path, $name:ident, $description:literal;)+) => {$(
        impl PartialSchema for $path {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::SchemaType::from_iter([Type::String, Type::Object]))
                    .description(Some($description))
                    .into()
            }
        }

        impl ToSchema for $path {
            fn name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )+};
}

object_or_text_schema! {
    crate::processor::Script, Script, "The script's text, or an object: script, interpreter, args, env, stdin, directory, success_codes, run_as.";
    crate::processor::Handler, Handler, "The handler's name, or an object: name, config.";
    crate::mode::ExecutionMode, ExecutionMode, "`standalone`, `broadcast`, `map`, `map_reduce`, or an object with one mode and its settings: `{ sharded: 8 }`, `{ broadcast: { pre, post, success, rerun_on_same_worker, rerun_within, include_late_joiners, task_timeout } }`, `{ map: { per_worker, max_workers, tolerate, fail_fast, task_timeout } }`.";
    crate::mode::BroadcastSuccess, BroadcastSuccess, "`all`, `any`, `post`, or `{ at_least: 2 }`, `{ at_least: 50% }`.";
    crate::mode::Share, Share, "A number (5) or a share (2.5%).";
    crate::worker::LabelRule, LabelRule, "A label's value, or an object with one rule: `{ in: [a, b] }`, `{ not_in: [a] }`, `{ exists: true }`.";
    crate::worker::Bytes, Bytes, "Bytes as a number, or with a unit: 512MiB, 4GiB.";
    crate::worker::Strategy, Strategy, "`least_loaded`, `round_robin`, `random`, `first`, or `{ sticky_hash: customer }` with the name of a parameter.";
}

impl PartialSchema for crate::policy::Backoff {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some("`{ fixed: 5s }` or `{ exponential: { initial: 5s, max: 5m, jitter_percent: 10 } }`."))
            .into()
    }
}

impl ToSchema for crate::policy::Backoff {}
