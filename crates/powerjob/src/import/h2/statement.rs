//! One statement after the other.

use std::collections::BTreeMap;
use std::io::BufRead;

use super::scan::{LONGEST, Scanner, Token, java};
use super::{Kept, Script, is_wanted};
use crate::import::source::Row;

/// Where long texts stand in pieces, before the rows that they are of.
const PIECES: &str = "system_lob_stream";

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Statement {
    Table,
    Rows,
    /// Neither.
    Passed,
    /// There is none any more.
    End,
}

/// Reads a statement into the script.
pub(super) fn next<R: BufRead>(scanner: &mut Scanner<R>, script: &mut Script) -> Result<Statement, String> {
    scanner.keep = true;
    match scanner.next()? {
        Token::End => Ok(Statement::End),
        Token::Symbol(';') => Ok(Statement::Passed),
        Token::Word(word) if word.eq_ignore_ascii_case("create") => create(scanner, script),
        Token::Word(word) if word.eq_ignore_ascii_case("insert") => insert(scanner, script),
        Token::Word(_) => pass(scanner),
        other => Err(format!("no statement begins with {other:?}")),
    }
}

fn pass<R: BufRead>(scanner: &mut Scanner<R>) -> Result<Statement, String> {
    scanner.keep = false;
    loop {
        match scanner.next()? {
            Token::Symbol(';') => return Ok(Statement::Passed),
            Token::End => return Err("the last statement has no end".to_owned()),
            _ => {}
        }
    }
}

fn create<R: BufRead>(scanner: &mut Scanner<R>, script: &mut Script) -> Result<Statement, String> {
    loop {
        let Token::Word(word) = scanner.next()? else { return pass(scanner) };
        match word.to_ascii_lowercase().as_str() {
            "cached" | "memory" | "global" | "local" | "temporary" | "unlogged" => {}
            "table" => break,
            _ => return pass(scanner),
        }
    }
    for word in ["if", "not", "exists"] {
        if is_word(scanner.peek()?, word) {
            scanner.next()?;
        }
    }
    let table = name(scanner)?;
    if !is_wanted(&table) || scanner.peek()? != &Token::Symbol('(') {
        pass(scanner)?;
        return Ok(Statement::Table);
    }
    scanner.next()?;
    let mut columns = Vec::new();
    let (mut depth, mut begins) = (1, true);
    while depth > 0 {
        let token = scanner.next()?;
        match &token {
            Token::Symbol('(') => depth += 1,
            Token::Symbol(')') => depth -= 1,
            Token::Symbol(',') if depth == 1 => {
                begins = true;
                continue;
            }
            Token::Name(column) if begins => columns.push(column.to_lowercase()),
            Token::Word(column) if begins => {
                let word = column.to_lowercase();
                if !["constraint", "primary", "unique", "check", "foreign"].contains(&word.as_str()) {
                    columns.push(word);
                }
            }
            Token::End => return Err("the last statement has no end".to_owned()),
            _ => {}
        }
        begins = false;
    }
    script.tables.insert(table, Kept { columns, rows: BTreeMap::new() });
    pass(scanner)?;
    Ok(Statement::Table)
}

fn insert<R: BufRead>(scanner: &mut Scanner<R>, script: &mut Script) -> Result<Statement, String> {
    expect(scanner, "into")?;
    let table = name(scanner)?;
    let is_piece = table == PIECES;
    if !is_piece && !is_wanted(&table) {
        script.pieces.clear();
        pass(scanner)?;
        return Ok(Statement::Rows);
    }
    let mut named = Vec::new();
    if scanner.peek()? == &Token::Symbol('(') {
        scanner.next()?;
        loop {
            named.push(name(scanner)?);
            if symbol(scanner, &[',', ')'])? == ')' {
                break;
            }
        }
    }
    expect(scanner, "values")?;
    loop {
        let values = row(scanner, &script.pieces)?;
        if is_piece {
            if let [Some(text), _, Some(piece), ..] = values.as_slice() {
                let whole = script.pieces.entry(text.clone()).or_default();
                if whole.len() <= LONGEST {
                    whole.push_str(piece);
                }
            }
        } else {
            let kept = script.tables.entry(table.clone()).or_default();
            if !named.is_empty() && kept.columns.is_empty() {
                kept.columns.clone_from(&named);
            }
            let columns = if named.is_empty() { &kept.columns } else { &named };
            if columns.len() != values.len() {
                return Err(format!(
                    "a row of {table} has {} values for {} columns{}",
                    values.len(),
                    columns.len(),
                    if columns.is_empty() { " (its CREATE TABLE is missing)" } else { "" }
                ));
            }
            let texts = columns.iter().cloned().zip(values).filter_map(|(column, text)| Some((column, text?)));
            let row = Row(texts.collect());
            let id = row.long("id").ok_or_else(|| format!("a row of {table} has no number as its id"))?;
            kept.rows.insert(id, row);
        }
        if symbol(scanner, &[',', ';'])? == ';' {
            break;
        }
    }
    if !is_piece {
        script.pieces.clear();
    }
    Ok(Statement::Rows)
}

