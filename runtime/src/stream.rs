use crate::Socket;
use futures_io::{AsyncRead, AsyncWrite, IoSlice, IoSliceMut};
use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

/// The reading half of a [`Stream`].
pub type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;

/// The writing half of a [`Stream`].
pub type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// A connected byte stream, born split: a reading half, a writing half and the socket under them.
///
/// For the time before the halves part, a handshake for example, it implements [`AsyncRead`] and
/// [`AsyncWrite`] itself.
///
/// # Contract for what an adapter puts into it
/// - `poll_close` on the writing half shuts the sending direction down (it sends a FIN), once; it
///   can be called again and is then without effect.
/// - Dropping one half while the other lives sends nothing. Dropping both, and all handles of the
///   socket, closes the connection.
/// - Vectored writes reach the socket as such.
/// - Each direction remembers one waker, the one polled last.
pub struct Stream {
    reader: ReadHalf,
    writer: WriteHalf,
    socket: Arc<dyn Socket>,
}

impl Stream {
    /// Makes a stream of native halves and the socket that they share.
    pub fn from_parts(reader: ReadHalf, writer: WriteHalf, socket: Arc<dyn Socket>) -> Self {
        Self { reader, writer, socket }
    }

    /// Makes a stream of anything that reads and writes: a Unix socket, a pipe in memory, a
    /// tunnel. The two halves share it behind a lock, and its [`Socket`] knows no address.
    pub fn new(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self::with_socket(io, Arc::new(NoSocket))
    }

    /// As [`new`](Self::new), for an `io` that runs over a real socket, as TLS does: addresses,
    /// options and [`abort`](Socket::abort) go to `socket`.
    pub fn with_socket(
        io: impl AsyncRead + AsyncWrite + Send + 'static,
        socket: Arc<dyn Socket>,
    ) -> Self {
        let io = Shared(Arc::new(Mutex::new(Box::pin(io) as Pin<Box<dyn Duplex>>)));
        Self { reader: Box::new(io.clone()), writer: Box::new(io), socket }
    }

    /// Parts the stream into its halves and its socket.
    pub fn into_parts(self) -> (ReadHalf, WriteHalf, Arc<dyn Socket>) {
        (self.reader, self.writer, self.socket)
    }

    /// Returns the socket under the stream.
    pub fn socket(&self) -> &Arc<dyn Socket> {
        &self.socket
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("local_addr", &self.socket.local_addr().ok())
            .field("peer_addr", &self.socket.peer_addr().ok())
            .finish()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.reader).poll_read_vectored(cx, bufs)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_close(cx)
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// Either half of a stream that can't be split natively. The lock is held for the length of one
/// poll and never across an await.
#[derive(Clone)]
struct Shared(Arc<Mutex<Pin<Box<dyn Duplex>>>>);

impl Shared {
    fn with<R>(&self, poll: impl FnOnce(Pin<&mut dyn Duplex>) -> R) -> R {
        // A poll that panicked has ended its task; the other half may still be read or closed.
        poll(self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut())
    }
}

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_read(cx, buf))
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_read_vectored(cx, bufs))
    }
}

impl AsyncWrite for Shared {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write_vectored(cx, bufs))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_flush(cx))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_close(cx))
    }
}

/// The socket of a stream that has none.
struct NoSocket;

impl Socket for NoSocket {}
