use super::{Pea2Pea, Side, Timed, install};
use crate::{EnableError, Peer};
use anypea_runtime::{
    Stream,
    futures_io::{AsyncRead, AsyncWrite},
};
use asynchronous_codec::{Decoder, Encoder};
use bytes::{Buf, BytesMut};
use std::{
    io,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

/// Decides who may connect, and what is said before the first message.
///
/// ```
/// use anypea::{Connection, Handshake, Node, Pea2Pea, codec::LengthDelimited};
/// use futures::{SinkExt, TryStreamExt};
/// use std::io;
/// # #[derive(Clone)]
/// # struct MyNode { node: Node }
/// # impl Pea2Pea for MyNode { fn node(&self) -> &Node { &self.node } }
///
/// struct Name(String);
///
/// impl Handshake for MyNode {
///     async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
///         let mut framed = conn.framed(LengthDelimited::new(100));
///         framed.send(self.node().name().to_owned().into()).await?;
///         let name = framed.try_next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
///         drop(framed);
///         conn.peer().insert(Name(String::from_utf8_lossy(&name).into_owned()));
///         Ok(conn)
///     }
/// }
/// ```
pub trait Handshake: Pea2Pea {
    /// Exchanges whatever both sides need before the connection is registered, and returns the
    /// connection.
    ///
    /// It is dropped at its await when its time is up, when the dial is given up, or when the
    /// node shuts down.
    ///
    /// # Errors
    /// Any error rejects the connection; [`connect`](crate::Node::connect) returns it.
    fn perform_handshake(
        &self,
        conn: Connection,
    ) -> impl Future<Output = io::Result<Connection>> + Send;

    /// Asked before anything else is done for a connection: the place for a list of banned
    /// addresses. It runs under no lock, but must not block. Everybody by default.
    fn admit(&self, addr: SocketAddr, side: Side) -> bool {
        let _ = (addr, side);
        true
    }

    /// How long the handshake may take. 3 s by default. Read when the protocol is enabled.
    fn handshake_timeout(&self) -> Duration {
        Duration::from_secs(3)
    }

    /// Enables the protocol, before there are connections.
    ///
    /// # Errors
    /// [`EnableError`], if it is enabled already or there are connections.
    fn enable_handshake(&self) -> Result<(), EnableError> {
        let limit = self.handshake_timeout();
        if limit.is_zero() {
            return Err(EnableError::Zero("handshake_timeout"));
        }
        let this = self.clone();
        let call = move |conn| {
            let this = this.clone();
            Box::pin(async move { this.perform_handshake(conn).await }) as _
        };
        let hook = Arc::new(Timed { limit, call });
        let this = self.clone();
        let admit = Arc::new(move |addr, side| this.admit(addr, side));
        self.node().inner.enable("Handshake", |on| {
            install(&mut on.admit, admit.clone()) && install(&mut on.handshake, hook.clone())
        })
    }
}

/// A connection that is being set up: the raw stream, before any protocol.
///
/// It can be read and written as such, through a codec ([`framed`](Self::framed)), or replaced
/// ([`upgrade`](Self::upgrade)).
#[derive(Debug)]
pub struct Connection {
    peer: Peer,
    stream: Option<Stream>,
    /// Read from the stream, but not consumed yet.
    over_read: BytesMut,
    /// Encoded but never flushed by a codec that was lent the stream.
    unflushed: usize,
}

impl Connection {
    pub(crate) fn new(peer: Peer, stream: Stream) -> Self {
        Self { peer, stream: Some(stream), over_read: BytesMut::new(), unflushed: 0 }
    }

    /// Takes the connection of `peer` apart again, if it is fit to be used.
    pub(crate) fn finish(mut self, peer: &Peer) -> io::Result<Stream> {
        if self.peer != *peer {
            return Err(io::Error::other("the handshake returned another connection"));
        }
        if self.unflushed > 0 {
            let unflushed = self.unflushed;
            return Err(io::Error::other(format!("{unflushed} bytes were never flushed")));
        }
        self.take_stream()
    }

    /// Takes the stream; what was read too early comes first in it.
    fn take_stream(&mut self) -> io::Result<Stream> {
        let stream = self.stream.take().ok_or_else(lent)?;
        let ahead = std::mem::take(&mut self.over_read);
        if ahead.is_empty() {
            return Ok(stream);
        }
        let (reader, writer, socket) = stream.into_parts();
        let reader = Rewound { ahead, reader };
        Ok(Stream::from_parts(Box::new(reader), writer, socket))
    }

    /// Returns the peer, to be filled with what is learned. It can't be sent to yet.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Returns the address of the peer.
    pub fn addr(&self) -> SocketAddr {
        self.peer.addr()
    }

    /// Returns which side of the connection the node is.
    pub fn side(&self) -> Side {
        self.peer.side()
    }

    /// Lends the stream to a codec, until the returned guard is dropped. Bytes that it has read
    /// but not decoded by then are not lost; bytes that it has encoded but not flushed fail the
    /// handshake.
    ///
    /// # Panics
    /// If an earlier guard was leaked, or an earlier [`upgrade`](Self::upgrade) failed: the
    /// stream is gone then.
    pub fn framed<C: Encoder + Decoder>(&mut self, codec: C) -> Framed<'_, C> {
        let stream = self.stream.take().expect("the stream is not here any more");
        let mut parts = asynchronous_codec::Framed::new(stream, codec).into_parts();
        parts.read_buffer = std::mem::take(&mut self.over_read);
        let framed = asynchronous_codec::Framed::from_parts(parts);
        Framed { conn: self, framed: Some(framed) }
    }

    /// Replaces the stream, by an encrypted one for example. What was read too early comes first
    /// in what `upgrade` is given. The socket, its addresses and its options stay those of the
    /// original stream.
    ///
    /// # Errors
    /// That of `upgrade`; the stream is gone then, and the handshake has failed.
    pub async fn upgrade<F, T>(&mut self, upgrade: impl FnOnce(Stream) -> F) -> io::Result<()>
    where
        F: Future<Output = io::Result<T>>,
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let stream = self.take_stream()?;
        let socket = stream.socket().clone();
        self.stream = Some(Stream::with_socket(upgrade(stream).await?, socket));
        Ok(())
    }

    fn stream(&mut self) -> io::Result<Pin<&mut Stream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(lent)
    }
}

