use crate::{BoxFuture, ConnectOptions, ListenOptions, Stream};
use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll},
};

/// Listens for TCP connections and makes them.
///
/// # Contract
/// - Both methods work from any thread, also from one that the runtime doesn't know.
/// - Both futures can be dropped at any time; the socket is then closed.
/// - Real sockets are made with [`socket::listen`](crate::socket::listen) and
///   [`socket::connect`](crate::socket::connect), so that options mean the same everywhere.
pub trait Network: Send + Sync + 'static {
    /// Binds to `addr` and listens. Port 0 lets the system choose a free port.
    ///
    /// # Errors
    /// Those of the operating system, [`AddrInUse`](io::ErrorKind::AddrInUse) among them.
    fn listen(
        &self,
        addr: SocketAddr,
        options: &ListenOptions,
    ) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;

    /// Connects to `addr`. There is no time limit but the system's: drop the future to give up.
    ///
    /// # Errors
    /// Those of the operating system, [`ConnectionRefused`](io::ErrorKind::ConnectionRefused)
    /// among them.
    fn connect(
        &self,
        addr: SocketAddr,
        options: &ConnectOptions,
    ) -> BoxFuture<'_, io::Result<Stream>>;
}

/// A listening socket. Dropping it closes the port.
pub trait Listener: Send + 'static {
    /// Accepts the next connection, and returns it with the address of its peer.
    ///
    /// # Errors
    /// Those of the operating system; an error is no reason to stop accepting.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, SocketAddr)>>;

    /// Returns the address that the socket is bound to.
    ///
    /// # Errors
    /// Those of the operating system.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}
