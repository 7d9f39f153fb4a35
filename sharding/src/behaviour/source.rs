//! From a module to a function: the text of a behaviour, made callable anew for each call.
//!
//! A module's top level runs once, and what it leaves behind (variables, caches, a regular
//! expression's place) would be seen by the next call. So the text becomes the body of a function
//! that returns what the module exports; each call runs it again, which costs a microsecond, where
//! a new module in a new realm costs two hundred.
//!
//! For that the word `export` is blanked where a line begins with it. Which names a module really
//! exports, the engine tells; [`Source::exports`] must be the same, so that no `export` in the
//! middle of a text can pass for one, and none that is elsewhere is missed.
//!
//! Invariant: lines and columns are those of the text, one line further down.

use std::collections::BTreeMap;

use super::Problem;

/// Longest source, in bytes.
pub const SOURCE_MAX: usize = 256 << 10;
const WORDS: [&str; 5] = ["const", "let", "var", "class", "function"];
const HEAD: &str = "(function () { \"use strict\";\n";

/// A behaviour's text, and the function made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The text.
    pub(super) text: String,
    /// An expression: a function without arguments that returns the exports.
    pub(super) function: String,
    /// Exported names with the lines, from 1, where they are.
    pub(super) exports: BTreeMap<String, usize>,
}

impl Source {
    /// Reads a text.
    pub(super) fn new(text: &str) -> Result<Source, Problem> {
        if text.len() > SOURCE_MAX {
            return Err(Problem::new(1, 1, "a behaviour has at most 256 KiB"));
        }
        let mut exports = BTreeMap::new();
        let mut function = String::from(HEAD);
        for (number, line) in (1..).zip(text.split_inclusive('\n')) {
            let Some((name, at)) = exported(line) else {
                function.push_str(line);
                continue;
            };
            let name = name.map_err(|message| Problem::new(number, at + 1, message))?;
            if exports.insert(name.to_string(), number).is_some() {
                let message = format!("`{name}` is exported twice");
                return Err(Problem::new(number, at + 1, &message));
            }
            function.push_str(&line[..at]);
            function.push_str("      ");
            function.push_str(&line[at + "export".len()..]);
        }
        let names: Vec<&str> = exports.keys().map(String::as_str).collect();
        function.push_str(&format!("\nreturn {{ {} }};\n}})", names.join(", ")));
        Ok(Source { text: text.to_string(), function, exports })
    }
}

type Exported<'a> = (Result<&'a str, &'static str>, usize);

/// The name that a line exports, if it begins with `export`, and where that word is.
fn exported(line: &str) -> Option<Exported<'_>> {
    let start = line.trim_start();
    let at = line.len() - start.len();
    let rest = start.strip_prefix("export")?;
    if rest.starts_with(is_part) {
        return None;
    }
    let form = "write `export` before a declaration: const, let, var, class or function";
    let rest = rest.trim_start();
    let Some(rest) = WORDS.iter().find_map(|word| rest.strip_prefix(word)) else {
        return Some((Err(form), at));
    };
    let rest = rest.trim_start_matches([' ', '\t', '*']);
    let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    let name = &rest[..end];
    Some((if name.is_empty() { Err(form) } else { Ok(name) }, at))
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}
