//! The contenders, one a file.

pub mod anypea;
pub mod framed;
pub mod message_io;
pub mod pea2pea;
pub mod raw;
pub mod tokio_util;

use crate::contender::{Setup, Tuning};
use std::net::{Ipv4Addr, SocketAddr};

/// Connections that may wait to be accepted, for all that can be told.
const BACKLOG: u32 = 4096;

/// Where to listen: a port of the system's choice.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The buffers that what is hand-wired is tried with.
const BUFFERS: &[Tuning] = &[
    Tuning::Default,
    Tuning::Buffer(8),
    Tuning::Buffer(16),
    Tuning::Buffer(32),
    Tuning::Buffer(64),
    Tuning::Buffer(128),
];

impl Setup {
    /// The size of the buffers in bytes, if they are tuned.
    fn buffer_bytes(&self) -> Option<usize> {
        match self.tuning {
            Tuning::Buffer(kib) => Some(kib * 1024),
            _ => None,
        }
    }

    /// The longest frame payload to be accepted.
    fn max_frame_bytes(&self) -> usize {
        self.message_bytes.max(1024)
    }
}
