//! Conditions on a response: `status == 200 && json.code == 0 || body contains "ok"`.
//!
//! A total language: no loops, no calls, no state; text and depth are limited, so that every condition can be read and
//! evaluated in time linear in itself and the response.
//!
//! ```text
//! condition  = all { "||" all }
//! all        = not { "&&" not }
//! not        = "!" not | comparison
//! comparison = operand [ ( "==" | "!=" | "<" | "<=" | ">" | ">=" | "contains" | "startsWith" ) operand ]
//! operand    = "(" condition ")" | text | number | true | false | null | status | body | json { step }
//! step       = "." name | "[" ( number | text ) "]"
//! text       = '"' … '"' | "'" … "'"        with \" \' \\ \n \r \t
//! ```
//!
//! A path that leads nowhere is `null`. `==` compares values of any kind; the order operators take two numbers or two
//! texts; `contains` takes texts, or a list and an element; `startsWith` takes texts. Anything else is an error, and so
//! is a condition that yields no truth value.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value;

/// Bytes of a condition.
const MAX_BYTES: usize = 4096;
/// Nested parentheses and negations.
const MAX_DEPTH: usize = 32;

/// A condition that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression(Node);

/// Why a condition cannot be read, or cannot be decided for a response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExpressionError(String);

/// What a condition may look at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub status: u16,
    pub body: &'a str,
    /// The body as JSON, or why it is none; looked at only by conditions that mention `json`.
    pub json: Result<&'a Value, &'a str>,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Or(Vec<Node>),
    And(Vec<Node>),
    Not(Box<Node>),
    Compare(Box<Node>, Operator, Box<Node>),
    Literal(Value),
    Status,
    Body,
    Json(Vec<Step>),
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Name(String),
    Index(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Contains,
    StartsWith,
}

/// The longer ones come first, since `<` begins `<=`.
const OPERATORS: [(&str, Operator); 8] = [
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
    ("contains", Operator::Contains),
    ("startsWith", Operator::StartsWith),
];

/// Reads a condition.
///
/// # Errors
/// Says where it cannot be read and what was expected there.
pub fn parse(text: &str) -> Result<Expression, ExpressionError> {
    if text.len() > MAX_BYTES {
        return Err(ExpressionError(format!("a condition has at most {MAX_BYTES} bytes")));
    }
    let mut parser = Parser { text, at: 0 };
    let node = parser.condition(0)?;
    parser.spaces();
    if !parser.rest().is_empty() {
        return Err(parser.expected("an operator or the end"));
    }
    Ok(Expression(node))
}

impl Expression {
    /// Whether it mentions `json`, so that the body must be read as JSON.
    pub fn needs_json(&self) -> bool {
        fn any(node: &Node) -> bool {
            match node {
                Node::Or(nodes) | Node::And(nodes) => nodes.iter().any(any),
                Node::Not(node) => any(node),
                Node::Compare(left, _, right) => any(left) || any(right),
                Node::Json(_) => true,
                Node::Literal(_) | Node::Status | Node::Body => false,
            }
        }
        any(&self.0)
    }

    /// Whether the condition holds.
    ///
    /// # Errors
    /// When the values do not fit the operators, or the result is no truth value.
    pub fn holds(&self, subject: &Subject<'_>) -> Result<bool, ExpressionError> {
        truth(&self.0, subject)
    }
}

fn truth(node: &Node, subject: &Subject<'_>) -> Result<bool, ExpressionError> {
    match &*value(node, subject)? {
        Value::Bool(truth) => Ok(*truth),
        other => Err(ExpressionError(format!("{} is neither true nor false; compare it with something", shown(other)))),
    }
}

