//! How much a core keeps for its peers, and says at once.

/// Bounds in bytes. The defaults suit links of 100 ms; a simulator takes small ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Operations kept behind gaps. Above it they are dropped, and asked for later.
    /// Default 16 MiB: some seconds of a busy peer.
    pub waiting: usize,
    /// Operations in one message; the last may pass it. Default 256 KiB.
    pub message: usize,
    /// Operations in one answer. Default 1 MiB.
    pub answer: usize,
    /// State in one chunk. Default 512 KiB.
    pub chunk: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { waiting: 16 << 20, message: 256 << 10, answer: 1 << 20, chunk: 512 << 10 }
    }
}
