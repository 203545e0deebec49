//! Lists on standard output. A reader that stops early (`| head`) is no failure.
//!
//! Names of processes, commands of images and texts of guests are shown, and may be made to drive
//! the terminal. Nothing here writes a control character but the line break and the tab.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};

/// Writes `text` and a line break; `false` when nobody reads any more.
pub fn line(text: impl Display) -> io::Result<bool> {
    match writeln!(io::stdout(), "{}", visible(&text.to_string())) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e),
    }
}

/// The text with its control characters as Rust writes them, apart from line breaks and tabs.
pub fn visible(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(harmful) {
        return text.into();
    }
    let shown = text.chars().map(|c| match harmful(c) {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    });
    shown.collect::<String>().into()
}

/// Writes rows below a head, in columns as wide as they need.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let cell = |text: &String| visible(text).replace('\n', "\\n").replace('\t', " ");
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(cell).collect())
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(head[column].len())
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    for row in std::iter::once(&head).chain(&rows) {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        if !line(cells.join("  ").trim_end())? {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drives_a_terminal_is_shown_as_text() {
        for (text, shown) in [
            ("plain, ä\n\ttext", "plain, ä\n\ttext"),
            ("\x1b]0;title\x07", "\\u{1b}]0;title\\u{7}"),
            ("a\rb\x7f\u{9b}2J", "a\\rb\\u{7f}\\u{9b}2J"),
        ] {
            assert_eq!(visible(text), shown);
        }
    }
}