fn value<'a>(node: &'a Node, subject: &Subject<'a>) -> Result<Cow<'a, Value>, ExpressionError> {
    let truth_value = |truth: bool| Ok(Cow::Owned(Value::Bool(truth)));
    match node {
        Node::Or(nodes) => {
            for node in nodes {
                if truth(node, subject)? {
                    return truth_value(true);
                }
            }
            truth_value(false)
        }
        Node::And(nodes) => {
            for node in nodes {
                if !truth(node, subject)? {
                    return truth_value(false);
                }
            }
            truth_value(true)
        }
        Node::Not(node) => truth_value(!truth(node, subject)?),
        Node::Compare(left, operator, right) => {
            if let (Node::Body, Node::Literal(Value::String(text))) = (&**left, &**right) {
                // The usual case, without a copy of the body.
                return truth_value(compare_texts(subject.body, *operator, text));
            }
            let (left, right) = (value(left, subject)?, value(right, subject)?);
            truth_value(compare(&left, *operator, &right)?)
        }
        Node::Literal(value) => Ok(Cow::Borrowed(value)),
        Node::Status => Ok(Cow::Owned(Value::from(subject.status))),
        Node::Body => Ok(Cow::Owned(Value::String(subject.body.to_owned()))),
        Node::Json(steps) => {
            let mut found = subject.json.map_err(|why| ExpressionError(why.to_owned()))?;
            for step in steps {
                let next = match step {
                    Step::Name(name) => found.get(name),
                    Step::Index(index) => found.get(index),
                };
                let Some(next) = next else { return Ok(Cow::Owned(Value::Null)) };
                found = next;
            }
            Ok(Cow::Borrowed(found))
        }
    }
}

fn compare(left: &Value, operator: Operator, right: &Value) -> Result<bool, ExpressionError> {
    let unfit = || {
        let (left, right) = (shown(left), shown(right));
        let word = OPERATORS.iter().find(|(_, o)| *o == operator).map_or("", |(word, _)| word);
        Err(ExpressionError(format!("`{word}` cannot compare {left} and {right}")))
    };
    match (left, operator, right) {
        (_, Operator::Equal, _) => Ok(equal(left, right)),
        (_, Operator::NotEqual, _) => Ok(!equal(left, right)),
        (Value::Array(items), Operator::Contains, _) => Ok(items.iter().any(|item| equal(item, right))),
        (Value::String(left), _, Value::String(right)) => Ok(compare_texts(left, operator, right)),
        (Value::Number(_), _, Value::Number(_)) => match (numeric_order(left, right), operator) {
            (None, _) | (_, Operator::Contains | Operator::StartsWith) => unfit(),
            (Some(order), _) => Ok(ordered(order, operator)),
        },
        _ => unfit(),
    }
}

fn equal(left: &Value, right: &Value) -> bool {
    numeric_order(left, right).map_or_else(|| left == right, Ordering::is_eq)
}

/// Exact between whole numbers; between others as close as a double is.
fn numeric_order(left: &Value, right: &Value) -> Option<Ordering> {
    let whole = |value: &Value| value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    match (whole(left), whole(right)) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}

fn compare_texts(left: &str, operator: Operator, right: &str) -> bool {
    match operator {
        Operator::Contains => left.contains(right),
        Operator::StartsWith => left.starts_with(right),
        _ => ordered(left.cmp(right), operator),
    }
}

fn ordered(order: Ordering, operator: Operator) -> bool {
    match operator {
        Operator::Equal => order.is_eq(),
        Operator::NotEqual => order.is_ne(),
        Operator::Less => order.is_lt(),
        Operator::LessOrEqual => order.is_le(),
        Operator::Greater => order.is_gt(),
        Operator::GreaterOrEqual => order.is_ge(),
        Operator::Contains | Operator::StartsWith => false,
    }
}

