//! The addresses of servers, as people type them.

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

/// Reads the address of a server, or of several of one installation, separated by commas, each as [`parse_address`] does. One
/// that comes twice counts once.
///
/// # Errors
/// [`ClientError::Address`] names the text, and which part of it is wrong.
pub fn parse_addresses(text: &str) -> Result<Vec<Url>, ClientError> {
    if !text.contains(',') {
        return Ok(vec![parse_address(text)?]);
    }
    let mut addresses = Vec::new();
    for part in text.split(',') {
        if part.trim().is_empty() {
            let what = "is not a list of servers: an address is missing beside a comma; write http://HOST:PORT,http://HOST:PORT";
            return Err(ClientError::Address(format!("`{text}` {what}")));
        }
        let address = parse_address(part)?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
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

    #[test]
    fn lists_are_read_part_by_part_and_never_guessed() {
        for (text, expect) in [
            ("a:7700", vec!["http://a:7700/"]),
            ("http://a:7700,https://b", vec!["http://a:7700/", "https://b/"]),
            (" a , B,http://a/ ", vec!["http://a/", "http://b/"]),
        ] {
            let read = parse_addresses(text).expect(text);
            assert_eq!(read.iter().map(Url::as_str).collect::<Vec<_>>(), expect);
        }
        for (text, named) in [
            ("", "``"),
            (",", "`,`"),
            ("http://a,", "`http://a,`"),
            (",http://a", "`,http://a`"),
            ("http://a,,http://b", "`http://a,,http://b`"),
            ("http://a,htp://b", "`htp://b`"),
            ("http://a,b/path", "`b/path`"),
        ] {
            let message = parse_addresses(text).expect_err(text).to_string();
            assert!(message.contains(named) && message.contains("http://HOST:PORT"), "{message}");
        }
    }
}
