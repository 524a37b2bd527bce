//! From bytes to a message: classes, references, fields, lists and maps.

use std::sync::Arc;

use super::dialect::{Dialect, FIELDS};
use super::message::{Message, Value};
use super::reader::{DecodeError, Reader};
use super::schema::{Class, Kind, ListForm, MapForm, list_form, map_form};

/// Most memory that a message takes once it is read, in bytes: what is there twice by reference counts twice.
///
/// Workers send frames of 256 KiB at most.
pub const MAX_DECODED: usize = 4 << 20;

/// Deepest nesting; the messages have three levels.
pub const MAX_DEPTH: usize = 16;

/// Longest name of a class or field, in bytes.
const NAME: usize = 200;
/// Most classes that one message names; the messages have four.
const CLASSES: usize = 32;
/// About what a value takes besides its text, and then some for who makes JSON of it.
const VALUE: usize = 64;

type Read<T> = Result<T, DecodeError>;

/// Reads a message in whichever dialect it is written, and says which. Zeros behind it are padding.
///
/// # Errors
/// Whatever is not a message of the table, in full: nothing is half read, and no second dialect is tried.
pub fn decode(payload: &[u8]) -> Result<(Message, Dialect), DecodeError> {
    let mut graph = Graph {
        input: Reader::new(payload),
        dialect: Dialect::Plain,
        objects: Vec::new(),
        classes: Vec::new(),
        spent: 0,
        depth: 0,
    };
    let root = graph.class()?.ok_or(DecodeError::Null)?;
    let (number, class) = match root {
        WireClass::Named(number, Shape::Bean(class)) if Class::MESSAGES.contains(&class) => (number, class),
        _ => return Err(DecodeError::Misfit("the message")),
    };
    let Mark::New(_) = graph.mark(false)? else { return Err(DecodeError::Reference) };
    graph.dialect = Dialect::detect(graph.input.clone(), class);
    let message = graph.bean(number, Some(class))?;
    if !graph.input.is_padding() {
        return Err(DecodeError::Trailing);
    }
    Ok((message, graph.dialect))
}

/// One payload being read. Kryo numbers objects and classes in order of their first appearance.
struct Graph<'a> {
    input: Reader<'a>,
    dialect: Dialect,
    /// With their sizes; `None` while one is read, and for ever if it is of no use to us.
    objects: Vec<Option<(Value, usize)>>,
    classes: Vec<NamedClass>,
    spent: usize,
    depth: usize,
}

struct NamedClass {
    shape: Shape,
    /// Where the fields that the sender named stand in our table, in its order.
    header: Option<Arc<[Option<usize>]>>,
}

/// What a class from the wire is to us.
#[derive(Clone, Copy)]
enum Shape {
    Bean(Class),
    /// One of PowerJob's that we do not know. It may stand only where it is skipped.
    Foreign,
    Bytes,
    List(ListForm),
    Map(MapForm),
}

#[derive(Clone, Copy)]
enum WireClass {
    Int,
    Text,
    Float,
    Bool,
    Byte,
    /// `char` or `short`.
    TwoBytes,
    Long,
    Double,
    /// The number of the name in this payload.
    Named(usize, Shape),
}

enum Mark {
    Null,
    New(usize),
    Old(usize),
}

