//! The file as tokens.

use std::io::BufRead;

/// The longest text that is kept: a job that holds more cannot be saved anyway.
pub(super) const LONGEST: usize = 16 * 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A keyword, a bare name or a number, as it is written.
    Word(String),
    /// A name in double quotes.
    Name(String),
    /// A text in single quotes, as it is meant.
    Text(String),
    /// Bytes, `X'…'`, as their digits.
    Bytes(String),
    Symbol(char),
    /// The end of the file.
    End,
}

pub(super) struct Scanner<R> {
    reader: R,
    line: usize,
    /// A token that was looked at.
    ahead: Option<Token>,
    /// Whether texts are of interest; those of others are passed over.
    pub keep: bool,
}

impl<R: BufRead> Scanner<R> {
    pub fn new(reader: R) -> Self {
        Scanner { reader, line: 1, ahead: None, keep: true }
    }

    /// Where it is, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    pub fn peek(&mut self) -> Result<&Token, String> {
        if self.ahead.is_none() {
            self.ahead = Some(self.read()?);
        }
        Ok(self.ahead.as_ref().unwrap_or(&Token::End))
    }

    pub fn next(&mut self) -> Result<Token, String> {
        match self.ahead.take() {
            Some(token) => Ok(token),
            None => self.read(),
        }
    }

    fn byte(&mut self) -> Result<Option<u8>, String> {
        let buffer = self.reader.fill_buf().map_err(|error| error.to_string())?;
        Ok(buffer.first().copied())
    }

    fn take(&mut self) {
        self.reader.consume(1);
    }

    /// Takes bytes while they are wanted.
    fn run(&mut self, wanted: impl Fn(u8) -> bool, into: &mut Vec<u8>) -> Result<(), String> {
        loop {
            let buffer = self.reader.fill_buf().map_err(|error| error.to_string())?;
            let length = buffer.iter().position(|byte| !wanted(*byte)).unwrap_or(buffer.len());
            if length == 0 {
                return Ok(());
            }
            self.line += buffer[..length].iter().filter(|byte| **byte == b'\n').count();
            if self.keep {
                if into.len() + length > LONGEST {
                    return Err(format!("a text is longer than {LONGEST} bytes"));
                }
                into.extend_from_slice(&buffer[..length]);
            }
            self.reader.consume(length);
        }
    }

    fn read(&mut self) -> Result<Token, String> {
        let mut none = Vec::new();
        loop {
            none.clear();
            self.run(|byte| byte.is_ascii_whitespace() || byte == 0, &mut none)?;
            let Some(byte) = self.byte()? else { return Ok(Token::End) };
            match byte {
                b'-' => {
                    self.take();
                    if self.byte()? != Some(b'-') {
                        return Ok(Token::Symbol('-'));
                    }
                    self.run(|byte| byte != b'\n', &mut none)?;
                }
                b'\'' => return self.quoted(b'\'').and_then(text).map(Token::Text),
                b'"' => return self.quoted(b'"').and_then(text).map(Token::Name),
                _ if is_of_word(byte) => return self.word(),
                byte if byte.is_ascii() => {
                    self.take();
                    return Ok(Token::Symbol(char::from(byte)));
                }
                _ => return Err("a character that is in no quotes".to_owned()),
            }
        }
    }

    fn word(&mut self) -> Result<Token, String> {
        let mut word = Vec::new();
        self.run(is_of_word, &mut word)?;
        let is_number = word.first().is_some_and(u8::is_ascii_digit);
        if is_number && word.last().is_some_and(|last| matches!(last, b'E' | b'e')) {
            // 1.5E-7
            if let Some(sign @ (b'-' | b'+')) = self.byte()? {
                self.take();
                word.push(sign);
                self.run(is_of_word, &mut word)?;
            }
        }
        match (word.as_slice(), self.byte()?) {
            (b"U" | b"u", Some(b'&')) => {
                self.take();
                match self.byte()? {
                    Some(b'\'') => self.quoted(b'\'').and_then(text).and_then(|text| unicode(&text)).map(Token::Text),
                    Some(b'"') => self.quoted(b'"').and_then(text).and_then(|text| unicode(&text)).map(Token::Name),
                    _ => Err("U& has to be followed by a text".to_owned()),
                }
            }
            (b"X" | b"x", Some(b'\'')) => self.quoted(b'\'').and_then(text).map(Token::Bytes),
            _ => text(word).map(Token::Word),
        }
    }

    /// What stands between two quotes, where a doubled one means one.
    fn quoted(&mut self, quote: u8) -> Result<Vec<u8>, String> {
        let begin = self.line;
        self.take();
        let mut text = Vec::new();
        loop {
            self.run(|byte| byte != quote, &mut text)?;
            if self.byte()?.is_none() {
                return Err(format!("the quote of line {begin} is not closed before the end of the file"));
            }
            self.take();
            if self.byte()? != Some(quote) {
                return Ok(text);
            }
            self.take();
            if self.keep {
                text.push(quote);
            }
        }
    }
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$')
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|_| "a text is not UTF-8; write the script with CHARSET 'UTF-8'".to_owned())
}

/// `\\`, `\00e9` and `\+01f600` of a text that begins with `U&`.
fn unicode(text: &str) -> Result<String, String> {
    let mut meant = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        meant.extend(rest[..at].encode_utf16());
        rest = &rest[at + 1..];
        let code = |digits: Option<&str>| digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let length = match rest.as_bytes().first() {
            Some(b'\\') => {
                meant.push(u16::from(b'\\'));
                1
            }
            Some(b'+') => {
                let code = code(rest.get(1..7)).and_then(char::from_u32).ok_or("an escape of a character is broken")?;
                meant.extend(code.encode_utf16(&mut [0; 2]).iter().copied());
                7
            }
            // Half of a pair may stand here, with the other one after it.
            _ => {
                meant.push(code(rest.get(..4)).ok_or("an escape of a character is broken")? as u16);
                4
            }
        };
        rest = &rest[length..];
    }
    meant.extend(rest.encode_utf16());
    String::from_utf16(&meant).map_err(|_| "an escape of a character is broken".to_owned())
}

/// The text that `STRINGDECODE` of H2 1.4 makes: Java's escapes.
pub(super) fn java(text: &str) -> Result<String, String> {
    let mut meant = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        meant.extend(rest[..at].encode_utf16());
        rest = &rest[at + 1..];
        let escaped = rest.chars().next().ok_or("an escape of a character is broken")?;
        rest = &rest[escaped.len_utf8()..];
        let simple = match escaped {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => {
                let digits = rest.get(..4).ok_or("an escape of a character is broken")?;
                meant.push(u16::from_str_radix(digits, 16).map_err(|_| "an escape of a character is broken")?);
                rest = &rest[4..];
                continue;
            }
            other => other,
        };
        meant.extend(simple.encode_utf16(&mut [0; 2]).iter().copied());
    }
    meant.extend(rest.encode_utf16());
    String::from_utf16(&meant).map_err(|_| "an escape of a character is broken".to_owned())
}
