use super::{Pea2Pea, install};
use crate::{BoxError, EnableError, Peer, frames};
use asynchronous_codec::Decoder;
use std::{io, sync::Arc, time::Duration};

/// Receives messages.
///
/// ```
/// use anypea::{Node, Pea2Pea, Peer, Reading, bytes::Bytes, codec::LengthDelimited};
/// use std::io;
/// # #[derive(Clone)]
/// # struct MyNode { node: Node }
/// # impl Pea2Pea for MyNode { fn node(&self) -> &Node { &self.node } }
///
/// impl Reading for MyNode {
///     type Codec = LengthDelimited;
///
///     fn codec(&self, _peer: &Peer) -> LengthDelimited {
///         LengthDelimited::new(1024)
///     }
///
///     async fn process_message(&self, peer: &Peer, message: Bytes) -> io::Result<()> {
///         println!("{} bytes from {}", message.len(), peer.addr());
///         Ok(())
///     }
/// }
/// ```
///
/// A node that doesn't enable it reads and discards what comes in, so that it notices the end of
/// a connection all the same.
pub trait Reading: Pea2Pea {
    /// How messages are decoded.
    type Codec: Decoder<Item: Send, Error: Into<BoxError>> + Send + 'static;

    /// Makes the decoder of a new connection.
    fn codec(&self, peer: &Peer) -> Self::Codec;

    /// Processes one message. The messages of a connection are processed in their order, one at a
    /// time; while one is being processed no more is read, so a slow handler slows its peer down.
    ///
    /// It is dropped at its await when the connection is ended from our side meanwhile, and not
    /// when the peer closes it: every complete frame that came before the peer's FIN is processed.
    ///
    /// # Errors
    /// Any error ends the connection gracefully. So does a panic.
    fn process_message(
        &self,
        peer: &Peer,
        message: <Self::Codec as Decoder>::Item,
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// How long a connection may stay without a complete message before it is reset; the time
    /// that handlers take doesn't count. 60 s by default; no limit if `None`. Read once per
    /// connection.
    fn idle_timeout(&self) -> Option<Duration> {
        Some(Duration::from_secs(60))
    }

    /// How long [`process_message`](Self::process_message) may take before the connection is
    /// reset. No limit by default. Read once per connection.
    fn process_timeout(&self) -> Option<Duration> {
        None
    }

    /// How many bytes the decoder may leave unconsumed before the connection is reset: the bound
    /// on what a peer can make us keep, whatever the codec. It must exceed the largest frame.
    /// 1 MiB by default. Read once per connection.
    fn max_buffered_bytes(&self) -> usize {
        1024 * 1024
    }

    /// Enables the protocol, before there are connections.
    ///
    /// # Errors
    /// [`EnableError`], if it is enabled already or there are connections.
    fn enable_reading(&self) -> Result<(), EnableError> {
        if self.max_buffered_bytes() == 0 {
            return Err(EnableError::Zero("max_buffered_bytes"));
        }
        for (setting, time) in
            [("idle_timeout", self.idle_timeout()), ("process_timeout", self.process_timeout())]
        {
            if time.is_some_and(|time| time.is_zero()) {
                return Err(EnableError::Zero(setting));
            }
        }
        let this = self.clone();
        let read = move |peer| Box::pin(frames::process(this.clone(), peer)) as _;
        let read = Arc::new(read);
        self.node().inner.enable("Reading", |on| install(&mut on.reading, read.clone()))
    }
}

/// How reading came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The peer has sent its FIN, and all that came before has been processed.
    Fin,
    /// The connection's end has been asked for: see its [`Ending`](crate::ending::Ending).
    Asked,
}
