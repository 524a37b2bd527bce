//! Tables that fit the terminal.

use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Row, presets};

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
pub struct Table {
    table: comfy_table::Table,
    /// Columns that may be cut so that each row fits on one line; none lets every cell wrap.
    flexible: Option<&'static [usize]>,
}

impl Table {
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(headings.map(|heading| Cell::new(heading).add_attribute(Attribute::Bold)));
        Table { table, flexible: None }
    }

    /// One line per row: the `flexible` columns are cut where the terminal is too narrow.
    pub fn listing<const N: usize>(headings: [&str; N], flexible: &'static [usize]) -> Self {
        Table { flexible: Some(flexible), ..Table::new(headings) }
    }

    /// Two columns without headings: a name and its value.
    pub fn of_facts() -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        Table { table, flexible: None }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.add(cells.map(|text| Cell::new(printable(text))));
    }

    pub fn shaded_row<const N: usize>(&mut self, cells: [(Shade, String); N]) {
        self.add(cells.map(|(shade, text)| shade.cell(printable(text))));
    }

    fn add<const N: usize>(&mut self, cells: [Cell; N]) {
        let mut row = Row::from(cells);
        if self.flexible.is_some() {
            row.max_height(1);
        }
        self.table.add_row(row);
    }

    pub fn fact(&mut self, name: &str, value: impl Into<String>) {
        self.shaded_row([(Shade::Faint, name.to_owned()), (Shade::Plain, value.into())]);
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn render(mut self, width: Option<u16>, colour: bool) -> String {
        let table = &mut self.table;
        if let Some(width) = width {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(width);
        }
        if colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if self.flexible.is_some_and(|flexible| !flexible.contains(&index)) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        table.trim_fmt()
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
    // A terminal that does not know its size says 0.
    let width = columns.or_else(|| comfy_table::Table::new().width()).filter(|width| *width > 0).unwrap_or(80);
    // Below this a table is unreadable anyway; let the terminal wrap it.
    Some(width.max(40))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(["NAME", "STATE", "MESSAGE"]);
        table.row([
            "a".into(),
            "failed".into(),
            "the message is a long one that does not fit into forty columns".into(),
        ]);
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
    fn a_listing_keeps_each_row_on_one_line() {
        let mut table = Table::listing(["ID", "NAME", "TEXT"], &[2]);
        table.row([
            "382441544294162432".into(),
            "nightly".into(),
            "a text that has to be cut somewhere near here".into(),
        ]);
        let text = table.render(Some(60), false);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("382441544294162432  nightly  a text") && text.contains('…'), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
    }

    #[test]
    fn control_characters_of_others_do_not_reach_the_terminal() {
        assert!(sample().render(None, true).contains("b\u{fffd}[2J"));
    }
}