impl Graph<'_> {
    fn charge(&mut self, bytes: usize) -> Read<()> {
        self.spent = self.spent.saturating_add(bytes);
        if self.spent > MAX_DECODED { Err(DecodeError::Large) } else { Ok(()) }
    }

    /// The class of what follows; `None` says that nothing does.
    fn class(&mut self) -> Read<Option<WireClass>> {
        Ok(Some(match self.input.varint()? {
            0 => return Ok(None),
            1 => {
                let number = self.input.varint()?;
                let at = number as usize;
                if at == self.classes.len() && at < CLASSES {
                    let shape = self.shape()?;
                    self.classes.push(NamedClass { shape, header: None });
                }
                let known = self.classes.get(at).ok_or(DecodeError::ClassNumber(number))?;
                WireClass::Named(at, known.shape)
            }
            2 => WireClass::Int,
            3 => WireClass::Text,
            4 => WireClass::Float,
            5 => WireClass::Bool,
            6 => WireClass::Byte,
            7 | 8 => WireClass::TwoBytes,
            9 => WireClass::Long,
            10 => WireClass::Double,
            other => return Err(DecodeError::ClassNumber(other)),
        }))
    }

    /// The name of a class, and what that is to us.
    fn shape(&mut self) -> Read<Shape> {
        let name = self.input.name()?;
        if name.len() > NAME {
            return Err(DecodeError::Text);
        }
        let name: String = name.iter().map(|byte| char::from(byte & 0x7f)).collect();
        if name == "[B" {
            return Ok(Shape::Bytes);
        }
        let known = Class::by_name(&name)
            .map(Shape::Bean)
            .or_else(|| list_form(&name).map(Shape::List))
            .or_else(|| map_form(&name).map(Shape::Map))
            .or_else(|| name.starts_with("tech.powerjob.").then_some(Shape::Foreign));
        known.ok_or_else(|| DecodeError::Class(name.escape_debug().collect()))
    }

    /// Whether an object follows, or a reference to one that was there.
    fn mark(&mut self, may_be_null: bool) -> Read<Mark> {
        match self.input.varint()? {
            0 if may_be_null => Ok(Mark::Null),
            0 => Err(DecodeError::Null),
            1 => {
                self.charge(VALUE)?;
                self.objects.push(None);
                Ok(Mark::New(self.objects.len() - 1))
            }
            n if (n - 2) as usize >= self.objects.len() => Err(DecodeError::Reference),
            n => Ok(Mark::Old((n - 2) as usize)),
        }
    }

    /// What has a mark before it. `kind` is what it must be, `read` reads its content.
    fn object(&mut self, may_be_null: bool, kind: Kind, read: impl FnOnce(&mut Self) -> Read<Value>) -> Read<Value> {
        match self.mark(may_be_null)? {
            Mark::Null => Ok(Value::Null),
            Mark::New(place) => {
                let before = self.spent;
                let value = read(self)?;
                self.objects[place] = Some((value.clone(), self.spent - before));
                Ok(value)
            }
            Mark::Old(place) => {
                let (value, size) = self.objects[place].clone().ok_or(DecodeError::Reference)?;
                self.charge(size + VALUE)?;
                if value.fits(kind) { Ok(value) } else { Err(DecodeError::Misfit("a reference")) }
            }
        }
    }

    /// The content of an object. `class` is `None` for one that we do not know, of which nothing is kept.
    fn bean(&mut self, number: usize, class: Option<Class>) -> Read<Message> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(DecodeError::Deep);
        }
        // For a foreign one any class does: no field is put.
        let mut message = Message::new(class.unwrap_or(Class::AskResponse));
        let table = class.map_or(&[][..], Class::fields);
        self.charge(VALUE * (1 + table.len()))?;
        match self.dialect {
            Dialect::Plain => {
                for (place, field) in table.iter().enumerate().filter(|(_, field)| !field.later) {
                    let value = self.plain(field.kind)?;
                    message.set(place, value);
                }
            }
            Dialect::Named => {
                for place in self.header(number, class)?.iter() {
                    match place {
                        Some(place) => {
                            let field = &table[*place];
                            let value = self.named(field.kind, field.name)?;
                            message.set(*place, value);
                        }
                        None => self.skip()?,
                    }
                }
            }
        }
        self.depth -= 1;
        Ok(message)
    }

    /// The fields that the sender names, once for each class.
    fn header(&mut self, number: usize, class: Option<Class>) -> Read<Arc<[Option<usize>]>> {
        if let Some(header) = &self.classes[number].header {
            return Ok(header.clone());
        }
        let count = self.input.varint()?;
        if count > FIELDS {
            return Err(DecodeError::FieldNames);
        }
        let mut places = Vec::new();
        let mut previous = String::new();
        for _ in 0..count {
            let name = self.input.text()?;
            if name.len() > NAME || name <= previous {
                return Err(DecodeError::FieldNames);
            }
            places.push(class.and_then(|class| class.position(&name)));
            previous = name;
        }
        let header: Arc<[_]> = places.into();
        self.classes[number].header = Some(header.clone());
        Ok(header)
    }

    /// A field's value where only its type in the table says what it is.
    fn plain(&mut self, kind: Kind) -> Read<Value> {
        Ok(match kind {
            Kind::Bool => Value::Bool(self.input.bool()?),
            Kind::Int => Value::Int(self.input.int()?),
            Kind::Long => Value::Long(self.input.long()?),
            Kind::Double => Value::Double(self.input.double()?),
            Kind::BoxedInt if self.input.bool()? => Value::Int(self.input.int()?),
            Kind::BoxedLong if self.input.bool()? => Value::Long(self.input.long()?),
            Kind::BoxedInt | Kind::BoxedLong => Value::Null,
            Kind::Text => self.object(true, kind, Self::text)?,
            Kind::Bytes => self.object(true, kind, Self::bytes)?,
            Kind::Texts | Kind::TextMap | Kind::Bean(_) | Kind::Beans(_) => match self.class()? {
                None => Value::Null,
                Some(class) => self.compound(kind, class)?.ok_or(DecodeError::Misfit("a field"))?,
            },
        })
    }

    /// A field's value where its class is written before it.
    fn named(&mut self, kind: Kind, name: &'static str) -> Read<Value> {
        let misfit = DecodeError::Misfit(name);
        let Some(class) = self.class()? else {
            return if Value::Null.fits(kind) { Ok(Value::Null) } else { Err(misfit) };
        };
        Ok(match (kind, class) {
            (Kind::Bool, WireClass::Bool) => Value::Bool(self.input.bool()?),
            (Kind::Int | Kind::BoxedInt, WireClass::Int) => Value::Int(self.input.int()?),
            (Kind::Long | Kind::BoxedLong, WireClass::Long) => Value::Long(self.input.long()?),
            // As Java widens, should a later version narrow a field.
            (Kind::Long | Kind::BoxedLong, WireClass::Int) => Value::Long(self.input.int()?.into()),
            (Kind::Double, WireClass::Double) => Value::Double(self.input.double()?),
            (Kind::Text, WireClass::Text) => self.object(false, kind, Self::text)?,
            (Kind::Bytes, WireClass::Named(_, Shape::Bytes)) => self.object(false, kind, Self::bytes)?,
            _ => self.compound(kind, class)?.ok_or(misfit)?,
        })
    }

    /// A list, a map or a bean; `None` when the class is of none that the field can hold.
    fn compound(&mut self, kind: Kind, class: WireClass) -> Read<Option<Value>> {
        Ok(Some(match (kind, class) {
            (Kind::Texts | Kind::Beans(_), WireClass::Named(_, Shape::List(form))) => {
                self.object(false, kind, |graph| graph.list(kind, form))?
            }
            (Kind::TextMap, WireClass::Named(_, Shape::Map(form))) => {
                self.object(false, kind, |graph| graph.map(form))?
            }
            (Kind::Bean(wanted), WireClass::Named(number, Shape::Bean(class))) if class == wanted => {
                self.object(false, kind, |graph| graph.bean_value(number, class))?
            }
            _ => return Ok(None),
        }))
    }

    fn bean_value(&mut self, number: usize, class: Class) -> Read<Value> {
        Ok(Value::Bean(Arc::new(self.bean(number, Some(class))?)))
    }

    fn text(&mut self) -> Read<Value> {
        let text = self.input.text()?;
        self.charge(text.len())?;
        Ok(Value::Text(text.into()))
    }

    fn bytes(&mut self) -> Read<Value> {
        let length = self.input.varint()?.checked_sub(1).ok_or(DecodeError::Null)?;
        let bytes = self.input.take(length as usize)?;
        self.charge(bytes.len())?;
        Ok(Value::Bytes(bytes.into()))
    }

    fn list(&mut self, kind: Kind, form: ListForm) -> Read<Value> {
        let items = match (form, kind) {
            (ListForm::Empty, _) => Vec::new(),
            (ListForm::One, _) => vec![self.element(kind)?],
            // Whether classes are written depends on whether the type of the elements is final, as that of texts is.
            (ListForm::Counted, Kind::Texts) => self.texts()?,
            (ListForm::Counted, _) => self.beans(kind)?,
        };
        Ok(Value::List(items.into()))
    }

    fn texts(&mut self) -> Read<Vec<Value>> {
        let (may_be_null, count) = self.count()?;
        let mut items = Vec::new();
        for _ in 0..count {
            self.charge(VALUE)?;
            items.push(self.object(may_be_null, Kind::Text, Self::text)?);
        }
        Ok(items)
    }

    fn beans(&mut self, kind: Kind) -> Read<Vec<Value>> {
        let mut items = Vec::new();
        let (is_uniform, count) = self.count()?;
        if count == 0 {
            return Ok(items);
        }
        if !is_uniform {
            for _ in 0..count {
                self.charge(VALUE)?;
                items.push(self.element(kind)?);
            }
            return Ok(items);
        }
        let Some(class) = self.class()? else {
            self.charge(VALUE.saturating_mul(count as usize))?;
            return Ok(vec![Value::Null; count as usize]);
        };
        let (Kind::Beans(wanted), WireClass::Named(number, Shape::Bean(class))) = (kind, class) else {
            return Err(DecodeError::Misfit("a list"));
        };
        if class != wanted {
            return Err(DecodeError::Misfit("a list"));
        }
        let may_be_null = self.input.bool()?;
        for _ in 0..count {
            self.charge(VALUE)?;
            items.push(self.object(may_be_null, Kind::Bean(class), |graph| graph.bean_value(number, class))?);
        }
        Ok(items)
    }

    fn count(&mut self) -> Read<(bool, u32)> {
        let (flag, count) = self.input.flagged()?;
        Ok((flag, count.checked_sub(1).ok_or(DecodeError::Null)?))
    }

    /// An element that has its class before it.
    fn element(&mut self, list: Kind) -> Read<Value> {
        let misfit = DecodeError::Misfit("a list");
        match (list, self.class()?) {
            (_, None) => Ok(Value::Null),
            (Kind::Texts, Some(WireClass::Text)) => self.object(false, Kind::Text, Self::text),
            (Kind::Beans(wanted), Some(class)) => self.compound(Kind::Bean(wanted), class)?.ok_or(misfit),
            _ => Err(misfit),
        }
    }

    fn map(&mut self, form: MapForm) -> Read<Value> {
        let mut entries = Vec::new();
        let count = match form {
            MapForm::Empty => 0,
            MapForm::Counted => self.input.varint()?.checked_sub(1).ok_or(DecodeError::Null)?,
        };
        for _ in 0..count {
            self.charge(2 * VALUE)?;
            let Value::Text(key) = self.object(true, Kind::Text, Self::text)? else { return Err(DecodeError::Null) };
            entries.push((key, self.object(true, Kind::Text, Self::text)?));
        }
        Ok(Value::Map(entries.into()))
    }

    /// A value of a field that we do not know. Texts and bytes are kept all the same: a later field may refer to them.
    fn skip(&mut self) -> Read<()> {
        let Some(class) = self.class()? else { return Ok(()) };
        match class {
            WireClass::Int => drop(self.input.int()?),
            WireClass::Long => drop(self.input.long()?),
            WireClass::Bool => drop(self.input.bool()?),
            WireClass::Double => drop(self.input.double()?),
            WireClass::Float => drop(self.input.take(4)?),
            WireClass::Byte => drop(self.input.take(1)?),
            WireClass::TwoBytes => drop(self.input.take(2)?),
            WireClass::Text => drop(self.skip_object(Self::text)?),
            WireClass::Named(_, Shape::Bytes) => drop(self.skip_object(Self::bytes)?),
            WireClass::Named(number, Shape::Bean(class)) => {
                self.skip_object(|graph| graph.bean_value(number, class))?;
            }
            WireClass::Named(number, Shape::Foreign) => {
                if let Mark::New(_) = self.mark(false)? {
                    self.bean(number, None)?;
                }
            }
            // Only the type that the field was declared with tells how elements are written.
            WireClass::Named(_, Shape::List(_) | Shape::Map(_)) => return Err(DecodeError::Unskippable),
        }
        Ok(())
    }

    fn skip_object(&mut self, read: impl FnOnce(&mut Self) -> Read<Value>) -> Read<()> {
        if let Mark::New(place) = self.mark(false)? {
            let before = self.spent;
            let value = read(self)?;
            self.objects[place] = Some((value, self.spent - before));
        }
        Ok(())
    }
}
