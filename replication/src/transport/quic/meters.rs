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

/// A datagram handed to QUIC.
pub(super) fn datagram_sent() {
    metrics::counter!("atoll_transport_datagrams_sent_total").increment(1);
}

/// A datagram that came.
pub(super) fn datagram_received() {
    metrics::counter!("atoll_transport_datagrams_received_total").increment(1);
}

/// A datagram not sent (`disconnected`, `oversized`) or not taken (`unread`).
pub(super) fn datagram_dropped(reason: &'static str) {
    metrics::counter!("atoll_transport_datagrams_dropped_total", "reason" => reason).increment(1);
}

/// A stream of requests: `opened`, `accepted` or `refused`.
pub(super) fn request(what: &'static str) {
    metrics::counter!("atoll_transport_request_streams_total", "what" => what).increment(1);
}

/// A live connection, counted as long as this value lives.
pub(super) struct Connected(());

impl Connected {
    pub(super) fn count() -> Self {
        metrics::gauge!("atoll_transport_connections").increment(1);
        Self(())
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        metrics::gauge!("atoll_transport_connections").decrement(1);
    }
}
