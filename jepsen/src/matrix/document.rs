//! Sections of a page that programs write: what is between two lines of markers.
//!
//! Invariant: nothing else of the page is touched, and a page without the markers not at all.

/// A page with the content of one section replaced.
///
/// A section begins with a line `<!-- name -->` and ends with a line `<!-- /name -->`, each once.
/// The error says what to do.
pub fn replace(page: &str, section: &str, content: &str) -> Result<String, String> {
    let (open, close) = (format!("<!-- {section} -->"), format!("<!-- /{section} -->"));
    let start = only(page, &open)?;
    let end = only(page, &close)?;
    if content.lines().any(|line| line.trim() == open || line.trim() == close) {
        return Err(format!("the new content of {section:?} holds its own marker: take it out"));
    }
    if end.start < start.end {
        return Err(format!("`{close}` comes before `{open}`: exchange these two lines"));
    }
    let (before, after) = (&page[..start.end], &page[end.start..]);
    let gap = if before.ends_with('\n') { "" } else { "\n" };
    Ok(format!("{before}{gap}\n{}\n\n{after}", content.trim_matches('\n')))
}

/// The one line of a page that is this marker.
fn only(page: &str, marker: &str) -> Result<std::ops::Range<usize>, String> {
    let mut place = 0;
    let mut found = Vec::new();
    for line in page.split_inclusive('\n') {
        if line.trim() == marker {
            found.push(place..place + line.len());
        }
        place += line.len();
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(format!(
            "no line `{marker}`: put the opening and the closing marker, each on a line of its \
             own, where the section belongs"
        )),
        count => Err(format!("{count} lines `{marker}`: leave one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# T\n\nsay `<!-- m -->` here\n<!-- m -->\nold\n<!-- /m -->\nrest";

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let once = replace(PAGE, "m", "new\n").unwrap();
        let expected = "# T\n\nsay `<!-- m -->` here\n<!-- m -->\n\nnew\n\n<!-- /m -->\nrest";
        assert_eq!(once, expected);
        assert_eq!(replace(&once, "m", "new\n").unwrap(), once);
        let empty = "<!-- m -->\n<!-- /m -->";
        assert_eq!(replace(empty, "m", "x").unwrap(), "<!-- m -->\n\nx\n\n<!-- /m -->");
    }

    #[test]
    fn what_is_wrong_with_the_markers_is_said() {
        let check = |page: &str, content: &str, word: &str| {
            let error = replace(page, "m", content).unwrap_err();
            assert!(error.contains(word), "{error}");
        };
        check("nothing", "x", "no line `<!-- m -->`: put");
        check("<!-- m -->", "x", "no line `<!-- /m -->`: put");
        check("<!-- /m -->\n<!-- m -->\n", "x", "exchange");
        check("<!-- m -->\n<!-- m -->\n<!-- /m -->", "x", "leave one");
        check(PAGE, "a\n<!-- /m -->\n", "take it out");
    }
}
