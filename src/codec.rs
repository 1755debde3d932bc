//! The codec that ships with the library.

use asynchronous_codec::{Decoder, Encoder};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io;
use thiserror::Error;

const HEADER_BYTES: usize = 4;

/// Frames with a big-endian `u32` length in front, none longer than a given maximum.
///
/// On the wire it is what tokio-util's `LengthDelimitedCodec` speaks by default. The decoder
/// never reserves more memory for a length that a peer claims than as much again as has arrived.
///
/// ```
/// use anypea::{asynchronous_codec::{Decoder, Encoder}, bytes::{Bytes, BytesMut}};
/// use anypea::codec::LengthDelimited;
///
/// let mut codec = LengthDelimited::new(1024);
/// let mut wire = BytesMut::new();
/// codec.encode(Bytes::from_static(b"hello"), &mut wire)?;
/// assert_eq!(&wire[..], b"\0\0\0\x05hello");
/// assert_eq!(codec.decode(&mut wire)?.unwrap(), "hello");
/// assert!(codec.encode(vec![0; 1025].into(), &mut wire).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LengthDelimited {
    max_frame_bytes: usize,
}

/// A frame that is longer than allowed; the inner error of what [`LengthDelimited`] returns.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a frame of {frame_bytes} bytes exceeds the maximum of {max_frame_bytes}")]
pub struct FrameTooLong {
    /// The length of the frame's payload in bytes.
    pub frame_bytes: usize,
    /// The largest allowed.
    pub max_frame_bytes: usize,
}

impl LengthDelimited {
    /// Makes a codec for frames with payloads of at most `max_frame_bytes`, and never more than
    /// a `u32` can express.
    pub const fn new(max_frame_bytes: usize) -> Self {
        let most = u32::MAX as usize;
        Self { max_frame_bytes: if max_frame_bytes < most { max_frame_bytes } else { most } }
    }

    fn check(&self, frame_bytes: usize) -> io::Result<()> {
        if frame_bytes <= self.max_frame_bytes {
            return Ok(());
        }
        let max_frame_bytes = self.max_frame_bytes;
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            FrameTooLong { frame_bytes, max_frame_bytes },
        ))
    }
}

impl Encoder for LengthDelimited {
    type Item<'a> = Bytes;
    type Error = io::Error;

    fn encode(&mut self, frame: Bytes, dst: &mut BytesMut) -> io::Result<()> {
        self.check(frame.len())?;
        dst.reserve(HEADER_BYTES + frame.len());
        dst.put_u32(frame.len() as u32);
        dst.put_slice(&frame);
        Ok(())
    }
}

impl Decoder for LengthDelimited {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        let Some(header) = src.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let frame_bytes = u32::from_be_bytes(*header) as usize;
        self.check(frame_bytes)?;
        let missing = (HEADER_BYTES + frame_bytes).saturating_sub(src.len());
        if missing > 0 {
            src.reserve(missing.min(src.len()));
            return Ok(None);
        }
        let mut frame = src.split_to(HEADER_BYTES + frame_bytes).freeze();
        frame.advance(HEADER_BYTES);
        Ok(Some(frame))
    }
}
