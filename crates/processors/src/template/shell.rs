//! Templates in shell text.
//!
//! No value ever becomes part of the program. Each placeholder is replaced by the expansion of an environment variable
//! that carries the value, and the shell itself does not look again at what an expansion yields. All that remains is to
//! write that expansion so that it is neither split nor globbed, for which this module follows the quoting of the text:
//! `"${V}"` outside quotes, `${V}` inside double quotes and here-documents, `'"${V}"'` inside single quotes. If it loses
//! track of some exotic construct, the value may be shown wrongly; it still does not run.
//!
//! Some places evaluate what an expansion yields (arithmetic in bash runs `$(…)` inside array subscripts), and some
//! cannot have one (a here-document with a quoted delimiter). There a placeholder is an error.
//!
//! What is not a placeholder stays: `${HOME}`, `${app:-x}` and `\${app}` belong to the shell.

use super::TemplateError;
use super::placeholder::{self, Found};
use crate::facts::Facts;

/// A program whose placeholders have become environment variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShellProgram {
    pub text: String,
    /// Names and values to put into its environment.
    pub variables: Vec<(String, String)>,
}

/// Expands the placeholders of `text`, a program for a POSIX-like shell; `$${` stands for `${`.
///
/// # Errors
/// As [`super::expand`], except that unknown names are left alone; and a placeholder where a value cannot stand safely.
pub fn expand(text: &str, facts: &Facts) -> Result<ShellProgram, TemplateError> {
    let mut scanner = Scanner {
        text,
        at: 0,
        facts,
        out: String::with_capacity(text.len()),
        values: Vec::new(),
        inside: vec![Inside::Command { close: None }],
        here_documents: Vec::new(),
        line_start: true,
    };
    scanner.run()?;
    let variables = scanner.values.into_iter().enumerate().map(|(n, value)| (variable(n), value)).collect();
    Ok(ShellProgram { text: scanner.out, variables })
}

/// What the shell's reading position is inside of; the innermost comes last.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Inside {
    /// Unquoted words; `close` ends it: `)` of `$(…)`, a backtick, or nothing for the program itself.
    Command { close: Option<char> },
    /// `'…'`, or `$'…'` with backslashes.
    Single { ansi: bool },
    /// `"…"`.
    Double,
    /// `${name…}`.
    Braces { quoted: bool },
    /// `$((…))`, `((…))`, `$[…]`, `${name:offset}`: evaluated as an expression.
    Arithmetic { open: char, close: char, depth: usize },
    /// The body of a here-document.
    Document(HereDocument),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct HereDocument {
    delimiter: String,
    strip_tabs: bool,
    literal: bool,
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    facts: &'a Facts,
    out: String,
    values: Vec<String>,
    inside: Vec<Inside>,
    /// Announced on the current line, in order.
    here_documents: Vec<HereDocument>,
    line_start: bool,
}

fn variable(n: usize) -> String {
    format!("__PENDULA_{n}")
}

