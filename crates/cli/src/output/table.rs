//! Tables that fit the terminal.

use comfy_table::{Attribute, Cell, Color, ContentArrangement, presets};

/// A colour with a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shade {
    Plain,
    Good,
    Bad,
    Busy,
    Faint,
}

impl Shade {
    pub fn paint(self, text: &str, colour: bool) -> String {
        let code = match self {
            _ if !colour => return text.to_owned(),
            Shade::Plain => return text.to_owned(),
            Shade::Good => "32",
            Shade::Bad => "31",
            Shade::Busy => "33",
            Shade::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    fn cell(self, text: String) -> Cell {
        let cell = Cell::new(text);
        match self {
            Shade::Plain => cell,
            Shade::Good => cell.fg(Color::Green),
            Shade::Bad => cell.fg(Color::Red),
            Shade::Busy => cell.fg(Color::Yellow),
            Shade::Faint => cell.add_attribute(Attribute::Dim),
        }
    }
}

/// Rows under headings, without frames: they copy well and `awk` likes them.
pub struct Table(comfy_table::Table);

impl Table {
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(headings.map(|heading| Cell::new(heading).add_attribute(Attribute::Bold)));
        Table(table)
    }

    /// Two columns without headings: a name and its value.
    pub fn of_facts() -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        Table(table)
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.add_row(cells.map(|text| Cell::new(printable(text))));
    }

    pub fn shaded_row<const N: usize>(&mut self, cells: [(Shade, String); N]) {
        self.0.add_row(cells.map(|(shade, text)| shade.cell(printable(text))));
    }

    pub fn fact(&mut self, name: &str, value: impl Into<String>) {
        self.shaded_row([(Shade::Faint, name.to_owned()), (Shade::Plain, value.into())]);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn render(mut self, width: Option<u16>, colour: bool) -> String {
        if let Some(width) = width {
            self.0.set_content_arrangement(ContentArrangement::Dynamic);
            self.0.set_width(width);
        }
        if colour {
            self.0.enforce_styling();
        } else {
            self.0.force_no_tty();
        }
        for column in self.0.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.0.trim_fmt()
    }
}

/// Texts come from users and workers: what would move the cursor or change colours is shown as a replacement character.
fn printable(text: String) -> String {
    if !text.chars().any(|c| c.is_control() && c != '\n') {
        return text;
    }
    text.chars()
        .map(|c| match c {
            '\n' => c,
            '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

pub(super) fn terminal_width(terminal: bool) -> Option<u16> {
    if !terminal {
        return None;
    }
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let width = columns.or_else(|| comfy_table::Table::new().width()).unwrap_or(80);
    // Below this a table is unreadable anyway; let the terminal wrap it.
    Some(width.max(40))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(["NAME", "STATE", "MESSAGE"]);
        table.row(["a".into(), "failed".into(), "the message is a long one that does not fit into forty columns".into()]);
        table.shaded_row([(Shade::Plain, "b\x1b[2J".into()), (Shade::Bad, "x".into()), (Shade::Faint, "".into())]);
        table
    }

    #[test]
    fn a_table_fits_its_width_and_has_colours_only_when_wanted() {
        let narrow = sample().render(Some(40), false);
        assert!(narrow.lines().all(|line| line.chars().count() <= 40), "{narrow}");
        assert!(!narrow.contains('\x1b'), "{narrow}");
        let wide = sample().render(None, false);
        assert!(wide.contains("that does not fit into forty columns"), "{wide}");
        assert!(sample().render(None, true).contains("\x1b["));
    }

    #[test]
    fn control_characters_of_others_do_not_reach_the_terminal() {
        assert!(sample().render(None, true).contains("b\u{fffd}[2J"));
    }
}
