//! Why a connection ended.

use std::{error::Error, fmt, io, sync::Arc};

/// Why a connection ended: the first cause, if there were several.
///
/// [`on_disconnect`](crate::OnDisconnect::on_disconnect) gets it; afterwards
/// [`Peer::disconnect_reason`](crate::Peer::disconnect_reason) tells it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The peer closed its sending side, at a frame border.
    PeerClosed,
    /// The peer closed its sending side in the middle of a frame.
    Truncated {
        /// Bytes of the incomplete frame.
        bytes: usize,
    },
    /// The peer reset the connection, or closed it while we were still sending.
    PeerReset,
    /// Reading or writing failed for another reason.
    Io(Arc<io::Error>),
    /// No complete message arrived within [`idle_timeout`](crate::Reading::idle_timeout).
    Idle,
    /// The decoder returned an error.
    Undecodable(Arc<dyn Error + Send + Sync>),
    /// The decoder left more than [`max_buffered_bytes`](crate::Reading::max_buffered_bytes)
    /// unconsumed: the limit is too small for the frames, or the peer is hostile.
    BufferFull {
        /// The limit.
        max_buffered_bytes: usize,
    },
    /// [`process_message`](crate::Reading::process_message) returned an error.
    HandlerError(Arc<io::Error>),
    /// A hook was not over within its time limit.
    TimedOut(Hook),
    /// The peer didn't read fast enough for [`write_timeout`](crate::Writing::write_timeout).
    WriteTimedOut,
    /// The encoder panicked, damaged the frames of earlier messages, or returned an error that it
    /// had declared to be fatal.
    Encoder,
    /// A hook or a codec of the user's panicked.
    Panicked(Hook),
    /// [`disconnect`](crate::Node::disconnect) was called.
    User,
    /// [`disconnect_now`](crate::Node::disconnect_now) was called.
    UserNow,
    /// The node shut down.
    Shutdown,
    /// The address turned out to be the node's own.
    OwnAddress,
    /// The end took too long, or the peer was gone: not all that was queued could be delivered.
    /// It takes the place of the original reason once the connection is released.
    LingerExpired {
        /// Queued bytes that the operating system didn't take.
        undelivered_bytes: usize,
    },
    /// The runtime dropped the connection's tasks.
    RuntimeGone,
}

/// A method of the user's that the node calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hook {
    /// [`perform_handshake`](crate::Handshake::perform_handshake).
    Handshake,
    /// A decoder.
    Decoder,
    /// [`process_message`](crate::Reading::process_message).
    ProcessMessage,
    /// [`on_connect`](crate::OnConnect::on_connect).
    OnConnect,
    /// [`on_disconnect`](crate::OnDisconnect::on_disconnect).
    OnDisconnect,
}

impl DisconnectReason {
    pub(crate) fn of(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        match error.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset => Self::PeerReset,
            _ => Self::Io(Arc::new(error)),
        }
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerClosed => f.write_str("closed by the peer"),
            Self::Truncated { bytes } => {
                write!(f, "closed by the peer {bytes} bytes into a frame")
            }
            Self::PeerReset => f.write_str("reset by the peer"),
            Self::Io(error) => write!(f, "input or output failed: {error}"),
            Self::Idle => f.write_str("no message for too long"),
            Self::Undecodable(error) => write!(f, "undecodable: {error}"),
            Self::BufferFull { max_buffered_bytes } => {
                write!(f, "no frame ended within `max_buffered_bytes` ({max_buffered_bytes})")
            }
            Self::HandlerError(error) => write!(f, "a message was refused: {error}"),
            Self::TimedOut(hook) => write!(f, "{hook:?} took too long"),
            Self::WriteTimedOut => f.write_str("the peer reads too slowly"),
            Self::Encoder => f.write_str("the encoder broke the stream"),
            Self::Panicked(hook) => write!(f, "{hook:?} panicked"),
            Self::User => f.write_str("disconnected"),
            Self::UserNow => f.write_str("disconnected at once"),
            Self::Shutdown => f.write_str("the node shut down"),
            Self::OwnAddress => f.write_str("the address is our own"),
            Self::LingerExpired { undelivered_bytes } => {
                write!(f, "{undelivered_bytes} queued bytes were not taken in time")
            }
            Self::RuntimeGone => f.write_str("the runtime is gone"),
        }
    }
}
