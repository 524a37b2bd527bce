//! From definition and facts to a request, and from a redirect to the next one.

use pendula_model::processor::Http;
use pendula_worker::Failure;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Body, Method, Request, Response, StatusCode, Url};

use crate::facts::Facts;
use crate::template::{self, Place};

/// Headers that describe the connection or the framing of the message, which the client alone knows.
const REFUSED: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Headers that may follow a redirect to another site; any other may be a credential.
const TRAVELLING: [&str; 5] = ["accept", "accept-language", "content-type", "user-agent", "cache-control"];

/// A request that can be sent, and sent again to where a redirect leads.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) method: Method,
    pub(super) url: Url,
    headers: HeaderMap,
    body: Option<String>,
}

impl Prepared {
    /// Expands the templates of `http`.
    pub(super) fn new(http: &Http, facts: &Facts) -> Result<Prepared, String> {
        let url = template::expand(&http.url, facts, Place::Url).map_err(|error| format!("url: {error}"))?;
        let url = Url::parse(&url).map_err(|error| format!("url: {url:?}: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("url: {url} must begin with http:// or https://"));
        }
        let method = Method::from_bytes(http.method.as_bytes()).map_err(|error| format!("method: {error}"))?;
        if method == Method::CONNECT {
            return Err("method: CONNECT is not a request for a resource".to_owned());
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &http.headers {
            let field = |error: &dyn std::fmt::Display| format!("headers.{name}: {error}");
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|error| field(&error))?;
            if REFUSED.contains(&key.as_str()) {
                return Err(field(&"is set by the client itself and cannot be chosen"));
            }
            let value = template::expand(value, facts, Place::Header).map_err(|error| field(&error))?;
            headers.insert(key, HeaderValue::from_str(&value).map_err(|error| field(&error))?);
        }
        let body = match &http.body {
            None => None,
            Some(text) => {
                let content_type = content_type(&mut headers, text);
                let place = place_of_body(&content_type);
                Some(template::expand(text, facts, place).map_err(|error| format!("body: {error}"))?)
            }
        };
        Ok(Prepared { method, url, headers, body })
    }

    pub(super) fn to_reqwest(&self) -> Request {
        let mut request = Request::new(self.method.clone(), self.url.clone());
        *request.headers_mut() = self.headers.clone();
        *request.body_mut() = self.body.clone().map(Body::from);
        request
    }

    /// The request that `response` asks for instead; none if it is not a redirect.
    ///
    /// # Errors
    /// When it leads to what is no web address, or from an encrypted connection to a plain one.
    pub(super) fn redirected(&self, response: &Response) -> Result<Option<Prepared>, Failure> {
        self.redirected_by(response.status(), response.headers())
    }

    fn redirected_by(&self, status: StatusCode, answer: &HeaderMap) -> Result<Option<Prepared>, Failure> {
        let keeps_method = match status.as_u16() {
            301 | 302 => self.method != Method::POST,
            303 => self.method == Method::HEAD,
            307 | 308 => true,
            _ => return Ok(None),
        };
        let Some(location) = answer.get(LOCATION) else { return Ok(None) };
        let refuse = |what: &str| {
            let reason = pendula_model::instance::Reason::from_wire("egress_denied");
            let location = String::from_utf8_lossy(location.as_bytes()).chars().take(200).collect::<String>();
            Err(Failure::new(reason, format!("redirect to {location:?}: {what}")).without_retry())
        };
        let Some(url) = location.to_str().ok().and_then(|text| self.url.join(text).ok()) else {
            return refuse("is not an address");
        };
        if !matches!(url.scheme(), "http" | "https") {
            return refuse("is neither http nor https");
        }
        if self.url.scheme() == "https" && url.scheme() == "http" {
            return refuse("leads from an encrypted connection to a plain one");
        }
        let mut next = Prepared { url, ..self.clone() };
        if !keeps_method {
            next.method = Method::GET;
            next.body = None;
            next.headers.remove(CONTENT_TYPE);
        }
        if next.url.origin() != self.url.origin() {
            let names: Vec<HeaderName> = next.headers.keys().cloned().collect();
            for name in names.iter().filter(|name| !TRAVELLING.contains(&name.as_str())) {
                next.headers.remove(name);
            }
        }
        Ok(Some(next))
    }
}

/// The content type of a body; if the definition names none, it is told from the first character and set.
fn content_type(headers: &mut HeaderMap, body: &str) -> String {
    if let Some(given) = headers.get(CONTENT_TYPE) {
        return String::from_utf8_lossy(given.as_bytes()).to_ascii_lowercase();
    }
    let looks_like_json = body.trim_start().starts_with(['{', '[']);
    let told = if looks_like_json { "application/json" } else { "text/plain; charset=utf-8" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(told));
    told.to_owned()
}

fn place_of_body(content_type: &str) -> Place {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence == "application/json" || essence.ends_with("+json") {
        Place::Json
    } else if essence == "application/x-www-form-urlencoded" {
        Place::Url
    } else {
        Place::Plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::sample;
    use serde_json::json;

    fn prepared(definition: serde_json::Value) -> Result<Prepared, String> {
        let facts = sample(json!({ "q": "a&b \"c\"\r\n", "token": "t0ken" }));
        Prepared::new(&serde_json::from_value(definition).unwrap(), &facts)
    }

    fn redirect(from: &Prepared, status: u16, location: &str) -> Result<Option<Prepared>, Failure> {
        let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_str(location).unwrap())]);
        from.redirected_by(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn values_stay_values_in_every_part() {
        let request = prepared(json!({
            "url": "http://h.example/find?q=${params.q}&n=1", "method": "POST",
            "headers": { "Authorization": "Bearer ${params.token}" }, "body": "{\"q\": \"${params.q}\"}"
        }))
        .unwrap();
        assert_eq!(request.url.as_str(), "http://h.example/find?q=a%26b%20%22c%22%0D%0A&n=1");
        assert_eq!(request.headers["authorization"], "Bearer t0ken");
        assert_eq!(request.headers["content-type"], "application/json");
        let body: serde_json::Value = serde_json::from_str(&request.body.unwrap()).unwrap();
        assert_eq!(body["q"], "a&b \"c\"\r\n");
        let form = prepared(json!({
            "url": "http://h.example", "method": "POST", "body": "q=${params.q}&x=1",
            "headers": { "Content-Type": "application/x-www-form-urlencoded" }
        }));
        assert_eq!(form.unwrap().body.unwrap(), "q=a%26b%20%22c%22%0D%0A&x=1");
    }

    #[test]
    fn what_cannot_be_sent_is_refused_with_its_field() {
        for (definition, part) in [
            (json!({ "url": "http://" }), "url"),
            (json!({ "url": "http://${params.nobody}/" }), "params.nobody"),
            (json!({ "url": "file:///etc/passwd" }), "url"),
            (json!({ "url": "http://h.example", "headers": { "X": "${params.q}" } }), "headers.X"),
            (json!({ "url": "http://h.example", "headers": { "Content-Length": "5" } }), "Content-Length"),
            (json!({ "url": "http://h.example", "headers": { "a b": "5" } }), "headers.a b"),
            (json!({ "url": "http://h.example", "method": "CONNECT" }), "CONNECT"),
        ] {
            let message = prepared(definition.clone()).expect_err(&definition.to_string());
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn sec_9_odd_spellings_are_addresses_before_the_guard_sees_them() {
        let guard = super::super::egress::EgressPolicy::default();
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "017700000001",
            "0177.0.0.1",
            "127.0.0.1.",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[0:0:0:0:0:ffff:7f00:1]",
            "[64:ff9b::7f00:1]",
            "１２７.0.0.1",
            "0",
            "[fd00:ec2::254]",
            "169.254.169.254",
            "2852039166",
        ] {
            let request = prepared(json!({ "url": format!("http://{host}:8080/x") })).unwrap();
            let host = request.url.host_str().unwrap().to_owned();
            assert!(guard.check_literal(&host).is_err(), "{host}");
        }
    }

    #[test]
    fn sec_9_credentials_stay_with_the_site_they_are_for() {
        let request = prepared(json!({
            "url": "https://a.example/x", "method": "POST", "body": "hello",
            "headers": { "Authorization": "secret", "X-Key": "secret", "Accept": "text/plain" }
        }))
        .unwrap();
        let same = redirect(&request, 307, "/y").unwrap().unwrap();
        assert_eq!((same.url.as_str(), same.headers.len()), ("https://a.example/y", 4));
        assert_eq!(same.body.as_deref(), Some("hello"));
        for elsewhere in ["https://b.example/", "https://a.example:444/", "//b.example/"] {
            let other = redirect(&request, 308, elsewhere).unwrap().unwrap();
            assert!(!format!("{:?}", other.headers).contains("secret"), "{elsewhere}");
            assert_eq!(other.headers["accept"], "text/plain");
        }
        let seen = redirect(&request, 303, "/y").unwrap().unwrap();
        assert_eq!((seen.method, seen.body), (Method::GET, None));
        assert!(redirect(&request, 200, "/y").unwrap().is_none());
        for bad in ["http://a.example/", "file:///etc/passwd", "gopher://a.example/"] {
            assert_eq!(redirect(&request, 302, bad).unwrap_err().reason.as_str(), "egress_denied", "{bad}");
        }
    }
}
