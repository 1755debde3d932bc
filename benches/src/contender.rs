//! What a contender must be able to do: the ground on which all workloads are written once.

use crate::{bed::Bed, inbox::Inbox, volley::Volley};
use bytes::Bytes;
use std::{fmt, io, net::SocketAddr, sync::Arc};

/// A way to move messages between peers.
pub trait Contender: Send + Sync + 'static {
    /// What it runs on.
    type Bed: Bed;
    /// What it listens and dials with.
    type Host: Host;
    /// Its name in tables.
    const NAME: &'static str;
    /// What may be tuned; the best for each workload takes part. The first is the default.
    const TUNINGS: &'static [Tuning];

    /// Makes a node that does `duty` with each message that it receives. It listens on a loopback
    /// address if `setup` says so.
    fn host(setup: Setup, duty: Duty) -> impl Future<Output = io::Result<Self::Host>> + Send;
}

/// A node: it listens and dials. What is hand-wired has one in name only.
pub trait Host: Send + Sync + 'static {
    /// A connection, as its dialer sees it.
    type Link: Link;

    /// Returns the address that it listens on.
    fn addr(&self) -> SocketAddr;

    /// Returns the number of connections.
    fn live(&self) -> usize;

    /// Connects.
    fn dial(&self, addr: SocketAddr) -> impl Future<Output = io::Result<Self::Link>> + Send;

    /// Connects and sends a message; what else is sent, the duty says in answer to answers.
    fn converse(
        &self,
        addr: SocketAddr,
        opening: Bytes,
    ) -> impl Future<Output = io::Result<Self::Link>> + Send;

    /// Sends to all connections; it may be held back until [`flush`](Self::flush).
    fn broadcast(&self, message: &Bytes) -> impl Future<Output = io::Result<()>> + Send;

    /// Sends what was held back.
    fn flush(&self) -> impl Future<Output = io::Result<()>> + Send;

    /// Ends it, and all connections.
    fn shut_down(self) -> impl Future<Output = ()> + Send;
}

/// A connection, as its dialer sees it.
pub trait Link: Send + 'static {
    /// Sends a message; it may be held back until [`flush`](Self::flush).
    fn feed(&mut self, message: &Bytes) -> impl Future<Output = io::Result<()>> + Send;

    /// Sends what was held back.
    fn flush(&mut self) -> impl Future<Output = io::Result<()>> + Send;

    /// Closes the connection gracefully, and waits until this end of it is released.
    fn close(self) -> impl Future<Output = io::Result<()>> + Send;
}

/// What is the same for all contenders in one run, and the tuning of this one.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Whether to listen.
    pub listens: bool,
    /// Whether [`Host::broadcast`] will be called.
    pub broadcasts: bool,
    /// The connections to be ready for.
    pub connections: usize,
    /// The length of the longest message.
    pub message_bytes: usize,
    /// The bytes that one connection may have under way, frame headers included.
    pub window_bytes: usize,
    /// The tuning.
    pub tuning: Tuning,
}

impl Setup {
    /// Returns a setup for few and small messages.
    pub fn new(tuning: Tuning) -> Self {
        Self {
            listens: false,
            broadcasts: false,
            connections: 16,
            message_bytes: 1024,
            window_bytes: 64 * 1024,
            tuning,
        }
    }

    /// Has it listen.
    pub fn listening(mut self) -> Self {
        self.listens = true;
        self
    }
}

/// A tuning of a contender's, or one of several ways to use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuning {
    /// As it comes.
    Default,
    /// Buffers of so many KiB, for reading and for writing.
    Buffer(usize),
    /// Queues of so many messages.
    Depth(usize),
    /// Sends to an address, not to a [`Peer`](anypea::Peer).
    ByAddress,
    /// Broadcasts bytes that were encoded once.
    EncodedOnce,
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Buffer(kib) => write!(f, "{kib} KiB"),
            Self::Depth(messages) => write!(f, "queue of {messages}"),
            Self::ByAddress => f.write_str("by address"),
            Self::EncodedOnce => f.write_str("encoded once"),
        }
    }
}

/// What a host does with the messages that it receives.
#[derive(Clone)]
pub enum Duty {
    /// Nothing.
    Discard,
    /// Sends them back.
    Echo,
    /// Counts them.
    Count(Arc<Inbox>),
    /// Answers with the next request.
    Volley(Arc<Volley>),
}

/// What is to be sent in answer to a message.
pub enum Answer {
    /// Nothing.
    Silence,
    /// The message itself.
    Same,
    /// Another one.
    Other(Bytes),
}

impl Duty {
    /// Takes a message.
    #[inline]
    pub fn take(&self, message: &[u8]) -> Answer {
        match self {
            Self::Discard => Answer::Silence,
            Self::Echo => Answer::Same,
            Self::Count(inbox) => {
                inbox.take(message);
                Answer::Silence
            }
            Self::Volley(volley) => volley.take().map_or(Answer::Silence, Answer::Other),
        }
    }
}

impl Answer {
    /// Returns what is to be sent in answer to `message`.
    #[inline]
    pub fn bytes(self, message: impl FnOnce() -> Bytes) -> Option<Bytes> {
        match self {
            Self::Silence => None,
            Self::Same => Some(message()),
            Self::Other(bytes) => Some(bytes),
        }
    }
}
