use super::{Pea2Pea, Target, install};
use crate::{
    BoxError, DisconnectReason, EnableError, NotDelivered, Peer, SendError,
    ending::Manner,
    outbox::{Fault, Outbox, Sender, Ticket},
};
use asynchronous_codec::Encoder;
use bytes::Bytes;
use std::{
    borrow::Cow,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

/// A message that was queued, or why it wasn't.
pub type Queued<'a, M> = Result<Delivery<'a>, SendError<M>>;

/// Sends messages.
///
/// A message is encoded in the caller, straight into the connection's send buffer, so an encoding
/// error is known at once and concerns nobody else.
///
/// ```
/// use anypea::{Node, Pea2Pea, Peer, Writing, bytes::Bytes, codec::LengthDelimited};
/// # #[derive(Clone)]
/// # struct MyNode { node: Node }
/// # impl Pea2Pea for MyNode { fn node(&self) -> &Node { &self.node } }
///
/// impl Writing for MyNode {
///     type Message = Bytes;
///     type Codec = LengthDelimited;
///
///     fn codec(&self, _peer: &Peer) -> LengthDelimited {
///         LengthDelimited::new(1024)
///     }
/// }
///
/// fn greet(node: &MyNode, peer: &Peer) {
///     if let Err(error) = node.unicast(peer, "hello".into()) {
///         println!("not sent: {error}");
///     }
/// }
/// ```
pub trait Writing: Pea2Pea {
    /// What is sent.
    type Message: Send + 'static;

    /// How it is encoded. Messages may be sent from several threads, but one connection's encoder
    /// is used by one at a time.
    ///
    /// Inside `encode`, a send is refused ([`SendError::Reentrant`]), and a waiting
    /// [`send`](Self::send) must not be polled or dropped.
    type Codec: for<'a> Encoder<Item<'a> = Self::Message, Error: Into<BoxError>> + Send + 'static;

    /// Makes the encoder of a new connection.
    fn codec(&self, peer: &Peer) -> Self::Codec;

    /// How many bytes may be queued before a connection's queue counts as full. The message that
    /// crosses the limit is still taken, so it can be exceeded by one frame. 256 KiB by default:
    /// more than that falls out of the processor's cache on its way to the socket. Read once per
    /// connection.
    fn queue_bytes(&self) -> usize {
        256 * 1024
    }

    /// How long the peer may take for each 256 KiB, or for what is queued if that is less, before
    /// the connection is reset. 10 s by default. Read once per connection.
    fn write_timeout(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// Whether the encoder can't go on after it has returned an error, because its state no
    /// longer matches the decoder's. The connection is then reset. `false` by default. Read once
    /// per connection.
    fn encode_error_is_fatal(&self) -> bool {
        false
    }

    /// Queues a message for one peer, and returns at once.
    ///
    /// The returned [`Delivery`] can be awaited, or ignored.
    ///
    /// # Errors
    /// [`SendError`]; where the message was not touched, it comes back.
    fn unicast<'a>(
        &self,
        to: impl Into<Target<'a>>,
        message: Self::Message,
    ) -> Queued<'a, Self::Message> {
        match self.node().inner.resolve(to.into()) {
            Some(peer) => enqueue::<Self>(peer, message, None),
            None => Err(SendError::NotConnected(message)),
        }
    }

    /// Queues a message for one peer as soon as there is room; senders are served in the order of
    /// their coming.
    ///
    /// Cancel safe: if the future is dropped before it is ready, the message was not queued.
    ///
    /// # Errors
    /// As for [`unicast`](Self::unicast), but never [`SendError::Full`].
    fn send<'a>(
        &self,
        to: impl Into<Target<'a>> + Send,
        message: Self::Message,
    ) -> impl Future<Output = Queued<'a, Self::Message>> + Send {
        let peer = self.node().inner.resolve(to.into());
        async move {
            let Some(peer) = peer else { return Err(SendError::NotConnected(message)) };
            match enqueue::<Self>(peer.clone(), message, None) {
                Err(SendError::Full(message)) => in_line::<Self>(peer, message).await,
                done => done,
            }
        }
    }

    /// Queues a message for every peer, encoded by each one's own encoder, and answers for each.
    fn broadcast(&self, message: Self::Message) -> Vec<(Peer, Queued<'static, Self::Message>)>
    where
        Self::Message: Clone,
    {
        let send = |peer: Peer| {
            let answer = enqueue::<Self>(Cow::Owned(peer.clone()), message.clone(), None);
            (peer, answer)
        };
        self.node().peers().into_iter().map(send).collect()
    }

    /// Queues ready bytes at a frame border, for one peer: a frame that was encoded once for many,
    /// or deliberately malformed bytes in a test. Bytes from 16 KiB on are not copied.
    ///
    /// # Errors
    /// As for [`unicast`](Self::unicast).
    fn send_encoded<'a>(&self, to: impl Into<Target<'a>>, bytes: Bytes) -> Queued<'a, Bytes> {
        let Some(peer) = self.node().inner.resolve(to.into()) else {
            return Err(SendError::NotConnected(bytes));
        };
        let mut bytes = Some(bytes);
        match peer.conn.outbox.enqueue_encoded(&mut bytes) {
            Ok(end) => Ok(Delivery { peer, end, ticket: None }),
            Err(fault) => Err(refused(&peer, fault, bytes)),
        }
    }

    /// Enables the protocol, before there are connections.
    ///
    /// # Errors
    /// [`EnableError`], if it is enabled already or there are connections.
    fn enable_writing(&self) -> Result<(), EnableError> {
        if self.queue_bytes() == 0 {
            return Err(EnableError::Zero("queue_bytes"));
        }
        if self.write_timeout().is_zero() {
            return Err(EnableError::Zero("write_timeout"));
        }
        let this = self.clone();
        let open = move |peer: &Peer| Sender {
            encoder: Some(Box::new(this.codec(peer))),
            queue_bytes: this.queue_bytes(),
            write_timeout: this.write_timeout(),
            encode_error_is_fatal: this.encode_error_is_fatal(),
        };
        let open = Arc::new(open);
        self.node().inner.enable("Writing", |on| install(&mut on.writing, open.clone()))
    }
}