/// The values between parentheses; none for NULL.
fn row<R: BufRead>(scanner: &mut Scanner<R>, pieces: &BTreeMap<String, String>) -> Result<Vec<Option<String>>, String> {
    symbol(scanner, &['('])?;
    let mut values = Vec::new();
    loop {
        values.push(value(scanner, pieces)?);
        if symbol(scanner, &[',', ')'])? == ')' {
            return Ok(values);
        }
    }
}

fn value<R: BufRead>(scanner: &mut Scanner<R>, pieces: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    let word = match scanner.next()? {
        Token::Text(text) | Token::Bytes(text) => return Ok(Some(text)),
        Token::Symbol('-') => return Ok(value(scanner, pieces)?.map(|number| format!("-{number}"))),
        Token::Word(word) => word,
        other => return Err(format!("{other:?} is no value")),
    };
    match word.to_ascii_lowercase().as_str() {
        "null" => Ok(None),
        "timestamp" | "date" | "time" => {
            while let Token::Word(_) = scanner.peek()? {
                // WITH TIME ZONE
                scanner.next()?;
            }
            value(scanner, pieces)
        }
        "cast" => {
            symbol(scanner, &['('])?;
            let value = value(scanner, pieces)?;
            let mut depth = 1;
            while depth > 0 {
                match scanner.next()? {
                    Token::Symbol('(') => depth += 1,
                    Token::Symbol(')') => depth -= 1,
                    Token::Symbol(';') | Token::End => return Err("CAST has no end".to_owned()),
                    _ => {}
                }
            }
            Ok(value)
        }
        "stringdecode" => {
            symbol(scanner, &['('])?;
            let text = value(scanner, pieces)?.unwrap_or_default();
            symbol(scanner, &[')'])?;
            java(&text).map(Some)
        }
        "system_combine_clob" | "system_combine_blob" => {
            symbol(scanner, &['('])?;
            let number = value(scanner, pieces)?.unwrap_or_default();
            symbol(scanner, &[')'])?;
            match pieces.get(&number) {
                Some(whole) if whole.len() > LONGEST => Err(format!("a text is longer than {LONGEST} bytes")),
                Some(whole) => Ok(Some(whole.clone())),
                None => Err(format!("the pieces of the long text {number} are missing before this row")),
            }
        }
        _ if word.as_bytes()[0].is_ascii_digit() => Ok(Some(word)),
        "true" | "false" => Ok(Some(word.to_ascii_lowercase())),
        _ => Err(format!("`{word}` is no value")),
    }
}

/// The last part of a name, in lower case: `"PUBLIC"."JOB_INFO"`, `PUBLIC.JOB_INFO`.
fn name<R: BufRead>(scanner: &mut Scanner<R>) -> Result<String, String> {
    loop {
        let part = match scanner.next()? {
            Token::Name(name) => name,
            Token::Word(word) => {
                // `PUBLIC."JOB_INFO"`: the point belongs to the word.
                if word.ends_with('.') {
                    continue;
                }
                word.rsplit('.').next().unwrap_or_default().to_owned()
            }
            other => return Err(format!("{other:?} is no name")),
        };
        match scanner.peek()? {
            Token::Word(point) if point == "." => {
                scanner.next()?;
            }
            // `"PUBLIC".JOB_INFO`
            Token::Word(rest) if rest.starts_with('.') => {
                let rest = rest.trim_start_matches('.').to_lowercase();
                scanner.next()?;
                return Ok(rest);
            }
            _ => return Ok(part.to_lowercase()),
        }
    }
}

fn is_word(token: &Token, expected: &str) -> bool {
    matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(expected))
}

fn expect<R: BufRead>(scanner: &mut Scanner<R>, expected: &str) -> Result<(), String> {
    let token = scanner.next()?;
    if is_word(&token, expected) { Ok(()) } else { Err(format!("{token:?} instead of {}", expected.to_uppercase())) }
}

fn symbol<R: BufRead>(scanner: &mut Scanner<R>, allowed: &[char]) -> Result<char, String> {
    match scanner.next()? {
        Token::Symbol(symbol) if allowed.contains(&symbol) => Ok(symbol),
        other => {
            let allowed: Vec<_> = allowed.iter().map(|symbol| format!("`{symbol}`")).collect();
            Err(format!("{other:?} instead of {}", allowed.join(" or ")))
        }
    }
}
