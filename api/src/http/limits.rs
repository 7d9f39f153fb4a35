//! What a request may weigh, each limit with its unit, default and the answer above it.

/// Limits checked at the edge, before a node sees the request.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request body; default 1 MiB; above: 413.
    pub body_bytes: usize,
    /// Bytes of a set member or a multi-register's value in canonical form; default 64 KiB;
    /// above: 413.
    pub member_bytes: usize,
    /// Levels of arrays and objects in a stored value; default 64; above: 413.
    pub json_depth: usize,
    /// Operations of one batch; default 1000; above: 413.
    pub batch_operations: usize,
    /// Operations of one atomic update; default 1000, as for a batch; above: 413.
    pub update_operations: usize,
    /// Bytes of a map's field name, which is never empty; default 256; above: 413.
    pub field_name_bytes: usize,
    /// Open connections; default 20,000; above: new ones wait in the listen queue.
    pub connections: usize,
    /// Milliseconds for a request's head, and idle ones between requests of a connection;
    /// default 60,000; above: the connection is closed.
    pub head_ms: u64,
    /// Milliseconds for a request's body; default 30,000; above: 408.
    pub body_ms: u64,
    /// Milliseconds that a stopping server, while it has connections, goes on taking more, and then
    /// as long without; default 250: more than from a client to here and back.
    pub linger_ms: u64,
    /// Milliseconds that a stopping server waits for running requests; default 10,000.
    pub drain_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes: 1 << 20,
            member_bytes: 64 << 10,
            json_depth: 64,
            batch_operations: 1000,
            update_operations: 1000,
            field_name_bytes: 256,
            connections: 20_000,
            head_ms: 60_000,
            body_ms: 30_000,
            linger_ms: 250,
            drain_ms: 10_000,
        }
    }
}
