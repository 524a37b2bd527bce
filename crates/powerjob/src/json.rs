//! JSON as PowerJob's parts write it: numbers as texts, `"NaN"`, explicit nulls, and bytes in base64url.

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serializer};

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Whole(i64),
    Broken(f64),
    Text(String),
    Yes(bool),
}

/// A whole number, as a number or as text; null is 0, as for a Java primitive.
pub(crate) fn long<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    Ok(optional_long(deserializer)?.unwrap_or(0))
}

/// The same, where null says something.
pub(crate) fn optional_long<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let refuse = |text: &str| serde::de::Error::custom(format!("{text:?} is not a whole number"));
    match Option::<Number>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Number::Whole(number)) => Ok(Some(number)),
        Some(Number::Broken(number)) if number.fract() == 0.0 && number.abs() < 9e15 => Ok(Some(number as i64)),
        Some(Number::Broken(number)) => Err(refuse(&number.to_string())),
        Some(Number::Text(text)) if text.trim().is_empty() => Ok(None),
        Some(Number::Text(text)) => text.trim().parse().map(Some).map_err(|_| refuse(&text)),
        Some(Number::Yes(_)) => Err(refuse("a truth value")),
    }
}

/// A number that may be `"NaN"` or `"Infinity"`; null is 0.
pub(crate) fn double<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    match Option::<Number>::deserialize(deserializer)? {
        None => Ok(0.0),
        Some(Number::Whole(number)) => Ok(number as f64),
        Some(Number::Broken(number)) => Ok(number),
        Some(Number::Text(text)) => Ok(text.trim().parse().unwrap_or(f64::NAN)),
        Some(Number::Yes(_)) => Err(serde::de::Error::custom("a truth value is no number")),
    }
}

/// A truth value; null is false.
pub(crate) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match Option::<Number>::deserialize(deserializer)? {
        None => Ok(false),
        Some(Number::Yes(yes)) => Ok(yes),
        Some(Number::Whole(number)) => Ok(number != 0),
        Some(Number::Broken(_)) => Err(serde::de::Error::custom("a broken number is no truth value")),
        Some(Number::Text(text)) => Ok(text.trim().eq_ignore_ascii_case("true")),
    }
}

/// What is null counts as absent.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Bytes, as base64url without padding: workers refuse anything else.
pub(crate) mod bytes {
    use super::*;

    #[expect(clippy::ref_option, reason = "serde passes the field")]
    pub(crate) fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_str(&URL_SAFE_NO_PAD.encode(bytes)),
            None => serializer.serialize_none(),
        }
    }

    /// Both alphabets, with or without padding.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let url = GeneralPurpose::new(&URL_SAFE, LENIENT).decode(&text);
        let decoded = url.or_else(|_| GeneralPurpose::new(&STANDARD, LENIENT).decode(&text));
        decoded.map(Some).map_err(serde::de::Error::custom)
    }
}
