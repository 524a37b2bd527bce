//! Messages in memory, in neither dialect.

use std::sync::Arc;

use super::schema::{Class, Field, Kind};

/// A message or a part of one. Each value fits its field: nothing else can be put in.
///
/// What is shared on the wire is shared here; cloning copies no text.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    class: Class,
    /// As in the class's table; absent is what the sender did not name.
    values: Vec<Option<Value>>,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A truth value.
    Bool(bool),
    /// 32 bits.
    Int(i32),
    /// 64 bits.
    Long(i64),
    /// A floating point number, `NaN` and infinities included.
    Double(f64),
    /// A text.
    Text(Arc<str>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// Texts or parts; null is possible.
    List(Arc<[Value]>),
    /// Texts, or null, by text; in the sender's order.
    Map(Arc<[(Arc<str>, Value)]>),
    /// A part.
    Bean(Arc<Message>),
}

/// A value was given to a field that does not exist or holds something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{class:?} has no field {name} that holds it")]
pub struct Misfit {
    class: Class,
    name: &'static str,
}

impl Message {
    /// Without any field: what is not put is absent in the named dialect, and null, 0 or false in the plain one.
    pub fn new(class: Class) -> Self {
        Message { class, values: vec![None; class.fields().len()] }
    }

    /// Which message it is.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Sets a field by its Java name.
    ///
    /// # Errors
    /// The class has no such field, or it holds another kind of value.
    pub fn put(&mut self, name: &'static str, value: Value) -> Result<(), Misfit> {
        let misfit = Misfit { class: self.class, name };
        let place = self.class.position(name).ok_or(misfit)?;
        if !value.fits(self.class.fields()[place].kind) {
            return Err(misfit);
        }
        self.values[place] = Some(value);
        Ok(())
    }

    /// The same for who has the place from the table and made the value for it.
    pub(super) fn set(&mut self, place: usize, value: Value) {
        debug_assert!(value.fits(self.class.fields()[place].kind), "{:?} {place} {value:?}", self.class);
        self.values[place] = Some(value);
    }

    /// A field by its Java name; absent is null.
    pub fn get(&self, name: &str) -> &Value {
        self.class.position(name).and_then(|place| self.values[place].as_ref()).unwrap_or(&Value::Null)
    }

    /// Each field that is there, in wire order.
    pub fn fields(&self) -> impl Iterator<Item = (&'static Field, &Value)> {
        self.class.fields().iter().zip(&self.values).filter_map(|(field, value)| Some((field, value.as_ref()?)))
    }

    /// Each field of the table.
    pub(super) fn all_fields(&self) -> impl Iterator<Item = (&'static Field, Option<&Value>)> {
        self.class.fields().iter().zip(self.values.iter().map(Option::as_ref))
    }
}

impl Value {
    /// Whether a field of that kind may hold it.
    pub fn fits(&self, kind: Kind) -> bool {
        match (self, kind) {
            (Value::Bool(_), Kind::Bool)
            | (Value::Int(_), Kind::Int | Kind::BoxedInt)
            | (Value::Long(_), Kind::Long | Kind::BoxedLong)
            | (Value::Double(_), Kind::Double)
            | (Value::Text(_), Kind::Text)
            | (Value::Bytes(_), Kind::Bytes) => true,
            (Value::Null, kind) => !matches!(kind, Kind::Bool | Kind::Int | Kind::Long | Kind::Double),
            (Value::List(items), Kind::Texts) => items.iter().all(|item| matches!(item, Value::Null | Value::Text(_))),
            (Value::List(items), Kind::Beans(class)) => items.iter().all(|item| item.fits(Kind::Bean(class))),
            (Value::Map(entries), Kind::TextMap) => {
                entries.iter().all(|(_, value)| matches!(value, Value::Null | Value::Text(_)))
            }
            (Value::Bean(message), Kind::Bean(class)) => message.class == class,
            _ => false,
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, if it is one.
    pub fn as_long(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some((*number).into()),
            Value::Long(number) => Some(*number),
            _ => None,
        }
    }
}
