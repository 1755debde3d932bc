//! TCP as the programs on both ends see it.
//!
//! Each connection is two [`End`]s. What an end sends goes through its own [`Outgoing`]: bytes
//! wait until the peer's window has room, then travel as segments, in order, each with an arrival
//! time; only the first of them is in the queue of what is due. What doesn't get through is tried
//! again as TCP does, and in the end times out. Acknowledgements aren't sent one by one: a sender
//! is told about room, after the time that takes, only when it waits for room.

mod dialing;
mod ending;
mod listening;
mod ports;
mod segments;
mod transfer;

pub(crate) use listening::{Listening, gone};
pub(crate) use ports::{Ports, Tuple};

use crate::{queue::Key, random::Random, world::Waiter};
use anypea_runtime::{Keepalive, SocketOptions};
use std::{collections::VecDeque, io, net::SocketAddr};

/// No end.
pub(crate) const NONE: u32 = u32::MAX;
/// What a direction holds on each side if the socket's options don't say.
const BUFFER_BYTES: usize = 256 * 1024;
/// However little the options ask for, a direction holds this on each side.
const MIN_BUFFER_BYTES: usize = 2 * 1024;

/// One end of a connection.
pub(crate) struct End {
    /// Unique in the run, while slots are used again.
    pub(crate) serial: u32,
    pub(crate) host: u32,
    /// The host that has the peer's address.
    pub(crate) to: u32,
    /// The other end, as long as that knows of the connection.
    pub(crate) peer: u32,
    pub(crate) state: State,
    pub(crate) out: Outgoing,
    /// What has arrived and wasn't read yet.
    pub(crate) received: VecDeque<u8>,
    pub(crate) window: usize,
    pub(crate) fin_received: bool,
    /// Both stay on one host.
    pub(crate) loopback: bool,
    /// The program has dropped its socket; what remains is the system's.
    pub(crate) orphan: bool,
    pub(crate) listed: bool,
    pub(crate) upkeep: Option<Key>,
    pub(crate) heard_at: u64,
    pub(crate) random: Random,
    pub(crate) cold: Box<Cold>,
    pub(crate) reader: Option<Waiter>,
    pub(crate) writer: Option<Waiter>,
}

/// What is seldom asked for. It lies apart, so that the rest of many ends fits into a cache.
pub(crate) struct Cold {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// When the first segment was lost for the first time.
    pub(crate) lost_since: u64,
    pub(crate) keepalive: Option<Probing>,
    pub(crate) user_timeout: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    SynSent,
    SynReceived {
        listener: u32,
        serial: u32,
    },
    Open,
    /// Over, with this error.
    Dead(io::ErrorKind),
    /// Over on this side; a reset is on its way to the other.
    Resetting,
}

/// What an end sends.
pub(crate) struct Outgoing {
    /// The bytes that the program has written and that haven't arrived: first those on the way.
    pub(crate) bytes: VecDeque<u8>,
    pub(crate) in_flight: usize,
    pub(crate) capacity: usize,
    pub(crate) segments: Segments,
    /// When the last segment arrives; no later one does so earlier.
    pub(crate) last_at: u64,
    /// How often in a row the first segment got lost.
    pub(crate) losses: u32,
    pub(crate) fin: Fin,
    /// The FIN was sent before the peer's arrived, so this is the side that waits in `TIME_WAIT`.
    pub(crate) closed_first: bool,
    pub(crate) due: Option<Key>,
    pub(crate) window_due: Option<Key>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fin {
    No,
    Queued,
    Sent,
    Arrived,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) at: u64,
    pub(crate) what: Carries,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    SynAck,
    Ack,
    Data(u32),
    Fin,
    Reset,
}

/// Segments on their way, the first of which has a place without an allocation: more often than
/// not it is the only one.
#[derive(Default)]
pub(crate) struct Segments {
    first: Option<Segment>,
    #[expect(clippy::box_collection, reason = "most ends have none, so 24 bytes are saved")]
    rest: Option<Box<VecDeque<Segment>>>,
}

impl Segments {
    pub(crate) fn push(&mut self, segment: Segment) {
        match self.first {
            None => self.first = Some(segment),
            Some(_) => self.rest.get_or_insert_default().push_back(segment),
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Segment> {
        let next = self.rest.as_mut().and_then(|rest| rest.pop_front());
        std::mem::replace(&mut self.first, next)
    }

    pub(crate) fn first(&self) -> Option<Segment> {
        self.first
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

/// Keepalive probes of an idle connection.
pub(crate) struct Probing {
    pub(crate) options: Keepalive,
    pub(crate) unanswered: u32,
}

impl End {
    fn new(
        serial: u32,
        (host, to): (u32, u32),
        (local, remote): (SocketAddr, SocketAddr),
        options: &SocketOptions,
        state: State,
        random: Random,
    ) -> Self {
        let bytes = |wanted: Option<usize>| wanted.unwrap_or(BUFFER_BYTES).max(MIN_BUFFER_BYTES);
        let probing = |options: &Keepalive| Probing { options: options.clone(), unanswered: 0 };
        Self {
            serial,
            host,
            to,
            peer: NONE,
            state,
            out: Outgoing {
                bytes: VecDeque::new(),
                in_flight: 0,
                capacity: bytes(options.send_buffer_bytes),
                segments: Segments::default(),
                last_at: 0,
                losses: 0,
                fin: Fin::No,
                closed_first: false,
                due: None,
                window_due: None,
            },
            received: VecDeque::new(),
            window: bytes(options.recv_buffer_bytes),
            fin_received: false,
            loopback: host == to,
            orphan: false,
            listed: true,
            upkeep: None,
            heard_at: 0,
            random,
            cold: Box::new(Cold {
                local,
                remote,
                lost_since: 0,
                keepalive: options.keepalive.as_ref().map(probing),
                user_timeout: options.user_timeout.map(crate::units::nanos),
            }),
            reader: None,
            writer: None,
        }
    }

    pub(crate) fn tuple(&self) -> Tuple {
        Tuple { port: self.cold.local.port(), ip: self.cold.local.ip(), remote: self.cold.remote }
    }

    /// Bytes that wait for room in the peer's window.
    fn unsent(&self) -> usize {
        self.out.bytes.len() - self.out.in_flight
    }

    /// Whether both directions have ended, so that nothing more can come.
    fn is_finished(&self) -> bool {
        self.fin_received && self.out.fin == Fin::Arrived
    }

    /// Whether what arrives is of use to nobody.
    fn is_deaf(&self) -> bool {
        self.orphan || matches!(self.state, State::Dead(_) | State::Resetting)
    }
}
