//! What can go wrong, by the call that it goes wrong in.

use std::{error::Error, io, net::SocketAddr, time::Duration};
use thiserror::Error;

/// Any error that can be sent between threads.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A configuration that makes no sense.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The setting is zero, and the node couldn't work with it.
    #[error("`{0}` must not be zero")]
    Zero(&'static str),
    /// A setting exceeds another one that bounds it.
    #[error("`{setting}` is {value}, but must not exceed {bound} ({why})")]
    TooLarge {
        /// The setting that is too large.
        setting: &'static str,
        /// Its value.
        value: usize,
        /// The largest value that makes sense.
        bound: usize,
        /// What sets the bound.
        why: &'static str,
    },
}

/// A protocol that can't be enabled.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnableError {
    /// It has been enabled before.
    #[error("{0} is enabled already")]
    AlreadyEnabled(&'static str),
    /// There are connections, or connections being set up, which would lack it.
    #[error("{0} can't be enabled: there are connections already; enable it before any")]
    ConnectionsExist(&'static str),
    /// One of the protocol's settings is zero, and it couldn't work with it.
    #[error("`{0}` must not be zero")]
    Zero(&'static str),
    /// The node is shutting down.
    #[error("{0} can't be enabled: the node is shutting down")]
    ShuttingDown(&'static str),
}

/// A node that can't listen.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The configuration names no listening address.
    #[error("can't listen: `listening_addr` is not configured")]
    NoAddress,
    /// The node listens already, or is about to.
    #[error("can't listen: the node is listening already")]
    AlreadyListening,
    /// The node is shutting down.
    #[error("can't listen: the node is shutting down")]
    ShuttingDown,
    /// The runtime doesn't run the node's tasks any more.
    #[error("can't listen: the runtime has dropped the task")]
    RuntimeGone,
    /// The operating system refused.
    #[error("can't listen on {addr}: {error}")]
    Io {
        /// The configured address.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// A connection that could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is a connection to the address; at most one is kept.
    #[error("already connected to {0}")]
    AlreadyConnected(SocketAddr),
    /// A connection to the address is being set up.
    #[error("already connecting to {0}")]
    AlreadyConnecting(SocketAddr),
    /// The address leads back to the node itself.
    #[error("{0} is this node's own address")]
    OwnAddress(SocketAddr),
    /// The limit on connections with one IP address is reached.
    #[error("too many connections with the IP address of {0}")]
    IpLimit(SocketAddr),
    /// The limit on connections with one network prefix is reached.
    #[error("too many connections with the network prefix of {0}")]
    PrefixLimit(SocketAddr),
    /// The limit on connections is reached.
    #[error("can't connect with {0}: too many connections")]
    TotalLimit(SocketAddr),
    /// The limit on inbound connections is reached.
    #[error("can't connect with {0}: too many inbound connections")]
    InboundLimit(SocketAddr),
    /// Too many connections are being set up; try again later.
    #[error("can't connect with {0}: too many connections are being set up")]
    SetupBudget(SocketAddr),
    /// [`Handshake::admit`](crate::Handshake::admit) said no.
    #[error("{0} was not admitted")]
    NotAdmitted(SocketAddr),
    /// The operating system couldn't connect: refused, unreachable, and so on.
    #[error("can't connect to {addr}: {error}")]
    Io {
        /// The address dialed.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The address didn't answer in time.
    #[error("can't connect to {addr}: no answer within {after:?}")]
    TimedOut {
        /// The address dialed.
        addr: SocketAddr,
        /// The time limit.
        after: Duration,
    },
    /// The handshake failed.
    #[error("the handshake with {addr} failed: {error}")]
    Handshake {
        /// The peer.
        addr: SocketAddr,
        /// What [`perform_handshake`](crate::Handshake::perform_handshake) returned, or what is
        /// wrong with the connection it returned.
        #[source]
        error: io::Error,
    },
    /// The handshake took too long.
    #[error("the handshake with {addr} was not over within {after:?}")]
    HandshakeTimedOut {
        /// The peer.
        addr: SocketAddr,
        /// The time limit.
        after: Duration,
    },
    /// The handshake, or the making of a codec, panicked.
    #[error("the set-up of the connection with {0} panicked")]
    Panicked(SocketAddr),
    /// The node is shutting down.
    #[error("can't connect with {0}: the node is shutting down")]
    ShuttingDown(SocketAddr),
    /// The runtime doesn't run the node's tasks any more.
    #[error("can't connect with {0}: the runtime has dropped the task")]
    RuntimeGone(SocketAddr),
}

/// A message that was not taken.
///
/// Where the message was not touched, it comes back.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SendError<M> {
    /// The peer's queue is full.
    #[error("the peer's queue is full")]
    Full(M),
    /// There is no such connection, or it takes no messages any more.
    #[error("not connected")]
    NotConnected(M),
    /// [`Writing`](crate::Writing) is not enabled, or was enabled with another codec.
    #[error("Writing is not enabled with this codec")]
    NotEnabled(M),
    /// The message was sent from inside an encoder.
    #[error("an encoder can't send messages")]
    Reentrant(M),
    /// The encoder returned an error. What it had written of the frame is taken back.
    #[error("the message can't be encoded: {0}")]
    Encode(#[source] BoxError),
    /// The encoder panicked or damaged the frames of earlier messages; the connection ends.
    #[error("the encoder panicked, or removed the frames of earlier messages")]
    EncoderBroken,
}

impl<M> SendError<M> {
    /// Returns the message, if it was not touched.
    pub fn into_message(self) -> Option<M> {
        match self {
            Self::Full(message)
            | Self::NotConnected(message)
            | Self::NotEnabled(message)
            | Self::Reentrant(message) => Some(message),
            Self::Encode(_) | Self::EncoderBroken => None,
        }
    }
}

/// Bytes that were queued but didn't reach the operating system before the connection ended.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the connection ended before the message was written")]
pub struct NotDelivered;

/// A task that did not finish: it panicked, or the node was shut down, or its runtime ended.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the task did not finish")]
pub struct TaskEnded;

impl From<ConfigError> for io::Error {
    fn from(error: ConfigError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

impl From<EnableError> for io::Error {
    fn from(error: EnableError) -> Self {
        Self::other(error)
    }
}

impl From<ListenError> for io::Error {
    fn from(error: ListenError) -> Self {
        let kind = match &error {
            ListenError::NoAddress => io::ErrorKind::InvalidInput,
            ListenError::Io { error, .. } => error.kind(),
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        use io::ErrorKind::*;
        let kind = match &error {
            ConnectError::AlreadyConnected(_) | ConnectError::AlreadyConnecting(_) => AlreadyExists,
            ConnectError::OwnAddress(_) => InvalidInput,
            ConnectError::NotAdmitted(_) => PermissionDenied,
            ConnectError::TimedOut { .. } | ConnectError::HandshakeTimedOut { .. } => TimedOut,
            ConnectError::Io { error, .. } | ConnectError::Handshake { error, .. } => error.kind(),
            _ => Other,
        };
        Self::new(kind, error)
    }
}

impl<M> From<SendError<M>> for io::Error {
    fn from(error: SendError<M>) -> Self {
        match error {
            SendError::Full(_) => Self::new(io::ErrorKind::WouldBlock, "the peer's queue is full"),
            SendError::NotConnected(_) => Self::new(io::ErrorKind::NotConnected, "not connected"),
            SendError::Encode(error) => Self::new(io::ErrorKind::InvalidData, error),
            other => Self::other(other.to_string()),
        }
    }
}

impl From<NotDelivered> for io::Error {
    fn from(error: NotDelivered) -> Self {
        Self::new(io::ErrorKind::ConnectionAborted, error)
    }
}