/// A value for a message: short, whatever the response had.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) if text.len() > 60 => format!("a text of {} bytes", text.len()),
        other => other.to_string(),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn expected(&self, what: &str) -> ExpressionError {
        let column = self.text[..self.at].chars().count() + 1;
        ExpressionError(format!("expected {what} at character {column} of the condition"))
    }

    fn spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.spaces();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn condition(&mut self, depth: usize) -> Result<Node, ExpressionError> {
        if depth > MAX_DEPTH {
            return Err(ExpressionError(format!("a condition nests at most {MAX_DEPTH} levels deep")));
        }
        let mut alternatives = vec![self.all(depth)?];
        while self.eat("||") {
            alternatives.push(self.all(depth)?);
        }
        Ok(one_or(alternatives, Node::Or))
    }

    fn all(&mut self, depth: usize) -> Result<Node, ExpressionError> {
        let mut nodes = vec![self.not(depth)?];
        while self.eat("&&") {
            nodes.push(self.not(depth)?);
        }
        Ok(one_or(nodes, Node::And))
    }

    fn not(&mut self, depth: usize) -> Result<Node, ExpressionError> {
        let mut negations = 0;
        while self.eat("!") {
            negations += 1;
        }
        if depth + negations > MAX_DEPTH {
            return Err(ExpressionError(format!("a condition nests at most {MAX_DEPTH} levels deep")));
        }
        let node = self.comparison(depth + negations)?;
        Ok((0..negations).fold(node, |node, _| Node::Not(Box::new(node))))
    }

    fn comparison(&mut self, depth: usize) -> Result<Node, ExpressionError> {
        let left = self.operand(depth)?;
        let Some((_, operator)) = OPERATORS.into_iter().find(|(word, _)| self.eat(word)) else { return Ok(left) };
        let right = self.operand(depth)?;
        Ok(Node::Compare(Box::new(left), operator, Box::new(right)))
    }

    fn operand(&mut self, depth: usize) -> Result<Node, ExpressionError> {
        self.spaces();
        match self.rest().chars().next() {
            Some('(') => {
                self.at += 1;
                let node = self.condition(depth + 1)?;
                if self.eat(")") { Ok(node) } else { Err(self.expected("`)`")) }
            }
            Some('"' | '\'') => Ok(Node::Literal(Value::String(self.quoted()?))),
            Some(c) if c.is_ascii_digit() || c == '-' => self.number(),
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Result<Node, ExpressionError> {
        let start = self.at;
        match self.take_while(|c| c.is_alphanumeric() || c == '_') {
            "true" => Ok(Node::Literal(Value::Bool(true))),
            "false" => Ok(Node::Literal(Value::Bool(false))),
            "null" => Ok(Node::Literal(Value::Null)),
            "status" => Ok(Node::Status),
            "body" => Ok(Node::Body),
            "json" => self.path(),
            _ => {
                self.at = start;
                Err(self.expected("`status`, `body`, `json`, a text in quotes or a number"))
            }
        }
    }

    fn path(&mut self) -> Result<Node, ExpressionError> {
        let mut steps = Vec::new();
        loop {
            if self.rest().starts_with('.') {
                self.at += 1;
                let name = self.take_while(|c| c.is_alphanumeric() || c == '_' || c == '-');
                if name.is_empty() {
                    return Err(self.expected("a name (write others as [\"name\"])"));
                }
                steps.push(Step::Name(name.to_owned()));
            } else if self.rest().starts_with('[') {
                self.at += 1;
                self.spaces();
                if self.rest().starts_with(['"', '\'']) {
                    steps.push(Step::Name(self.quoted()?));
                } else {
                    let digits = self.take_while(|c| c.is_ascii_digit());
                    steps.push(Step::Index(digits.parse().map_err(|_| self.expected("a position, from 0"))?));
                }
                if !self.eat("]") {
                    return Err(self.expected("`]`"));
                }
            } else {
                return Ok(Node::Json(steps));
            }
        }
    }

    fn number(&mut self) -> Result<Node, ExpressionError> {
        let start = self.at;
        let text = self.take_while(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        match serde_json::from_str(text) {
            Ok(number @ Value::Number(_)) => Ok(Node::Literal(number)),
            _ => {
                self.at = start;
                Err(self.expected("a number"))
            }
        }
    }

    fn quoted(&mut self) -> Result<String, ExpressionError> {
        let mut chars = self.rest().char_indices();
        let quote = chars.next().map(|(_, c)| c);
        let mut text = String::new();
        while let Some((at, c)) = chars.next() {
            if Some(c) == quote {
                self.at += at + c.len_utf8();
                return Ok(text);
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            match chars.next().map(|(_, c)| c) {
                Some('n') => text.push('\n'),
                Some('r') => text.push('\r'),
                Some('t') => text.push('\t'),
                Some(c @ ('"' | '\'' | '\\')) => text.push(c),
                _ => {
                    self.at += at;
                    return Err(self.expected("one of \\\" \\' \\\\ \\n \\r \\t"));
                }
            }
        }
        self.at = self.text.len();
        Err(self.expected("a closing quote"))
    }
}

fn one_or(mut nodes: Vec<Node>, many: fn(Vec<Node>) -> Node) -> Node {
    if nodes.len() == 1 { nodes.remove(0) } else { many(nodes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn holds(condition: &str) -> Result<bool, String> {
        let json = json!({
            "code": 0, "big": 9_007_199_254_740_993_i64, "name": "it's", "list": [{ "x": 1.5 }, 2], "a b": { "c-d": null },
            "ok": true
        });
        let body = json.to_string();
        let subject = Subject { status: 200, body: &body, json: Ok(&json) };
        parse(condition).and_then(|expression| expression.holds(&subject)).map_err(|e| e.to_string())
    }

    #[test]
    fn conditions_mean_what_they_say() {
        for (condition, expected) in [
            ("status == 200", true),
            ("json.code == 0 && body contains \"code\"", true),
            ("json.code != 0 || json.ok", true),
            ("!json.ok", false),
            ("!!json.ok && (false || true)", true),
            ("json.list[0].x >= 1.5 && json.list[1] < 3", true),
            ("json.list contains 2", true),
            ("json['a b'].c-d == null && json.no.way[3] == null", true),
            ("json.name == 'it\\'s' && json.name startsWith \"it\"", true),
            ("json.big == 9007199254740993 && json.big != 9007199254740992", true),
            ("json.list[1] == 2.0", true),
            ("json.code == \"0\"", false),
            ("\"a\" < \"b\" && -1.5e0 < 0", true),
            ("false && json.code", false),
            ("true || true && false", true),
        ] {
            assert_eq!(holds(condition), Ok(expected), "{condition}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        for condition in [
            "",
            "json.code",
            "status",
            "json.name < 5",
            "json contains 1",
            "status contains 2",
            "body",
            "1 == 1 == 1",
            "json.",
            "json[",
            "json[-1]",
            "json['a]",
            "\"open",
            "\"\\x\"",
            "foo == 1",
            "status = 200",
            "(true",
            "true)",
            "json.list[99999999999999999999] == 1",
            "01 == 1",
            "1e999 == 1",
        ] {
            assert!(holds(condition).is_err(), "{condition}");
        }
        let subject = Subject { status: 200, body: "<html>", json: Err("the body is not JSON") };
        assert!(parse("json.code == 0").unwrap().holds(&subject).is_err());
        assert_eq!(parse("body startsWith '<'").unwrap().holds(&subject), Ok(true));
    }

    #[test]
    fn sec_7_depth_and_length_are_bounded() {
        for condition in ["(".repeat(4000), "!".repeat(4000), format!("{}true", "!(".repeat(2000)), "x".repeat(5000)] {
            assert!(parse(&condition).is_err());
        }
        assert!(parse(&vec!["true"; 500].join("&&")).is_ok());
        assert!(parse(&format!("{}true{}", "(".repeat(32), ")".repeat(32))).is_ok());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,60}") {
            let _ = holds(&text);
        }

        #[test]
        fn nothing_that_looks_like_a_condition_panics(
            tokens in proptest::collection::vec(
                proptest::sample::select(vec![
                    "json", ".a", "[0]", "['a b']", "status", "body", "==", "<", "contains", "&&", "||", "!", "(", ")",
                    "1", "-2.5", "\"x\"", "null", "true", " ", "é",
                ]),
                0..30,
            )
        ) {
            let _ = holds(&tokens.concat());
        }
    }
}
