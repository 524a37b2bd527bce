//! Pages of listings: how many, and after which.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pendula_model::api::PageOf;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::problem::*;

/// How many items a page has: 1 to 1,000, by default 50.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "usize")]
pub(super) struct Limit(usize);

impl Limit {
    pub(super) fn get(self) -> usize {
        self.0
    }
}

impl Default for Limit {
    fn default() -> Self {
        Limit(50)
    }
}

impl TryFrom<usize> for Limit {
    type Error = String;

    fn try_from(limit: usize) -> Result<Self, String> {
        match limit {
            1..=1000 => Ok(Limit(limit)),
            _ => Err(format!("{limit} is not allowed; 1 to 1000")),
        }
    }
}

/// Writes where a listing goes on. Opaque to callers, so that its content may change; `listing` keeps the cursor of one
/// listing from being used in another.
pub(super) fn cursor(listing: &str, last: impl Serialize) -> String {
    let json = serde_json::to_vec(&(listing, last)).expect("keys are plain JSON");
    URL_SAFE_NO_PAD.encode(json)
}

/// Reads what [`cursor`] wrote.
pub(super) fn after<T: DeserializeOwned>(listing: &str, cursor: Option<&str>) -> Result<Option<T>, ApiError> {
    let Some(cursor) = cursor else { return Ok(None) };
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| ApiError::new(&INVALID_CURSOR))?;
    match serde_json::from_slice::<(String, T)>(&bytes) {
        Ok((of, last)) if of == listing => Ok(Some(last)),
        _ => Err(ApiError::new(&INVALID_CURSOR)),
    }
}

/// Several words in one parameter, separated by commas; none when it is absent.
pub(super) fn words<T>(parameter: &str, text: Option<&str>) -> Result<Vec<T>, ApiError>
where
    T: std::str::FromStr<Err = String> + Ord,
{
    let Some(text) = text else { return Ok(Vec::new()) };
    let mut words: Vec<T> =
        text.split(',').map(|word| word.trim().parse()).collect::<Result<_, String>>().map_err(|message| {
            ApiError::with(&INVALID_QUERY, message.chars().take(300).collect::<String>()).at(parameter)
        })?;
    words.sort_unstable();
    words.dedup();
    Ok(words)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Paging {
    /// `next_cursor` of the page before.
    pub(super) cursor: Option<String>,
    /// Items of a page: 1 to 1,000. Default 50.
    #[serde(default)]
    #[param(value_type = Option<u32>)]
    pub(super) limit: Limit,
}

/// A page of a listing that is in memory as a whole, sorted by `key`.
pub(super) fn page_of<T>(
    listing: &str,
    mut items: Vec<T>,
    paging: &Paging,
    key: impl Fn(&T) -> String,
) -> Result<PageOf<T>, ApiError> {
    let last: Option<String> = after(listing, paging.cursor.as_deref())?;
    items.sort_by_key(&key);
    if let Some(last) = last {
        items.retain(|item| key(item) > last);
    }
    let more = items.len() > paging.limit.get();
    items.truncate(paging.limit.get());
    let next_cursor = items.last().filter(|_| more).map(|last| cursor(listing, key(last)));
    Ok(PageOf { items, next_cursor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_lead_back_and_only_into_their_own_listing() {
        let text = cursor("jobs", "日报");
        assert_eq!(after::<String>("jobs", Some(&text)).unwrap().as_deref(), Some("日报"));
        for bad in ["", "!", "AAAA", &cursor("apps", "a"), "../../etc/passwd", "' OR 1=1 --"] {
            assert_eq!(after::<String>("jobs", Some(bad)).unwrap_err().code.code, "invalid_cursor", "{bad}");
        }
        assert!(after::<String>("jobs", None).unwrap().is_none());
    }
}
