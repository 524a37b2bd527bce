//! Text to documents.

use std::path::Path;

use super::Document;
use crate::failure::{Failure, Outcome};

/// The documents of a file, each with its text padded to keep line numbers. JSON is read as the YAML that it is.
pub(super) fn documents(file: &Path, text: &str) -> Outcome<Vec<(Document, String)>> {
    let mut documents = Vec::new();
    for text in split(text) {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            continue;
        }
        documents.push((document(file, &text)?, text));
    }
    if documents.is_empty() {
        return Err(Failure::usage(format!("{}: no definitions in it", file.display())));
    }
    Ok(documents)
}

fn document(file: &Path, text: &str) -> Outcome<Document> {
    let mut path = String::new();
    let read = serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            path = error.path().to_string();
            error.into_inner()
        })
    });
    read.map_err(|error: serde_saphyr::Error| {
        let place = match error.location() {
            Some(location) if location.line() > 0 => {
                format!("{}:{}:{}", file.display(), location.line(), location.column())
            }
            _ => file.display().to_string(),
        };
        let field = if path.is_empty() || path == "." { String::new() } else { format!("{path}: ") };
        Failure::usage(format!("{place}: {field}{}", message(&error)))
    })
}

/// The error in one line, without the position that is printed before it.
fn message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or_default().trim();
    let first = match error.location() {
        Some(location) => {
            first.strip_suffix(&format!(" at line {}, column {}", location.line(), location.column())).unwrap_or(first)
        }
        None => first,
    };
    first.to_owned()
}

/// Cuts at document markers, which YAML allows nowhere else at the beginning of a line, and pads each part with the
/// lines before it. Markers themselves become spaces, so columns stay right too.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let rest = line.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']));
        match (rest, parts.last_mut()) {
            (None, Some(part)) => part.push_str(line),
            (rest, _) => parts.push("\n".repeat(number) + "   " + rest.unwrap_or_default()),
        }
    }
    parts
}
