//! Refusals of what a user wrote.

use std::fmt;

/// A field of a definition that is not acceptable: which one, what is wrong, what is allowed.
///
/// `field` is a dotted path as in the definition (`retry.attempts`); an empty one means the whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    pub field: String,
    pub message: String,
}

impl Invalid {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Invalid { field: field.into(), message: message.into() }
    }

    /// The same refusal seen from one level up: `attempts` inside `retry` is `retry.attempts`.
    pub fn inside(self, parent: &str) -> Self {
        let field = if self.field.is_empty() { parent.to_owned() } else { format!("{parent}.{}", self.field) };
        Invalid { field, message: self.message }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.field, self.message) }
    }
}
