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
    ($($name:ident, $description:literal;)+) => {$(
        impl PartialSchema for crate::processor::$name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::SchemaType::from_iter([Type::String, Type::Object]))
                    .description(Some($description))
                    .into()
            }
        }

        impl ToSchema for crate::processor::$name {}
    )+};
}

object_or_text_schema! {
    Script, "The script's text, or an object: script, interpreter, args, env, stdin, directory, success_codes, run_as.";
    Handler, "The handler's name, or an object: name, config.";
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
