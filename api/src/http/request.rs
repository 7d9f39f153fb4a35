//! What every write reads from a request: body, type, retry key, and the hash of both.

use atoll_store::command::RequestHash;
use atoll_store::name::EntityKey;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, header};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::time::Duration;

use super::accept::{Form, negotiate};
use super::limits::Limits;
use super::problem::{Code, Problem};

/// The header that makes a write safe to repeat.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Longest idempotency key, in bytes.
const KEY_MAX: usize = 128;

/// Bytes of a refused body that are read and dropped, so that its client gets to read the answer:
/// a connection closed over unread bytes is reset. 16 MiB; of larger ones some clients see a reset.
const DISCARDED: usize = 16 << 20;

/// The whole body, within the limits of size and time.
pub async fn body(headers: &HeaderMap, mut body: Body, limits: &Limits) -> Result<Bytes, Problem> {
    let within = Duration::from_millis(limits.body_ms);
    match tokio::time::timeout(within, read(headers, &mut body, limits)).await {
        Ok(Err(problem)) if problem.code == Code::TooLarge => {
            // A client that asked first has not sent it.
            if !headers.contains_key(header::EXPECT) {
                let _ = tokio::time::timeout(within, Limited::new(body, DISCARDED).collect()).await;
            }
            Err(problem)
        }
        Ok(read) => read,
        Err(_) => Err(Problem::new(Code::RequestTimeout, "the body did not arrive in time")),
    }
}

async fn read(headers: &HeaderMap, body: &mut Body, limits: &Limits) -> Result<Bytes, Problem> {
    let limit = limits.body_bytes;
    let too_large = || Problem::too_large(format!("a body has at most {limit} bytes"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced.and_then(|text| text.parse::<u64>().ok()).is_some_and(|n| n > limit as u64) {
        return Err(too_large());
    }
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(Problem::bad("the body ended early, or its framing is broken")),
    }
}

/// Refuses a write whose answer is wanted in another form than JSON.
pub fn check_answer(headers: &HeaderMap) -> Result<(), Problem> {
    match negotiate(headers)? {
        Form::Json => Ok(()),
        _ => Err(Problem::new(Code::NotAcceptable, "a write is answered in application/json")),
    }
}

/// Refuses a body that is declared as anything but JSON; none declared passes.
pub fn check_json(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let media = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if media.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let media: String = media.chars().take(80).collect();
    let detail = format!("Content-Type is {media:?}; expected application/json");
    Err(Problem::new(Code::UnsupportedMediaType, detail))
}

/// Whether the client prefers an answer without the value (RFC 7240).
pub fn prefers_minimal(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut each = preferences.flat_map(|value| value.split([',', ';']));
    each.any(|one| one.trim().eq_ignore_ascii_case("return=minimal"))
}

/// The `Idempotency-Key`, if there is one.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bytes = value.as_bytes();
    let visible = bytes.iter().all(|b| (0x21..=0x7e).contains(b));
    if bytes.is_empty() || bytes.len() > KEY_MAX || !visible || values.next().is_some() {
        let detail = format!("Idempotency-Key must be one of 1-{KEY_MAX} visible ASCII characters");
        return Err(Problem::bad(detail));
    }
    Ok(value.to_str().ok())
}

/// What tells one request from another, besides its key.
pub struct Asked<'a> {
    /// The method.
    pub method: &'a str,
    /// The time to live.
    pub ttl_ms: Option<u64>,
    /// The `If-Match` header, or nothing.
    pub if_match: &'a str,
    /// The body in canonical form; empty for `DELETE`.
    pub body: &'a [u8],
}

/// The hash of an idempotency key, and that of the request it came with (R10).
pub fn hash(entity: &EntityKey, key: &str, asked: &Asked<'_>) -> RequestHash {
    let name = entity.bytes();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&name).update(&[0]).update(key.as_bytes());
    let key = head::<16>(&hasher);
    let mut hasher = blake3::Hasher::new();
    for part in [asked.method.as_bytes(), &name, asked.if_match.as_bytes()] {
        hasher.update(&(part.len() as u64).to_be_bytes()).update(part);
    }
    hasher.update(&asked.ttl_ms.unwrap_or(0).to_be_bytes()).update(asked.body);
    RequestHash { key: u128::from_be_bytes(key), request: u64::from_be_bytes(head::<8>(&hasher)) }
}

fn head<const N: usize>(hasher: &blake3::Hasher) -> [u8; N] {
    let mut out = [0; N];
    hasher.finalize_xof().fill(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_store::name::Kind;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header"));
        headers
    }

    #[test]
    fn keys_are_visible_ascii() {
        let key = |text: &str| {
            idempotency_key(&headers(IDEMPOTENCY_KEY, text)).map(|key| key.map(str::to_owned))
        };
        assert_eq!(key("a-1").expect("valid"), Some("a-1".into()));
        assert!(key(&"x".repeat(128)).is_ok());
        for bad in ["", "a b", &"x".repeat(129)] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
        assert_eq!(idempotency_key(&HeaderMap::new()).expect("none"), None);
    }

    #[test]
    fn only_json_is_read() {
        let check = |text| check_json(&headers(header::CONTENT_TYPE, text));
        assert!(check("Application/JSON; charset=utf-8").is_ok());
        assert!(check_json(&HeaderMap::new()).is_ok());
        let problem = check("application/x-www-form-urlencoded").expect_err("no form");
        assert_eq!(problem.code, Code::UnsupportedMediaType);
    }

    #[test]
    fn a_hash_tells_key_and_request_apart() {
        let entity = EntityKey::parse(Kind::Sets, "c", "a").expect("valid");
        let asked = |body| Asked { method: "POST", ttl_ms: None, if_match: "", body };
        let first = hash(&entity, "k", &asked(b"1"));
        assert_eq!(first, hash(&entity, "k", &asked(b"1")));
        let other = hash(&entity, "k", &asked(b"2"));
        assert!(first.key == other.key && first.request != other.request);
        assert_ne!(first.key, hash(&entity, "l", &asked(b"1")).key);
        let ttl = Asked { ttl_ms: Some(1), ..asked(b"1") };
        assert_ne!(first.request, hash(&entity, "k", &ttl).request);
    }

    #[tokio::test]
    async fn bodies_are_bounded() {
        let limits = Limits { body_bytes: 4, ..Limits::default() };
        let read = async |text: &'static str| body(&HeaderMap::new(), text.into(), &limits).await;
        assert_eq!(read("1234").await.expect("fits"), "1234");
        assert_eq!(read("12345").await.expect_err("too long").code, Code::TooLarge);
        let announced = headers(header::CONTENT_LENGTH, "99999999999");
        let early = body(&announced, "1".into(), &limits).await.expect_err("too long");
        assert_eq!(early.code, Code::TooLarge);
    }
}
