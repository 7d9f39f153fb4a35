//! Requests counted by route and class of status, at the cost of two atomic additions.

use std::time::Duration;

use axum::http::StatusCode;
use metrics::{Counter, counter};

/// A group of routes that behave alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// One entity.
    Entity,
    /// A collection.
    List,
    /// A batch.
    Batch,
    /// Everything else.
    Other,
}

const ROUTES: [(Route, &str); 4] = [
    (Route::Entity, "entity"),
    (Route::List, "list"),
    (Route::Batch, "batch"),
    (Route::Other, "other"),
];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Route {
    /// The group of a raw path.
    pub(super) fn of(path: &str) -> Route {
        let Some(rest) = path.strip_prefix("/v1/") else { return Route::Other };
        match rest.bytes().filter(|b| *b == b'/').count() {
            2 => Route::Entity,
            1 => Route::List,
            _ if rest == "batch" => Route::Batch,
            _ => Route::Other,
        }
    }
}

/// Counts a request to another node: `answered`, `unsent` or `lost`.
pub(super) fn forwarded(outcome: &'static str) {
    counter!("atoll_http_forwarded_total", "outcome" => outcome).increment(1);
}

/// Counters of a server, registered once with the installed recorder.
pub(super) struct Meter {
    requests: [[Counter; 5]; 4],
    micros: [Counter; 4],
}

impl Default for Meter {
    fn default() -> Meter {
        let requests = ROUTES.map(|(_, route)| {
            CLASSES.map(
                |class| counter!("atoll_http_requests_total", "route" => route, "status" => class),
            )
        });
        let micros =
            ROUTES.map(|(_, route)| counter!("atoll_http_microseconds_total", "route" => route));
        Meter { requests, micros }
    }
}

impl Meter {
    /// Counts one request, from its head to the head of its answer.
    pub(super) fn record(&self, route: Route, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.requests[route as usize][class].increment(1);
        self.micros[route as usize].increment(took.as_micros() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_fall_into_groups() {
        assert_eq!(Route::of("/v1/sets/a/b"), Route::Entity);
        assert_eq!(Route::of("/v1/sets/a"), Route::List);
        assert_eq!(Route::of("/v1/batch"), Route::Batch);
        assert_eq!(Route::of("/livez"), Route::Other);
        for (index, (route, _)) in ROUTES.into_iter().enumerate() {
            assert_eq!(route as usize, index);
        }
    }
}
