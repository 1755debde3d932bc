//! The messages, and how each of them is checked.
//!
//! A packet holds its sequence number, a time stamp, and as many words as its link and its number
//! determine. So the receiver knows every byte that must come, and takes nothing else.

use anypea::{
    asynchronous_codec::{Decoder, Encoder},
    bytes::{Buf, BufMut, Bytes, BytesMut},
    codec::LengthDelimited,
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

const WORD_BYTES: usize = 8;
const MIN_WORDS: u64 = 1;
const MAX_WORDS: u64 = 30;
pub const MAX_PACKET_BYTES: usize = (2 + MAX_WORDS as usize) * WORD_BYTES;

/// One direction of a connection, as both of its ends count it.
pub struct Link {
    /// The numbers of the sender and of the receiver.
    pub ends: (u32, u32),
    pub sent: Tally,
    pub received: Tally,
}

/// How many packets, how many bytes, and the sum of all their words.
///
/// Only one end of a link writes to it, so that no atomic addition is needed.
#[derive(Default)]
pub struct Tally {
    packets: AtomicU64,
    bytes: AtomicU64,
    sum: AtomicU64,
}

impl Tally {
    fn add(&self, bytes: u64, sum: u64) {
        let add = |to: &AtomicU64, more| to.store(to.load(Relaxed).wrapping_add(more), Relaxed);
        add(&self.packets, 1);
        add(&self.bytes, bytes);
        add(&self.sum, sum);
    }

    pub fn packets(&self) -> u64 {
        self.packets.load(Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

impl Link {
    pub fn new(from: u32, to: u32) -> Self {
        Self { ends: (from, to), sent: Tally::default(), received: Tally::default() }
    }

    /// Counts a packet as processed.
    pub fn receive(&self, packet: &Packet) {
        self.received.add(packet.bytes, packet.sum);
    }

    /// Returns how many packets were lost; one at least if not all was received as it was sent.
    pub fn lost(&self) -> u64 {
        let [sent, received] = [&self.sent, &self.received]
            .map(|tally| (tally.packets(), tally.bytes(), tally.sum.load(Relaxed)));
        if sent == received { 0 } else { sent.0.abs_diff(received.0).max(1) }
    }

    /// Returns the words of a packet.
    fn words(&self, number: u64) -> impl Iterator<Item = u64> {
        let (from, to) = self.ends;
        let seed = mixed(mixed(u64::from(from) << 32 | u64::from(to)) ^ number);
        let count = MIN_WORDS + seed % (MAX_WORDS - MIN_WORDS + 1);
        (0..count).map(move |i| seed.rotate_left(i as u32))
    }
}

/// Spreads the bits of a number (splitmix64, by Sebastiano Vigna, in the public domain).
fn mixed(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// When a packet was to be sent, in nanoseconds since the start; 0 if it doesn't matter.
pub struct Stamp(pub u64);

/// A packet that has arrived and was found right.
pub struct Packet {
    pub stamp: u64,
    bytes: u64,
    sum: u64,
}

/// Encodes the packets of a link.
pub struct Outgoing {
    link: Arc<Link>,
}

impl Outgoing {
    pub fn new(link: Arc<Link>) -> Self {
        Self { link }
    }
}

impl Encoder for Outgoing {
    type Item<'a> = Stamp;
    type Error = io::Error;

    fn encode(&mut self, Stamp(stamp): Stamp, dst: &mut BytesMut) -> io::Result<()> {
        let number = self.link.sent.packets();
        let header_at = dst.len();
        dst.reserve(4 + MAX_PACKET_BYTES);
        dst.put_u32(0);
        dst.put_u64(number);
        dst.put_u64(stamp);
        let mut sum = number.wrapping_add(stamp);
        for word in self.link.words(number) {
            dst.put_u64(word);
            sum = sum.wrapping_add(word);
        }
        let length = dst.len() - header_at - 4;
        dst[header_at..header_at + 4].copy_from_slice(&(length as u32).to_be_bytes());
        self.link.sent.add(4 + length as u64, sum);
        Ok(())
    }
}

/// Decodes the packets of a link, and refuses every one that is not exactly the next.
pub struct Incoming {
    link: Arc<Link>,
    frames: LengthDelimited,
    next: u64,
}

impl Incoming {
    pub fn new(link: Arc<Link>) -> Self {
        Self { link, frames: LengthDelimited::new(MAX_PACKET_BYTES), next: 0 }
    }

    fn check(&self, mut frame: Bytes) -> Option<Packet> {
        let bytes = 4 + frame.len() as u64;
        let number = frame.try_get_u64().ok()?;
        let stamp = frame.try_get_u64().ok()?;
        let mut sum = number.wrapping_add(stamp);
        let mut words = frame.chunks_exact(WORD_BYTES);
        let mut right = number == self.next;
        for word in self.link.words(self.next) {
            right &= words.next()? == word.to_be_bytes();
            sum = sum.wrapping_add(word);
        }
        let complete = words.next().is_none() && words.remainder().is_empty();
        (right && complete).then_some(Packet { stamp, bytes, sum })
    }
}

impl Decoder for Incoming {
    type Item = Packet;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Packet>> {
        let Some(frame) = self.frames.decode(src)? else { return Ok(None) };
        let packet = self.check(frame).ok_or_else(|| {
            let (from, to) = self.link.ends;
            io::Error::other(format!("packet {} from {from} to {to} is wrong", self.next))
        })?;
        self.next += 1;
        Ok(Some(packet))
    }
}
