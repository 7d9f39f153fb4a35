//! Frames on a stream: one byte naming the class, then for each frame its length (u32, little
//! endian) and its bytes, until the stream ends.
//!
//! Invariants: a length above the limit is refused before memory is taken for it, and memory grows
//! only with what has arrived.
//!
//! Left out: checksums (QUIC authenticates every packet) and compression.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes before each frame.
const HEADER: usize = 4;

/// Frames below this many bytes are copied together, larger ones are passed on as they are.
const COPIED: usize = 4096;

/// A frame longer than the limit was announced.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Oversized;

/// The chunks to write for these frames; each frame must be shorter than 4 GiB.
pub(super) fn encode(frames: Vec<Bytes>) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let mut buffer = BytesMut::new();
    for frame in frames {
        let length = u32::try_from(frame.len()).expect("send refuses frames above the limit");
        buffer.put_u32_le(length);
        if frame.len() < COPIED {
            buffer.put_slice(&frame);
        } else {
            chunks.push(buffer.split().freeze());
            chunks.push(frame);
        }
    }
    if !buffer.is_empty() {
        chunks.push(buffer.freeze());
    }
    chunks
}

/// Cuts what a stream delivers into frames.
pub(super) struct Decoder {
    buffer: BytesMut,
    limit: usize,
}

impl Decoder {
    pub(super) fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit }
    }

    /// Adds what arrived next.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it has arrived.
    pub(super) fn pop(&mut self) -> Result<Option<Bytes>, Oversized> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*header)).map_err(|_| Oversized)?;
        if length > self.limit {
            return Err(Oversized);
        }
        if self.buffer.len() - HEADER < length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Whether everything that arrived was handed out: the stream may end here.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(limit: usize, bytes: &[u8], step: usize) -> Result<(Vec<Bytes>, bool), Oversized> {
        let mut decoder = Decoder::new(limit);
        let mut frames = Vec::new();
        for chunk in bytes.chunks(step) {
            decoder.push(chunk);
            while let Some(frame) = decoder.pop()? {
                frames.push(frame);
            }
        }
        Ok((frames, decoder.is_empty()))
    }

    proptest! {
        #[test]
        fn frames_survive_any_chunking(
            lengths in prop::collection::vec(0..10_000usize, 0..10),
            step in 1..5000usize,
        ) {
            let frame = |length: &usize| Bytes::from(vec![*length as u8; *length]);
            let frames: Vec<Bytes> = lengths.iter().map(frame).collect();
            let bytes = encode(frames.clone()).concat();
            prop_assert_eq!(decode(10_000, &bytes, step), Ok((frames, true)));
        }

        #[test]
        fn garbage_is_refused_or_bounded(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            step in 1..50usize,
        ) {
            if let Ok((frames, _)) = decode(16, &bytes, step) {
                prop_assert!(frames.iter().all(|frame| frame.len() <= 16));
            }
        }
    }

    #[test]
    fn the_limit_is_inclusive_and_truncation_shows() {
        let bytes = encode(vec![Bytes::from(vec![7; 16])]).concat();
        assert!(decode(16, &bytes, 64).is_ok());
        assert_eq!(decode(15, &bytes, 64), Err(Oversized));
        assert_eq!(decode(16, &bytes[..19], 64), Ok((vec![], false)));
    }
}
