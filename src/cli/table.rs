//! Tables for people: a dim line of titles, and columns as wide as what they have held so far.

use std::io;

use super::output::{Output, cut};

/// Two spaces between the columns.
const GAP: &str = "  ";

/// A column: its title, and what its cells are. Text stands left, numbers right.
#[derive(Clone, Copy)]
pub enum Column {
    /// Of text, and of so many characters at most: the rest is cut off.
    Text(&'static str, usize),
    /// Of numbers, which are never cut.
    Number(&'static str),
}

/// Keeps its widths from one call to the next, so that rows that follow stand under the first ones.
pub struct Table<const N: usize> {
    columns: [Column; N],
    widths: [usize; N],
    titled: bool,
}

impl<const N: usize> Table<N> {
    pub fn new(columns: [Column; N]) -> Self {
        let widths = columns.map(|column| column.title().chars().count());
        Self { columns, widths, titled: false }
    }

    /// The titles and the rows; nothing where there is no row.
    pub fn print(&mut self, rows: Vec<[String; N]>, out: &mut Output) -> io::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        self.titled = true;
        let rows = self.fit(rows);
        let titles = self.line(&self.columns.map(|column| column.title().to_owned()));
        out.line(|palette| format!("{dim}{titles}{dim:#}", dim = palette.dim))?;
        self.print_fitted(&rows, out)
    }

    /// The row, under the titles if it is the first one.
    pub fn print_next(&mut self, row: [String; N], out: &mut Output) -> io::Result<()> {
        let rows = vec![row];
        if self.titled { self.print_more(rows, out) } else { self.print(rows, out) }
    }

    /// The rows alone.
    pub fn print_more(&mut self, rows: Vec<[String; N]>, out: &mut Output) -> io::Result<()> {
        let rows = self.fit(rows);
        self.print_fitted(&rows, out)
    }

    fn print_fitted(&self, rows: &[[String; N]], out: &mut Output) -> io::Result<()> {
        rows.iter().try_for_each(|row| out.line(|_| self.line(row)))
    }

    fn fit(&mut self, mut rows: Vec<[String; N]>) -> Vec<[String; N]> {
        for row in &mut rows {
            for (index, cell) in row.iter_mut().enumerate() {
                if let Column::Text(_, width_max) = self.columns[index] {
                    *cell = cut(cell, width_max);
                }
                self.widths[index] = self.widths[index].max(cell.chars().count());
            }
        }
        rows
    }

    fn line(&self, row: &[String; N]) -> String {
        let cells = row.iter().zip(self.columns).zip(self.widths);
        let cells = cells.map(|((cell, column), width)| match column {
            Column::Text(..) => format!("{cell:<width$}"),
            Column::Number(_) => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    }
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Text(title, _) | Self::Number(title) => title,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_they_have_held_and_text_is_cut() {
        let mut table = Table::new([Column::Text("name", 6), Column::Number("position")]);
        let row = |name: &str, position: &str| [name.to_owned(), position.to_owned()];
        let rows = table.fit(vec![row("größere", "12"), row("a\u{1b}", "1 234 567 890")]);
        let lines: Vec<String> = rows.iter().map(|row| table.line(row)).collect();
        assert_eq!(lines, ["größe…             12", "a\\u{1…  1 234 567 890"]);
        assert_eq!(table.line(&row("b", "")), "b");
        // A narrow row later on keeps its place.
        let rows = table.fit(vec![row("c", "7")]);
        assert_eq!(table.line(&rows[0]), "c                   7");
    }
}
