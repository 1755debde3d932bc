//! The codec that all share: a length of four bytes, big-endian, in front of each message.
//!
//! It is [`LengthDelimited`] for everybody. asynchronous-codec takes it as it is; here it gets
//! tokio-util's traits, too.

use anypea::codec::LengthDelimited;
use bytes::{Bytes, BytesMut};
use std::io;

const HEADER_BYTES: usize = 4;

/// The codec of everything but anypea.
#[derive(Clone, Copy)]
pub struct Framing {
    codec: LengthDelimited,
    /// Makes room for the whole frame once its length is known, as those do who trust their
    /// peers; [`LengthDelimited`] never makes more room than as much again as has arrived.
    whole: bool,
}

impl Framing {
    /// Makes one for messages of at most `max_frame_bytes`.
    pub fn new(max_frame_bytes: usize, whole: bool) -> Self {
        Self { codec: LengthDelimited::new(max_frame_bytes), whole }
    }

    #[inline]
    fn encode(&mut self, message: Bytes, dst: &mut BytesMut) -> io::Result<()> {
        asynchronous_codec::Encoder::encode(&mut self.codec, message, dst)
    }

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        let message = asynchronous_codec::Decoder::decode(&mut self.codec, src)?;
        if message.is_none()
            && self.whole
            && let Some(header) = src.first_chunk::<HEADER_BYTES>()
        {
            let frame = HEADER_BYTES + u32::from_be_bytes(*header) as usize;
            src.reserve(frame.saturating_sub(src.len()));
        }
        Ok(message)
    }
}

impl tokio_util::codec::Encoder<Bytes> for Framing {
    type Error = io::Error;

    fn encode(&mut self, message: Bytes, dst: &mut BytesMut) -> io::Result<()> {
        self.encode(message, dst)
    }
}

impl tokio_util::codec::Decoder for Framing {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        self.decode(src)
    }
}

impl asynchronous_codec::Encoder for Framing {
    type Item<'a> = Bytes;
    type Error = io::Error;

    fn encode(&mut self, message: Bytes, dst: &mut BytesMut) -> io::Result<()> {
        self.encode(message, dst)
    }
}

impl asynchronous_codec::Decoder for Framing {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        self.decode(src)
    }
}
