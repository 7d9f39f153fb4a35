//! The transport's metrics: names and labels in one place.

use super::super::Class;

/// A protocol breach: the connection was closed.
pub(super) fn rejected(reason: &'static str) {
    metrics::counter!("atoll_transport_rejected_total", "reason" => reason).increment(1);
}

/// A handshake failed on certificates, protocol or overload. `side`: `dialled` or `accepted`.
pub(super) fn refused(side: &'static str) {
    metrics::counter!("atoll_transport_handshakes_refused_total", "side" => side).increment(1);
}

/// Frames handed to QUIC.
pub(super) fn sent(class: Class, frames: usize, bytes: usize) {
    let class = class.name();
    metrics::counter!("atoll_transport_frames_sent_total", "class" => class)
        .increment(frames as u64);
    metrics::counter!("atoll_transport_bytes_sent_total", "class" => class).increment(bytes as u64);
}

/// A frame handed to the driver.
pub(super) fn received(class: Class, bytes: usize) {
    let class = class.name();
    metrics::counter!("atoll_transport_frames_received_total", "class" => class).increment(1);
    metrics::counter!("atoll_transport_bytes_received_total", "class" => class)
        .increment(bytes as u64);
}

/// Frames not sent. `reason`: `disconnected`, `full` or `oversized`.
pub(super) fn dropped(class: Class, reason: &'static str, frames: usize) {
    let labels = [("class", class.name()), ("reason", reason)];
    metrics::counter!("atoll_transport_frames_dropped_total", &labels).increment(frames as u64);
}

/// Live connections rose (1) or fell (-1).
pub(super) fn connections(change: f64) {
    metrics::gauge!("atoll_transport_connections").increment(change);
}
