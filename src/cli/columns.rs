//! Tables on a terminal: columns as wide as what is in them, the last one as wide as there is room.

use std::fmt::Write as _;

use anstyle::Style;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::text::plain::plain;

/// Where a column's text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// What is in one column of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(super) fn new(text: impl AsRef<str>) -> Self {
        Self::styled(text, Style::new())
    }

    pub(super) fn styled(text: impl AsRef<str>, style: Style) -> Self {
        Self {
            text: plain(text.as_ref()),
            style,
        }
    }
}

/// The screen that it is shown on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Screen {
    /// Whether it shows more than ASCII.
    pub(super) unicode: bool,
    /// Columns; `None`: as many as it takes, since it is no terminal.
    pub(super) width: Option<usize>,
}

impl Screen {
    /// That of standard output: `COLUMNS` counts, else the terminal's width.
    pub(super) fn of_stdout() -> Self {
        let set = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set);
        let terminal = terminal_size::terminal_size_of(std::io::stdout());
        let columns = set(&"COLUMNS").and_then(|text| text.parse().ok());
        Self {
            unicode: is_utf8(&locale.unwrap_or_default()),
            width: columns.or(terminal.map(|(width, _)| usize::from(width.0))),
        }
    }

    /// What stands for text that is left out.
    const fn ellipsis(self) -> &'static str {
        if self.unicode { "…" } else { "..." }
    }

    /// What stands between the parts of a line.
    pub(super) const fn dot(self) -> &'static str {
        if self.unicode { " · " } else { " | " }
    }

    /// A line of at most its width. Styles in it stay.
    pub(super) fn cut(self, line: &str) -> String {
        let Some(width) = self.width else {
            return line.to_owned();
        };
        let shown = anstream::adapter::strip_str(line).to_string();
        if shown.width() <= width {
            return line.to_owned();
        }
        let room = width.saturating_sub(self.ellipsis().width());
        let mut cut = String::new();
        let (mut used, mut escaped) = (0, false);
        for letter in line.chars() {
            if letter == '\u{1b}' {
                escaped = true;
            }
            if escaped {
                escaped = letter != 'm';
            } else {
                used += letter.width().unwrap_or_default();
                if used > room {
                    break;
                }
            }
            cut.push(letter);
        }
        let reset = if line.contains('\u{1b}') {
            "\u{1b}[0m"
        } else {
            ""
        };
        let ellipsis: String = self.ellipsis().chars().take(width).collect();
        cut + reset + &ellipsis
    }
}

/// Whether a locale, such as `de_DE.UTF-8`, has that encoding.
fn is_utf8(locale: &str) -> bool {
    let name = locale.to_ascii_lowercase();
    name.contains("utf-8") || name.contains("utf8")
}

/// Rows of a table.
#[derive(Debug)]
pub(super) struct Table {
    align: Vec<Align>,
    /// Spaces before each column but the first.
    gaps: Vec<usize>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// One without rows yet. Columns are two spaces apart, but the second, which follows the first close.
    pub(super) fn new(align: &[Align]) -> Self {
        Self {
            align: align.to_vec(),
            gaps: (0..align.len())
                .map(|column| if column == 1 { 1 } else { 2 })
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds one; columns that are missing at its end are empty.
    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Its lines, each at most as long as the screen is wide.
    pub(super) fn lines(&self, screen: Screen) -> Vec<String> {
        let widths: Vec<_> = (0..self.align.len())
            .map(|column| self.width(column))
            .collect();
        let line = |row: &Vec<Cell>| screen.cut(&self.line(row, &widths));
        self.rows.iter().map(line).collect()
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.text.width())
            .max()
            .unwrap_or_default()
    }

    fn line(&self, row: &[Cell], widths: &[usize]) -> String {
        let mut line = String::new();
        let filled = row.iter().rposition(|cell| !cell.text.is_empty());
        for (column, cell) in row
            .iter()
            .enumerate()
            .take(filled.map_or(0, |last| last + 1))
        {
            if column > 0 {
                line.push_str(&" ".repeat(self.gaps[column]));
            }
            let space = " ".repeat(widths[column].saturating_sub(cell.text.width()));
            let is_last = Some(column) == filled;
            let (before, after) = match self.align[column] {
                Align::Right => (space.as_str(), ""),
                Align::Left if is_last => ("", ""),
                Align::Left => ("", space.as_str()),
            };
            let style = cell.style;
            write!(line, "{before}{style}{}{style:#}{after}", cell.text).unwrap_or_default();
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use anstyle::AnsiColor;

    use super::*;

    const WIDE: Screen = Screen {
        unicode: true,
        width: None,
    };

    fn table() -> Table {
        let mut table = Table::new(&[Align::Left, Align::Left, Align::Right, Align::Left]);
        let cells = |texts: &[&str]| texts.iter().map(Cell::new).collect();
        table.row(cells(&["Prot", "VIP", "Flows", "Note"]));
        table.row(cells(&["TCP", "后端\u{1b}", "7", "x"]));
        table.row(cells(&["  ->", "b", "1000000"]));
        table
    }

    #[test]
    fn columns_fit_what_is_in_them() {
        assert_eq!(
            table().lines(WIDE),
            [
                "Prot VIP           Flows  Note",
                "TCP  后端\\u{1b}        7  x",
                "  -> b           1000000",
            ]
        );
    }

    #[test]
    fn lines_are_cut() {
        let screen = |unicode, width| Screen {
            unicode,
            width: Some(width),
        };
        let cut = |unicode, width| screen(unicode, width).cut("a后端z");
        assert_eq!(cut(true, 6), "a后端z");
        assert_eq!(cut(true, 5), "a后…");
        assert_eq!(cut(true, 4), "a后…");
        assert_eq!(cut(true, 3), "a…");
        assert_eq!(cut(false, 5), "a...");
        assert_eq!(cut(false, 2), "..");
        let red = AnsiColor::Red.on_default();
        let line = format!("{red}alarm{red:#} and more");
        assert_eq!(screen(true, 14).cut(&line), line);
        assert_eq!(screen(true, 4).cut(&line), format!("{red}ala\u{1b}[0m…"));
    }

    #[test]
    fn locales() {
        assert!(is_utf8("de_DE.UTF-8") && is_utf8("C.utf8"));
        assert!(!is_utf8("C") && !is_utf8("") && !is_utf8("de_DE.ISO-8859-1"));
    }
}
