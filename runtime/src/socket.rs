//! The socket under a stream, and the one place where real sockets are made.

use crate::{ConnectOptions, ListenOptions, SocketOptions};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket as RawSocket, TcpKeepalive, Type};
use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

/// The socket under a [`Stream`](crate::Stream), as far as it is of use beside the two halves.
///
/// An adapter for real sockets implements [`sock_ref`](Self::sock_ref), from which the rest
/// follows. What has no real socket says the rest itself, as far as it has something to say.
pub trait Socket: Send + Sync + 'static {
    /// Returns the address of this end.
    ///
    /// # Errors
    /// Those of the operating system; [`Unsupported`](io::ErrorKind::Unsupported) if there is no
    /// socket.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.sock_ref().ok_or(io::ErrorKind::Unsupported)?.local_addr().and_then(internet)
    }

    /// Returns the address of the other end.
    ///
    /// # Errors
    /// As for [`local_addr`](Self::local_addr); a connection that was reset has no other end.
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.sock_ref().ok_or(io::ErrorKind::Unsupported)?.peer_addr().and_then(internet)
    }

    /// Has the connection end with a reset (RFC 9293, 3.10.5): what is queued on either side is
    /// thrown away. It takes effect when the halves and all handles of this socket are dropped.
    fn abort(&self) {
        if let Some(socket) = self.sock_ref() {
            // It fails only on a socket that is of no use any more, which a plain close ends too.
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }

    /// Lends the real socket, for options that are not covered here; `None` if there is none.
    fn sock_ref(&self) -> Option<SockRef<'_>> {
        None
    }
}

fn internet(addr: SockAddr) -> io::Result<SocketAddr> {
    addr.as_socket().ok_or(io::ErrorKind::Unsupported.into())
}

/// Makes a listening socket: non-blocking, its address reusable while old connections linger in
/// `TIME_WAIT`.
///
/// # Errors
/// Those of the operating system.
pub fn listen(addr: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    let socket = tcp(addr)?;
    // On Windows the same option would let a second listener steal the port.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    reuse_port(&socket, options.reuse_port)?;
    // Buffer sizes must be set before the connection exists to have an effect on the window
    // scale (tcp(7)); Linux hands all of these options on to accepted sockets.
    configure(SockRef::from(&socket), &options.socket)?;
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Gives an accepted socket its options, where the system has not done so.
///
/// # Errors
/// Those of the operating system.
pub fn accepted(socket: SockRef<'_>, options: &SocketOptions) -> io::Result<()> {
    if cfg!(target_os = "linux") {
        return Ok(());
    }
    configure(socket, options)
}

/// Makes a non-blocking socket and begins to connect it. It is connected, or has failed, once it
/// is writable: see [`connected`].
///
/// # Errors
/// Those of the operating system.
pub fn connect(addr: SocketAddr, options: &ConnectOptions) -> io::Result<TcpStream> {
    let socket = tcp(addr)?;
    configure(SockRef::from(&socket), &options.socket)?;
    reuse_port(&socket, options.reuse_port)?;
    if let Some(local) = options.local {
        #[cfg(not(windows))]
        socket.set_reuse_address(true)?;
        socket.bind(&local.into())?;
    }
    match socket.connect(&addr.into()) {
        Err(error) if !in_progress(&error) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Tells whether a socket of [`connect`] that has become writable is connected.
///
/// # Errors
/// The error with which the connection failed; [`WouldBlock`](io::ErrorKind::WouldBlock) if it is
/// still being made.
pub fn connected(socket: SockRef<'_>) -> io::Result<()> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => {
            Err(io::ErrorKind::WouldBlock.into())
        }
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// Sends a FIN. A connection that has ended already counts as closed.
///
/// # Errors
/// Those of the operating system.
pub fn close(socket: SockRef<'_>) -> io::Result<()> {
    match socket.shutdown(Shutdown::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        done => done,
    }
}

fn tcp(addr: SocketAddr) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn reuse_port(socket: &RawSocket, reuse: bool) -> io::Result<()> {
    #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
    if reuse {
        socket.set_reuse_port(true)?;
    }
    #[cfg(not(all(unix, not(any(target_os = "solaris", target_os = "illumos")))))]
    let _ = (socket, reuse);
    Ok(())
}

fn configure(socket: SockRef<'_>, options: &SocketOptions) -> io::Result<()> {
    if options.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(keepalive) = &options.keepalive {
        let params = TcpKeepalive::new().with_time(keepalive.time);
        #[cfg(not(any(target_os = "openbsd", target_os = "solaris")))]
        let params = params.with_interval(keepalive.interval).with_retries(keepalive.retries);
        socket.set_tcp_keepalive(&params)?;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if options.user_timeout.is_some() {
        socket.set_tcp_user_timeout(options.user_timeout)?;
    }
    if let Some(bytes) = options.send_buffer_bytes {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.recv_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    Ok(())
}

fn in_progress(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(libc::EINPROGRESS) {
        return true;
    }
    error.kind() == io::ErrorKind::WouldBlock
}
