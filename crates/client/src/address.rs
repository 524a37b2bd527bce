//! The address of a server, as people type it.

use reqwest::Url;

use crate::error::ClientError;

/// Reads a server's address: `http` or `https` in any case, spaces around it, `http` when no scheme is given.
///
/// The result has no path, query or credentials, so that it can be compared and joined with a path.
///
/// # Errors
/// [`ClientError::Address`] names the text and what is allowed.
pub fn parse_address(text: &str) -> Result<Url, ClientError> {
    let refuse = |why: &str| {
        ClientError::Address(format!(
            "`{text}` is not the address of a server: {why}; write http://HOST:PORT or https://HOST:PORT"
        ))
    };
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(refuse("it is empty"));
    }
    let full = if trimmed.contains("://") { trimmed.to_owned() } else { format!("http://{trimmed}") };
    let url = Url::parse(&full).map_err(|error| refuse(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse(&format!("scheme `{}` is unknown", url.scheme())));
    }
    // The parser would turn a comma into part of a host name, and two addresses into one that nobody has.
    if url.host_str().is_none_or(|host| host.is_empty() || host.contains([',', ' '])) {
        return Err(refuse("it has no valid host name"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("it contains credentials, which belong into a token"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("it has a path"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_normalised_or_refused_with_its_text() {
        for (text, expect) in [
            ("http://a:7700", "http://a:7700/"),
            ("HTTP://a:7700/", "http://a:7700/"),
            (" a:7700 ", "http://a:7700/"),
            ("Https://A.example", "https://a.example/"),
            ("[::1]:7700", "http://[::1]:7700/"),
        ] {
            assert_eq!(parse_address(text).expect(text).as_str(), expect);
        }
        for text in [
            "",
            " ",
            "htp://a",
            "http://",
            "http://a,http://b",
            "http://a:99999",
            "http://u:p@a",
            "http://a/b",
            "http://a,b:1",
        ] {
            let message = parse_address(text).expect_err(text).to_string();
            assert!(message.contains(&format!("`{text}`")) && message.contains("https://HOST:PORT"), "{message}");
        }
    }
}
