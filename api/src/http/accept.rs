//! Content negotiation: which of the three forms of an answer the client wants.

use axum::http::{HeaderMap, HeaderValue, header};

use super::problem::{Code, Problem};

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON document.
    Json,
    /// A stream of server-sent events.
    Events,
    /// A stream of JSON lines.
    Lines,
}

/// The form with the highest `q` in `Accept`, the first of equals; `JSON` without the header.
pub fn negotiate(headers: &HeaderMap) -> Result<Form, Problem> {
    let Some(first) = headers.get(header::ACCEPT) else { return Ok(Form::Json) };
    if first == HeaderValue::from_static("*/*") {
        return Ok(Form::Json);
    }
    let mut best: Option<(Form, f32)> = None;
    for value in headers.get_all(header::ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',') {
            let Some((form, quality)) = range_of(range) else { continue };
            if quality > best.map_or(0.0, |(_, quality)| quality) {
                best = Some((form, quality));
            }
        }
    }
    best.map(|(form, _)| form).ok_or_else(|| {
        let forms = "application/json, and for streams text/event-stream or application/x-ndjson";
        Problem::new(Code::NotAcceptable, format!("this route offers {forms}"))
    })
}

fn range_of(range: &str) -> Option<(Form, f32)> {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next()?.to_ascii_lowercase();
    let form = match media.as_str() {
        "*/*" | "application/*" | "application/json" => Form::Json,
        "text/event-stream" => Form::Events,
        "application/x-ndjson" => Form::Lines,
        _ => return None,
    };
    let quality = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
    Some((form, quality.map_or(1.0, |text| text.parse().unwrap_or(0.0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(accept: &str) -> Option<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().expect("a header"));
        negotiate(&headers).ok()
    }

    #[test]
    fn the_best_form_wins() {
        assert_eq!(negotiate(&HeaderMap::new()).ok(), Some(Form::Json));
        assert_eq!(ask("*/*"), Some(Form::Json));
        assert_eq!(ask("text/html, */*;q=0.8"), Some(Form::Json));
        assert_eq!(ask("text/event-stream"), Some(Form::Events));
        assert_eq!(ask("Text/Event-Stream; charset=utf-8"), Some(Form::Events));
        assert_eq!(ask("application/json;q=0.5, application/x-ndjson"), Some(Form::Lines));
        assert_eq!(ask("application/json, text/event-stream"), Some(Form::Json));
        assert_eq!(ask("text/html"), None);
        assert_eq!(ask("application/json;q=0"), None);
    }
}
