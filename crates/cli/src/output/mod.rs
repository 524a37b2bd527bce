//! What commands print: tables for people, JSON and YAML for programs.

mod table;
mod time;
mod words;

use std::io::{IsTerminal, Write};

use serde::Serialize;

pub use table::{Shade, Table};
pub use time::{ago, clock, instant, span};
pub use words::{count, processor_line, progress_line, state_shade, task_shade, trigger_line};

use crate::failure::{Failure, Outcome};

/// How answers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people; the layout may change.
    #[default]
    Table,
    /// For programs; the fields of the REST API.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Standard output: its format, whether it may be coloured, and its width.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    pub format: Format,
    colour: bool,
    /// Columns; none when nobody looks and nothing needs to be cut.
    width: Option<u16>,
}

impl Screen {
    pub fn new(format: Format) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Screen { format, colour: terminal && colours_wanted(), width: table::terminal_width(terminal) }
    }

    /// Whether people look at it, who like headings and hints.
    pub fn is_table(&self) -> bool {
        self.format == Format::Table
    }

    pub fn line(&self, text: impl AsRef<str>) -> Outcome {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_ref().as_bytes())?;
        stdout.write_all(b"\n")?;
        Ok(())
    }

    /// Text as it is, such as a piece of a log, shown at once.
    pub fn raw(&self, text: &[u8]) -> Outcome {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text)?;
        stdout.flush()?;
        Ok(())
    }

    pub fn table(&self, table: Table) -> Outcome {
        self.line(table.render(self.width, self.colour))
    }

    /// `value` in the format that programs asked for.
    pub fn document(&self, value: &impl Serialize) -> Outcome {
        match self.format {
            Format::Yaml => self.raw(yaml(value)?.as_bytes()),
            Format::Table | Format::Json => self.line(
                serde_json::to_string_pretty(value)
                    .map_err(|error| Failure::refused(format!("writing JSON: {error}")))?,
            ),
        }
    }

    /// `value` for programs, or what `people` prints.
    pub fn show(&self, value: &impl Serialize, people: impl FnOnce(&Self) -> Outcome) -> Outcome {
        if self.is_table() { people(self) } else { self.document(value) }
    }

    /// A sentence about what was done; for people only.
    pub fn done(&self, text: impl AsRef<str>) -> Outcome {
        if self.is_table() { self.line(text) } else { Ok(()) }
    }

    /// Text on standard error in a table, or nothing for programs.
    pub fn table_error(&self, table: Table) {
        let terminal = std::io::stderr().is_terminal();
        eprintln!("{}", table.render(table::terminal_width(terminal), terminal && colours_wanted()));
    }

    /// `text` in a colour on standard error, where colours are wanted.
    pub fn paint_error(&self, shade: Shade, text: &str) -> String {
        shade.paint(text, std::io::stderr().is_terminal() && colours_wanted())
    }

    /// `text` in a colour, where colours are wanted.
    pub fn paint(&self, shade: Shade, text: &str) -> String {
        shade.paint(text, self.colour)
    }
}

/// As https://no-color.org has it: any value but the empty one means no colour.
fn colours_wanted() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    !no_color && !dumb
}

/// YAML as people would write it: fields in the order of their definition, texts of several lines as blocks.
pub fn yaml(value: &impl Serialize) -> Outcome<String> {
    let options = serde_saphyr::ser_options! { compact_list_indent: false, folded_wrap_chars: 1_000_000 };
    serde_saphyr::to_string_with_options(value, options)
        .map_err(|error| Failure::refused(format!("writing YAML: {error}")))
}
