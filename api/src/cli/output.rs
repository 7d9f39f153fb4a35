//! What people see: tables, colour, progress.
//!
//! Invariants: colour only on a terminal and without `NO_COLOR`; progress only on a terminal,
//! on standard error, at most ten times a second.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Colours that carry a meaning.
#[derive(Clone, Copy, Debug)]
pub enum Paint {
    /// Good.
    Green,
    /// On its way.
    Yellow,
    /// Bad.
    Red,
    /// Less important.
    Dim,
    /// A heading.
    Bold,
}

/// `text` in colour, if there may be colour.
pub fn paint(paint: Paint, text: &str) -> String {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if !wanted || !std::io::stdout().is_terminal() || !std::io::stderr().is_terminal() {
        return text.into();
    }
    let code = match paint {
        Paint::Green => 32,
        Paint::Yellow => 33,
        Paint::Red => 31,
        Paint::Dim => 2,
        Paint::Bold => 1,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Columns aligned by their widest cell; the first row is the heading.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| visible(cell)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width - visible(cell) + 2));
        }
        let line = line.trim_end();
        text.push_str(&if index == 0 { paint(Paint::Bold, line) } else { line.to_string() });
        text.push('\n');
    }
    text
}

/// Characters that take room: without colour codes.
fn visible(cell: &str) -> usize {
    let mut count = 0;
    let mut inside = false;
    for c in cell.chars() {
        match c {
            '\x1b' => inside = true,
            'm' if inside => inside = false,
            _ if !inside => count += 1,
            _ => {}
        }
    }
    count
}

/// A value for people: text without quotes, the rest as JSON.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Progress of long work.
pub struct Progress {
    what: &'static str,
    shown: Option<Instant>,
    visible: bool,
}

impl Progress {
    /// Progress of `what`, shown if somebody looks.
    pub fn new(what: &'static str) -> Progress {
        Progress { what, shown: None, visible: std::io::stderr().is_terminal() }
    }

    /// Shows how far it is: `done`, and of how many if known.
    pub fn at(&mut self, done: u64, of: Option<u64>) {
        let recent = self.shown.is_some_and(|at| at.elapsed() < Duration::from_millis(100));
        if !self.visible || recent {
            return;
        }
        self.shown = Some(Instant::now());
        let text = match of.filter(|of| *of > 0) {
            Some(of) => {
                let filled = (done.min(of) * 30 / of) as usize;
                let bar = format!("{}{}", "#".repeat(filled), "-".repeat(30 - filled));
                format!("{} [{bar}] {}%", self.what, done.min(of) * 100 / of)
            }
            None => format!("{} {done}", self.what),
        };
        eprint!("\r\x1b[K{text}");
        drop(std::io::stderr().flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.visible && self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let rows = [vec!["a".into(), "b".into()], vec!["\x1b[31mlong\x1b[0m".into(), "c".into()]];
        assert_eq!(table(&rows), "a     b\n\x1b[31mlong\x1b[0m  c\n");
    }
}