impl Scanner<'_> {
    fn run(&mut self) -> Result<(), TemplateError> {
        while let Some(c) = self.rest().chars().next() {
            if self.line_start && self.ends_document() {
                continue;
            }
            self.line_start = false;
            let innermost = self.inside.last().cloned().expect("the program itself is never left");
            let is_escape = match innermost {
                Inside::Single { ansi } => ansi,
                Inside::Document(ref document) => !document.literal,
                _ => true,
            };
            if c == '\\' && is_escape {
                let escaped = self.rest().chars().nth(1).map_or(0, char::len_utf8);
                self.copy(1 + escaped);
            } else if self.rest().starts_with("$${") && !self.foreign_after(1)? {
                self.at += 1;
                self.copy(2);
            } else if self.rest().starts_with("${") && !self.foreign_after(0)? {
                self.placeholder(&innermost)?;
            } else {
                self.step(c, innermost);
            }
        }
        Ok(())
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn copy(&mut self, bytes: usize) {
        self.out.push_str(&self.text[self.at..self.at + bytes]);
        self.at += bytes;
    }

    /// Whether the `${` that many bytes ahead is the shell's own. In `$${` too only ours need an escape: elsewhere
    /// `$$` is the number of the process.
    fn foreign_after(&self, bytes: usize) -> Result<bool, TemplateError> {
        Ok(matches!(placeholder::read(&self.text[self.at + bytes..])?, Found::Foreign(_)))
    }

    fn placeholder(&mut self, innermost: &Inside) -> Result<(), TemplateError> {
        let text = self.text;
        let Found::Ours(placeholder) = placeholder::read(&text[self.at..])? else {
            unreachable!("the caller saw that it is ours");
        };
        let refuse = |place: &str| {
            let name = placeholder.name;
            let help = format!("put it into a variable first, as in `value=${{{name}}}`");
            Err(TemplateError::new(format!("`{name}` must not stand {place}; {help}")))
        };
        let rendered = placeholder.render(self.facts)?;
        if rendered.text.contains('\0') {
            return Err(TemplateError::new(format!("`{}` contains a NUL character", placeholder.name)));
        }
        let known = self.values.iter().position(|value| *value == rendered.text);
        let n = known.unwrap_or(self.values.len());
        let bare = format!("${{{}}}", variable(n));
        let written = match innermost {
            Inside::Command { close } => {
                let in_double = self.inside.iter().rev().skip(1).any(|outer| *outer == Inside::Double);
                if *close == Some('`') && in_double {
                    return refuse("inside backticks inside double quotes, where shells disagree on quotes");
                }
                if self.is_evaluated_here() {
                    return refuse("where bash evaluates it as an expression");
                }
                format!("\"{bare}\"")
            }
            Inside::Braces { quoted: false } => format!("\"{bare}\""),
            Inside::Braces { quoted: true } | Inside::Double => bare,
            Inside::Single { ansi: false } => format!("'\"{bare}\"'"),
            Inside::Single { ansi: true } => format!("'\"{bare}\"$'"),
            Inside::Arithmetic { .. } => return refuse("inside arithmetic, which would evaluate it"),
            Inside::Document(document) if document.literal => {
                return refuse("in a here-document with a quoted delimiter, where the shell expands nothing");
            }
            Inside::Document(_) => bare,
        };
        if known.is_none() {
            self.values.push(rendered.text);
        }
        self.out.push_str(&written);
        self.at += placeholder.length;
        Ok(())
    }

    /// Whether the words around the position make bash evaluate this one: `let`, a subscript, `[[ … -gt … ]]`.
    fn is_evaluated_here(&self) -> bool {
        let before = &self.text[..self.at];
        let start = before.rfind(['\n', ';', '|', '&', '(', '`']).map_or(0, |at| at + 1);
        let end = self.rest().find('\n').map_or(self.text.len(), |end| self.at + end);
        let command = &before[start..];
        let mut words = command.split_whitespace();
        let subscript = command.rfind('[').is_some_and(|at| {
            command[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') && !command[at..].contains(']')
        });
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let test = before[line_start..].rfind("[[").is_some_and(|at| {
            let line = &self.text[line_start + at..end];
            let test = line.find("]]").map_or(line, |close| &line[..close]);
            let compares = ["-eq", "-ne", "-lt", "-le", "-gt", "-ge"];
            line_start + at + test.len() > self.at && compares.iter().any(|operator| test.contains(operator))
        });
        words.any(|word| word == "let") || subscript || test
    }

    /// One step over what is no placeholder and no escape.
    fn step(&mut self, c: char, innermost: Inside) {
        match innermost {
            Inside::Command { close } => self.step_command(c, close),
            Inside::Single { .. } => {
                if c == '\'' {
                    self.inside.pop();
                }
                self.copy(c.len_utf8());
            }
            Inside::Double => self.step_quoted(c, Some('"')),
            Inside::Braces { quoted: true } => match c {
                '"' => self.enter(Inside::Double, 1),
                _ => self.step_quoted(c, Some('}')),
            },
            Inside::Braces { quoted: false } => match c {
                '\'' => self.enter(Inside::Single { ansi: false }, 1),
                '"' => self.enter(Inside::Double, 1),
                _ => self.step_quoted(c, Some('}')),
            },
            Inside::Arithmetic { open, close, .. } => self.step_arithmetic(c, open, close),
            Inside::Document(document) => {
                self.line_start = c == '\n';
                if document.literal { self.copy(c.len_utf8()) } else { self.step_quoted(c, None) }
            }
        }
    }

    fn step_command(&mut self, c: char, close: Option<char>) {
        let rest = self.rest();
        match c {
            _ if close == Some(c) => self.leave(c),
            '\n' => {
                self.copy(1);
                // The first one announced is read first, so it must lie on top.
                for document in std::mem::take(&mut self.here_documents).into_iter().rev() {
                    self.inside.push(Inside::Document(document));
                    self.line_start = true;
                }
            }
            '\'' => self.enter(Inside::Single { ansi: false }, 1),
            '"' => self.enter(Inside::Double, 1),
            '#' if self.at_word_start() => {
                let comment = rest.find('\n').unwrap_or(rest.len());
                self.copy(comment);
            }
            '<' if rest.starts_with("<<<") => self.copy(3),
            '<' if rest.starts_with("<<") => self.announce_document(),
            '$' if rest.starts_with("$'") => self.enter(Inside::Single { ansi: true }, 2),
            '(' if rest.starts_with("((") => {
                self.enter(Inside::Arithmetic { open: '(', close: ')', depth: 2 }, 2);
            }
            // Parentheses must balance inside `$(…)`.
            '(' if close == Some(')') => self.enter(Inside::Command { close: Some(')') }, 1),
            _ => self.step_quoted(c, None),
        }
    }

    /// What means the same inside and outside double quotes: the beginnings of expansions.
    fn step_quoted(&mut self, c: char, close: Option<char>) {
        let rest = self.rest();
        if close == Some(c) {
            self.leave(c);
        } else if rest.starts_with("$((") {
            self.enter(Inside::Arithmetic { open: '(', close: ')', depth: 2 }, 3);
        } else if rest.starts_with("$[") {
            self.enter(Inside::Arithmetic { open: '[', close: ']', depth: 1 }, 2);
        } else if rest.starts_with("$(") {
            self.enter(Inside::Command { close: Some(')') }, 2);
        } else if rest.starts_with("${") {
            self.enter_braces();
        } else if c == '`' {
            self.enter(Inside::Command { close: Some('`') }, 1);
        } else {
            self.copy(c.len_utf8());
        }
    }

    fn step_arithmetic(&mut self, c: char, open: char, close: char) {
        if c != open && c != close {
            return self.step_quoted(c, None);
        }
        if let Some(Inside::Arithmetic { depth, .. }) = self.inside.last_mut() {
            *depth = if c == open { *depth + 1 } else { *depth - 1 };
            if *depth == 0 {
                self.inside.pop();
            }
        }
        self.copy(1);
    }

    fn enter(&mut self, inside: Inside, bytes: usize) {
        self.inside.push(inside);
        self.copy(bytes);
    }

    fn leave(&mut self, c: char) {
        self.inside.pop();
        self.copy(c.len_utf8());
    }

    fn enter_braces(&mut self) {
        let name_end = self.rest()[2..]
            .find(|c: char| !(c.is_alphanumeric() || "_@*#?!-".contains(c)))
            .map_or(self.rest().len(), |end| end + 2);
        let mut after = self.rest()[name_end..].chars();
        let is_offset = after.next() == Some(':') && !after.next().is_some_and(|c| "-=?+".contains(c));
        let is_subscript = self.rest()[name_end..].starts_with('[');
        let quoted = self.inside.iter().rev().find_map(|outer| match outer {
            Inside::Double | Inside::Document(_) | Inside::Braces { quoted: true } => Some(true),
            Inside::Command { .. } | Inside::Braces { quoted: false } => Some(false),
            _ => None,
        });
        let inside = if is_offset || is_subscript {
            Inside::Arithmetic { open: '{', close: '}', depth: 1 }
        } else {
            Inside::Braces { quoted: quoted.unwrap_or(false) }
        };
        self.enter(inside, 2);
    }

    fn at_word_start(&self) -> bool {
        self.text[..self.at].chars().next_back().is_none_or(|c| c.is_whitespace() || ";|&()".contains(c))
    }

    /// Copies `<<[-]delimiter` and remembers that its body begins after this line.
    fn announce_document(&mut self) {
        let strip_tabs = self.rest().starts_with("<<-");
        self.copy(if strip_tabs { 3 } else { 2 });
        let blanks = self.rest().len() - self.rest().trim_start_matches([' ', '\t']).len();
        self.copy(blanks);
        let mut delimiter = String::new();
        let mut literal = false;
        let mut length = 0;
        let mut quote = None;
        let mut chars = self.rest().chars();
        while let Some(c) = chars.next() {
            match (quote, c) {
                (Some(open), _) if c == open => quote = None,
                (Some(_), _) => delimiter.push(c),
                (None, '\'' | '"') => {
                    quote = Some(c);
                    literal = true;
                }
                (None, '\\') => {
                    literal = true;
                    if let Some(escaped) = chars.next() {
                        length += escaped.len_utf8();
                        delimiter.push(escaped);
                    }
                }
                (None, _) if c.is_whitespace() || ";|&<>()`".contains(c) => break,
                (None, _) => delimiter.push(c),
            }
            length += c.len_utf8();
        }
        self.copy(length);
        if !delimiter.is_empty() {
            self.here_documents.push(HereDocument { delimiter, strip_tabs, literal });
        }
    }

    /// Leaves a here-document if its last line stands here.
    fn ends_document(&mut self) -> bool {
        let Some(Inside::Document(document)) = self.inside.last() else { return false };
        let line = self.rest().split('\n').next().unwrap_or_default();
        let compared = if document.strip_tabs { line.trim_start_matches('\t') } else { line };
        if compared != document.delimiter {
            return false;
        }
        let length = line.len();
        self.inside.pop();
        // A second document announced on the same line begins right below, after the line break.
        let more = matches!(self.inside.last(), Some(Inside::Document(_)));
        let line_break = usize::from(more && self.rest().len() > length);
        self.copy(length + line_break);
        self.line_start = more;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::sample;
    use serde_json::json;

    fn text_of(text: &str) -> Result<String, String> {
        let facts = sample(json!({ "x": "v", "n": 5 }));
        expand(text, &facts).map(|program| program.text).map_err(|e| e.to_string())
    }

    #[test]
    fn the_expansion_fits_the_quoting_around_it() {
        let v = "${__PENDULA_0}";
        for (text, expected) in [
            ("echo ${params.x}", format!("echo \"{v}\"")),
            ("echo a${params.x}b", format!("echo a\"{v}\"b")),
            ("echo \"a ${params.x} b\"", format!("echo \"a {v} b\"")),
            ("echo 'a ${params.x} b'", format!("echo 'a '\"{v}\"' b'")),
            ("echo $'a\\'${params.x}'", format!("echo $'a\\''\"{v}\"$''")),
            ("echo \"$(cat ${params.x} \"${params.x}\")${params.x}\"", format!("echo \"$(cat \"{v}\" \"{v}\"){v}\"")),
            ("# don't ${params.none}\necho ${params.x}", format!("# don't ${{params.none}}\necho \"{v}\"")),
            ("echo a#'b' ${params.x}", format!("echo a#'b' \"{v}\"")),
            ("echo it\\'s ${params.x}", format!("echo it\\'s \"{v}\"")),
            ("cat <<E\nit's ${params.x}\nE\necho ${params.x}", format!("cat <<E\nit's {v}\nE\necho \"{v}\"")),
            (
                "cat <<A <<-B\n\"${params.x}\nA\n'${params.x}\n\tB\n'${params.x}'",
                format!("cat <<A <<-B\n\"{v}\nA\n'{v}\n\tB\n''\"{v}\"''"),
            ),
            (
                "echo ${HOME:-${params.x}} ${HOME:-\"${params.x}\"}",
                format!("echo ${{HOME:-\"{v}\"}} ${{HOME:-\"{v}\"}}"),
            ),
            ("echo `cat ${params.x}`", format!("echo `cat \"{v}\"`")),
            ("(cd /; ls ${params.x}) && ls '${params.x}'", format!("(cd /; ls \"{v}\") && ls ''\"{v}\"''")),
            ("echo $((1 << 2)) '${params.x}'", format!("echo $((1 << 2)) ''\"{v}\"''")),
        ] {
            assert_eq!(text_of(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_belongs_to_the_shell_stays() {
        for text in [
            "echo ${HOME} ${X:-y} ${app:-z} ${job%.*} ${#app} $app \\${app} $$ ${params_x}",
            "echo $${HOME}",
            "cat <<'E'\n${HOME} it's\nE\n",
            "awk '{ print $1 }' | sed \"s/${a}/b/\"",
        ] {
            assert_eq!(text_of(text).as_deref(), Ok(text));
        }
        assert_eq!(text_of("echo $${app} '$${params.x}'").as_deref(), Ok("echo ${app} '${params.x}'"));
    }

    #[test]
    fn places_that_would_evaluate_or_cannot_expand_a_value_are_refused() {
        for text in [
            "echo $((${params.n} + 1))",
            "((i = ${params.n}))",
            "echo $[${params.n}]",
            "let i=${params.n}",
            "[[ ${params.n} -gt 3 ]]",
            "a[${params.n}]=1",
            "echo ${a[${params.n}]}",
            "echo ${a:${params.n}}",
            "cat <<'E'\n${params.x}\nE",
            "cat <<\\E\n${params.x}\nE",
            "echo \"`cat ${params.x}`\"",
        ] {
            let message = text_of(text).expect_err(text);
            assert!(message.contains("must not stand"), "{text}: {message}");
        }
        for text in ["echo ${params.none}", "echo ${app | shout}", "echo ${params.x", "echo ${params.x:-y}"] {
            assert!(text_of(text).is_err(), "{text}");
        }
    }
}
