//! Tables of words and numbers, for reports and terminals.

use comfy_table::{CellAlignment, Table, presets};

/// A head over each column, and rows whose first cell says what they are about and whose others are numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grid {
    /// One cell per column.
    pub head: Vec<String>,
    /// As many cells each.
    pub rows: Vec<Vec<String>>,
}

impl Grid {
    /// A Markdown table; nothing without a column.
    pub fn to_markdown(&self) -> String {
        if self.head.is_empty() {
            return String::new();
        }
        // A break would end the row, and a bar the cell.
        let cell = |text: &String| {
            text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
        };
        let line = |cells: &Vec<String>| {
            format!("| {} |\n", cells.iter().map(cell).collect::<Vec<_>>().join(" | "))
        };
        let rule = format!("| ---{} |\n", " | ---:".repeat(self.head.len() - 1));
        let rows: String = self.rows.iter().map(line).collect();
        format!("{}{rule}{rows}", line(&self.head))
    }

    /// A table for a terminal.
    pub fn to_text(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header(&self.head).add_rows(&self.rows);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_cell_or_a_row_does_not() {
        let cells = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let grid = Grid { head: cells(["of", "%"]), rows: vec![cells(["a | b\nc", "1"])] };
        assert_eq!(grid.to_markdown(), "| of | % |\n| --- | ---: |\n| a \\| b c | 1 |\n");
        assert_eq!(Grid::default().to_markdown(), "");
    }
}
