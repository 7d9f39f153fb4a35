//! A call as the `curl` command that does the same.
//!
//! Invariant: what is printed can be pasted into a POSIX shell as it is.

use super::Call;

/// The equivalent command.
pub fn curl(url: &str, call: &Call) -> String {
    let mut words = vec!["curl".to_string(), "-sS".into()];
    if call.headers.iter().any(|(name, _)| name == hyper::header::ACCEPT) {
        words.push("-N".into());
    }
    if call.method != "GET" {
        words.extend(["-X".into(), call.method.to_string()]);
    }
    for (name, value) in &call.headers {
        words.extend(["-H".into(), quote(&format!("{name}: {value}"))]);
    }
    if let Some(body) = &call.body {
        words.extend(["-H".into(), quote("content-type: application/json")]);
        words.extend(["-d".into(), quote(&body.to_string())]);
    }
    words.push(quote(&format!("{url}{}", call.path)));
    words.join(" ")
}

fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+%@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quotes_what_a_shell_would_change() {
        let call = Call::post("/v1/sets/a/b?ttl=1", json!({"add": ["it's"]}));
        assert_eq!(
            curl("http://127.0.0.1:7401", &call),
            concat!(
                "curl -sS -X POST -H 'content-type: application/json' ",
                r#"-d '{"add":["it'\''s"]}' "#,
                "'http://127.0.0.1:7401/v1/sets/a/b?ttl=1'"
            )
        );
    }
}