#[inline]
fn enqueue<'a, W: Writing>(
    peer: Cow<'a, Peer>,
    message: W::Message,
    ticket: Ticket,
) -> Queued<'a, W::Message> {
    let mut message = Some(message);
    match peer.conn.outbox.enqueue::<W::Codec, _>(&mut message, ticket) {
        Ok(end) => Ok(Delivery { peer, end, ticket: None }),
        Err(fault) => Err(refused(&peer, fault, message)),
    }
}

/// Ends the connection, if the encoder has spoilt it, and says why a message was not queued.
#[cold]
fn refused<M>(peer: &Peer, fault: Fault, message: Option<M>) -> SendError<M> {
    match (fault, message) {
        (Fault::Full, Some(message)) => SendError::Full(message),
        (Fault::Closed, Some(message)) => SendError::NotConnected(message),
        (Fault::NotEnabled, Some(message)) => SendError::NotEnabled(message),
        (Fault::Reentrant, Some(message)) => SendError::Reentrant(message),
        (Fault::Encode(error, fatal), _) => {
            if fatal {
                peer.conn.ending.begin(DisconnectReason::Encoder, Manner::Abort);
            }
            SendError::Encode(error)
        }
        (fault, _) => {
            if let Fault::Broken(Some(panic)) = fault {
                peer.conn.inner.log_panic("an encoder", panic);
            }
            peer.conn.ending.begin(DisconnectReason::Encoder, Manner::Abort);
            SendError::EncoderBroken
        }
    }
}

/// Waits in line until the message can be queued.
async fn in_line<'a, W: Writing>(
    peer: Cow<'a, Peer>,
    message: W::Message,
) -> Queued<'a, W::Message> {
    /// A place in the line, given up when dropped.
    struct Place<'p> {
        outbox: &'p Outbox,
        ticket: Ticket,
    }

    impl Drop for Place<'_> {
        fn drop(&mut self) {
            if self.ticket.is_some() {
                self.outbox.leave_line(self.ticket);
            }
        }
    }

    let mut message = message;
    let mut place = Place { outbox: &peer.conn.outbox, ticket: None };
    loop {
        poll_fn(|cx| place.outbox.poll_room(cx, &mut place.ticket)).await;
        match enqueue::<W>(peer.clone(), message, place.ticket) {
            Err(SendError::Full(back)) => message = back,
            done => return done,
        }
    }
}

/// Tells when a queued message is in the operating system's hands.
///
/// Awaiting it is optional, and costs nothing if it isn't done. It doesn't tell that the peer has
/// received the message: only an answer does.
#[derive(Debug)]
pub struct Delivery<'a> {
    peer: Cow<'a, Peer>,
    end: u64,
    ticket: Ticket,
}

impl Delivery<'_> {
    /// Frees it from the borrow of the [`Peer`], to be kept or awaited in another task.
    pub fn into_owned(mut self) -> Delivery<'static> {
        self.forget();
        Delivery { peer: Cow::Owned(self.peer.clone().into_owned()), end: self.end, ticket: None }
    }

    fn forget(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.peer.conn.outbox.forget_delivery(self.end, ticket);
        }
    }
}

impl Future for Delivery<'_> {
    type Output = Result<(), NotDelivered>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { peer, end, ticket } = &mut *self;
        peer.conn.outbox.poll_delivered(cx, *end, ticket)
    }
}

impl Drop for Delivery<'_> {
    #[inline]
    fn drop(&mut self) {
        self.forget();
    }
}
