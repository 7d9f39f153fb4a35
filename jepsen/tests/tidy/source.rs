//! A source file with its comments and texts blanked out, so that only code is judged.
//!
//! Blanking keeps every line and column: what is replaced becomes spaces.
//!
//! Left out: macros are not expanded; a name that only a macro makes is not seen.

/// A source file.
pub(crate) struct Source {
    /// Its path from the root of the workspace, with `/`.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// With comments, strings and characters blanked.
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Source {
        Source { path: path.replace('\\', "/"), text: text.into(), code: blank(text) }
    }

    /// The number of lines before the first `#[cfg(test)]` that begins a line.
    pub(crate) fn product_lines(&self) -> usize {
        if self.is_test_file() {
            return 0;
        }
        let mut lines = self.code.lines();
        let first = lines.position(|line| line.starts_with("#[cfg(test)]"));
        first.unwrap_or_else(|| self.code.lines().count())
    }

    /// Whether all of the file is tests.
    pub(crate) fn is_test_file(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }

    /// The code before the tests.
    pub(crate) fn product(&self) -> String {
        self.code.lines().take(self.product_lines()).map(|line| format!("{line}\n")).collect()
    }

    /// The code of the tests, after as many empty lines as come before.
    pub(crate) fn tests(&self) -> String {
        let before = self.product_lines();
        let rest = self.code.lines().skip(before).map(|line| format!("{line}\n"));
        "\n".repeat(before) + &rest.collect::<String>()
    }

    /// A complaint about a line, counted from 0.
    pub(crate) fn complaint(&self, line: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, line + 1)
    }
}

/// Every word of code: its line from 0, its place, itself.
pub(crate) fn words(code: &str) -> Vec<(usize, usize, &str)> {
    let mut words = Vec::new();
    let mut line = 0;
    let mut start = None;
    for (place, c) in code.char_indices().chain([(code.len(), '\n')]) {
        if c.is_alphanumeric() || c == '_' {
            start = start.or(Some(place));
        } else if let Some(start) = start.take() {
            words.push((line, start, &code[start..place]));
        }
        line += usize::from(c == '\n');
    }
    words
}

/// Replaces comments, strings and characters by spaces.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word_before = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' | 'b' | 'c' if !word_before => prefixed_string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        let (blanked, kept) = if length > 0 { (length, 0) } else { (0, first.len_utf8()) };
        code.extend(rest[..blanked].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        code.push_str(&rest[blanked..blanked + kept]);
        rest = &rest[blanked + kept..];
    }
    code
}

/// The length of a block comment, nested ones included.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut place = 0;
    while let Some(found) = text[place..].find(['/', '*']) {
        place += found;
        let step = match text.get(place..place + 2) {
            Some("/*") => 1,
            Some("*/") => -1,
            _ => 0,
        };
        depth += step;
        place += if step == 0 { 1 } else { 2 };
        if depth == 0 {
            return place;
        }
    }
    text.len()
}

/// The length of a string that begins with a quote.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (place, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return place + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

/// The length of a raw, byte or C string or a byte character; 0 if it is something else.
fn prefixed_string(text: &str) -> usize {
    let prefix = text.len() - text.trim_start_matches(['r', 'b', 'c']).len();
    let body = &text[prefix..];
    let hashes = body.len() - body.trim_start_matches('#').len();
    let raw = text[..prefix].contains('r');
    if prefix > 2 || (hashes > 0 && !raw) {
        return 0;
    }
    match body[hashes..].chars().next() {
        Some('"') if raw => {
            let end = format!("\"{}", "#".repeat(hashes));
            let inside = &body[hashes + 1..];
            let length = inside.find(&end).map_or(inside.len(), |found| found + end.len());
            prefix + hashes + 1 + length
        }
        Some('"') => prefix + string(body),
        Some('\'') if &text[..prefix] == "b" => prefix + character(body),
        _ => 0,
    }
}

/// The length of a character in quotes; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((escaped, _))) => {
            let end = text[escaped + 1..].find('\'');
            end.map_or(text.len(), |found| escaped + 1 + found + 1)
        }
        (Some(_), Some((place, '\''))) => place + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, code: &str) {
        assert_eq!(blank(text), code, "{text}");
        assert_eq!(text.lines().count(), code.lines().count());
    }

    #[test]
    fn only_code_is_left() {
        check("a // b\nc", "a     \nc");
        check("a /* b /* c */ \n */ d", "a              \n    d");
        check(r#"f("x\"{", '{', b'\'', '\u{1}')"#, "f(      ,    ,      ,        )");
        check(r##"r#"a"b"# r"c" b"d" e"##, "                   e");
    }

    #[test]
    fn lifetimes_and_names_are_code() {
        check("fn f<'a>(x: &'a str) -> bar::Barr<'a>", "fn f<'a>(x: &'a str) -> bar::Barr<'a>");
        check("r#type = crab", "r#type = crab");
    }

    #[test]
    fn tests_begin_where_they_say() {
        let source = Source::new("a/src/b.rs", "one\ntwo\n#[cfg(test)]\nthree\n");
        assert_eq!(source.product_lines(), 2);
        assert_eq!(
            (source.product(), source.tests()),
            ("one\ntwo\n".into(), "\n\n#[cfg(test)]\nthree\n".into())
        );
        assert_eq!(Source::new("a/tests/b.rs", "one\n").product_lines(), 0);
    }

    #[test]
    fn words_know_their_lines() {
        assert_eq!(words("ab::c1\n_d"), [(0, 0, "ab"), (0, 4, "c1"), (1, 7, "_d")]);
    }
}