fn lent() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the stream is not here any more")
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if !self.over_read.is_empty() {
            return Poll::Ready(Ok(take_ahead(&mut self.over_read, buf)));
        }
        self.stream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_close(cx)
    }
}

/// A reading half with bytes that were read ahead in front of it.
struct Rewound<R> {
    ahead: BytesMut,
    reader: R,
}

impl<R: AsyncRead + Unpin> AsyncRead for Rewound<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if !self.ahead.is_empty() {
            return Poll::Ready(Ok(take_ahead(&mut self.ahead, buf)));
        }
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

fn take_ahead(ahead: &mut BytesMut, buf: &mut [u8]) -> usize {
    let count = ahead.len().min(buf.len());
    ahead.copy_to_slice(&mut buf[..count]);
    count
}

/// A stream lent to a codec by [`Connection::framed`]: an [`asynchronous_codec::Framed`] that
/// gives the stream back when dropped.
pub struct Framed<'a, C: Encoder + Decoder> {
    conn: &'a mut Connection,
    framed: Option<asynchronous_codec::Framed<Stream, C>>,
}

impl<C: Encoder + Decoder> Deref for Framed<'_, C> {
    type Target = asynchronous_codec::Framed<Stream, C>;

    fn deref(&self) -> &Self::Target {
        self.framed.as_ref().expect("present until dropped")
    }
}

impl<C: Encoder + Decoder> DerefMut for Framed<'_, C> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.framed.as_mut().expect("present until dropped")
    }
}

impl<C: Encoder + Decoder> futures::Stream for Framed<'_, C> {
    type Item = Result<<C as Decoder>::Item, <C as Decoder>::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut **self).poll_next(cx)
    }
}

impl<'a, C, I> futures::Sink<I> for Framed<'_, C>
where
    C: Encoder<Item<'a> = I> + Decoder,
{
    type Error = <C as Encoder>::Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut **self).poll_ready(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, item: I) -> Result<(), Self::Error> {
        Pin::new(&mut **self).start_send(item)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut **self).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut **self).poll_close(cx)
    }
}

impl<C: Encoder + Decoder> Drop for Framed<'_, C> {
    fn drop(&mut self) {
        if let Some(framed) = self.framed.take() {
            let parts = framed.into_parts();
            self.conn.over_read = parts.read_buffer;
            self.conn.unflushed += parts.write_buffer.len();
            self.conn.stream = Some(parts.io);
        }
    }
}
