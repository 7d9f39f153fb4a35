//! Versions as clients see them, and the way back from `If-Match` and `If-None-Match`.
//!
//! A version is 32 hexadecimal digits; that of a multi-register goes on with `.` and the dots
//! shown, in base64url of their postcard form, so that a conditional write names what it saw.

use std::fmt::Write as _;

use atoll_store::dot::Dot;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::problem::Problem;

/// The version's text; `dots` only for multi-registers.
pub fn text(hash: u128, dots: Option<&[Dot]>) -> String {
    let mut out = format!("{hash:032x}");
    if let Some(dots) = dots {
        // Writing to memory cannot fail; were it to, the version would name no dots.
        let bytes = postcard::to_allocvec(dots).unwrap_or_else(|_| vec![0]);
        let _ = write!(out, ".{}", URL_SAFE_NO_PAD.encode(bytes));
    }
    out
}

/// The dots that an `If-Match` for a multi-register names.
pub fn seen(if_match: &str) -> Result<Vec<Dot>, Problem> {
    parse(if_match).ok_or_else(|| {
        Problem::bad("If-Match must be one ETag of this multi-register, as a read gave it")
    })
}

fn parse(if_match: &str) -> Option<Vec<Dot>> {
    let text = if_match.trim().strip_prefix('"')?.strip_suffix('"')?;
    let (hash, dots) = text.split_once('.')?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if hash.len() != 32 || !hash.bytes().all(hex) {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(dots).ok()?;
    let (dots, rest) = postcard::take_from_bytes::<Vec<Dot>>(&bytes).ok()?;
    rest.is_empty().then_some(dots)
}

/// Whether an `If-None-Match` holds the ETag (with its quotes), weakly compared.
pub fn matches(if_none_match: &str, etag: &str) -> bool {
    if_none_match
        .split(',')
        .map(str::trim)
        .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_store::dot::Origin;
    use proptest::prelude::*;

    #[test]
    fn a_version_without_dots_is_its_hash() {
        assert_eq!(text(0xabc, None), format!("{:0>32}", "abc"));
    }

    #[test]
    fn if_none_match_is_a_list() {
        assert!(matches("\"a\", W/\"b\"", "\"b\""));
        assert!(matches("*", "\"b\""));
        assert!(!matches("\"a\"", "\"b\""));
    }

    #[test]
    fn malformed_if_match_is_refused() {
        let hash = "0".repeat(32);
        for bad in ["", "*", "\"\"", &hash, &format!("\"{hash}\""), &format!("\"{hash}.!\"")] {
            assert!(seen(bad).is_err(), "{bad}");
        }
        assert!(seen(&format!("\"{hash}.AA\"")).expect("no dots").is_empty());
        assert!(seen(&format!("W/\"{hash}.AA\"")).is_err());
        assert!(seen(&format!("\"{hash}.AAAA\"")).is_err());
    }

    proptest! {
        #[test]
        fn dots_come_back(hash: u128, raw in prop::collection::vec(any::<(u64, u64)>(), 0..9)) {
            let dot = |(origin, sequence)| Dot { origin: Origin(origin), sequence };
            let dots: Vec<_> = raw.into_iter().map(dot).collect();
            let etag = format!("\"{}\"", text(hash, Some(&dots)));
            prop_assert_eq!(seen(&etag).expect("valid"), dots);
        }

        #[test]
        fn garbage_never_panics(text in "\\PC{0,60}", tail in "[A-Za-z0-9_-]{0,40}") {
            let _ = seen(&text);
            let _ = seen(&format!("\"{}.{tail}\"", "0".repeat(32)));
        }
    }
}
