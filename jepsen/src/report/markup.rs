//! HTML and SVG as text: the only place that writes either, and it escapes everything.
//!
//! Invariant: names of tags and attributes are constants of this crate; every text and every
//! value of an attribute is escaped here, whoever it comes from.

use std::fmt::Write;

/// A page while it is written.
#[derive(Default)]
pub(super) struct Markup(String);

/// Attributes of an element.
pub(super) type Attributes<'a> = &'a [(&'static str, &'a str)];

impl Markup {
    /// An element with what `inside` writes.
    pub(super) fn element(
        &mut self,
        tag: &'static str,
        attributes: Attributes<'_>,
        inside: impl FnOnce(&mut Markup),
    ) {
        self.empty(tag, attributes);
        inside(self);
        self.0.push_str("</");
        self.0.push_str(tag);
        self.0.push('>');
    }

    /// An element with a text.
    pub(super) fn leaf(&mut self, tag: &'static str, attributes: Attributes<'_>, text: &str) {
        self.element(tag, attributes, |inside| inside.text(text));
    }

    /// An element that has no end in HTML (`meta`), or is written without.
    pub(super) fn empty(&mut self, tag: &'static str, attributes: Attributes<'_>) {
        self.0.push('<');
        self.0.push_str(tag);
        for (name, value) in attributes {
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            self.text(value);
            self.0.push('"');
        }
        self.0.push('>');
    }

    /// Text. What no page may hold becomes a mark for it.
    pub(super) fn text(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(c),
                c if c.is_control() || is_direction(c) => self.0.push('\u{fffd}'),
                c => self.0.push(c),
            }
        }
    }

    /// The style sheet and the first line: constants, written as they are.
    pub(super) fn constant(&mut self, text: &'static str) {
        self.0.push_str(text);
    }

    /// All that was written.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// Characters that turn the direction of what follows: a value could disguise others.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A number for an attribute: at most one decimal.
pub(super) fn number(value: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    let text = format!("{rounded}");
    if text == "-0" { "0".into() } else { text }
}

/// With commas between thousands.
pub(crate) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A word for a count: `1 fault`, `2 faults`.
pub(super) fn counted(count: u64, word: &str) -> String {
    let mut text = thousands(count);
    let _ = write!(text, " {word}{}", if count == 1 { "" } else { "s" });
    text
}

/// At most so many characters, the last one `…` if some are missing.
pub(super) fn clip(text: &str, max: usize) -> String {
    if text.chars().nth(max).is_none() {
        return text.to_owned();
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_escaped() {
        let hostile = "</script><b a='\"'>&\u{0}\u{202e}";
        let mut markup = Markup::default();
        markup.leaf("p", &[("title", hostile)], hostile);
        let safe = "&lt;/script&gt;&lt;b a=&#39;&quot;&#39;&gt;&amp;\u{fffd}\u{fffd}";
        assert_eq!(markup.finish(), format!("<p title=\"{safe}\">{safe}</p>"));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([1.0, 1.25, -0.01, 100.049].map(number), ["1", "1.3", "0", "100"]);
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            (counted(1, "fault"), counted(2, "fault")),
            ("1 fault".into(), "2 faults".into())
        );
        assert_eq!((clip("abc", 3), clip("abcd", 3)), ("abc".to_owned(), "ab…".to_owned()));
    }
}
