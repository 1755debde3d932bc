//! Sockets, as the programs hold them.

use crate::{host::Host, shared::Shared, tcp::gone, world::World};
use anypea_runtime::{
    BoxFuture, ConnectOptions, ListenOptions, Listener, Network, Socket, Stream,
    futures_io::{AsyncRead, AsyncWrite, IoSlice},
};
use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

impl Network for Host {
    fn listen(
        &self,
        addr: SocketAddr,
        options: &ListenOptions,
    ) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        let options = options.clone();
        Box::pin(async move {
            self.usable("listening")?;
            let listening = self.shared().with(|world| world.listen(self.number(), addr, &options));
            let (listener, serial, bound) = listening?;
            let addr = SocketAddr::new(addr.ip(), bound.port());
            Ok(Box::new(Port { host: self.clone(), listener, serial, addr }) as Box<dyn Listener>)
        })
    }

    fn connect(
        &self,
        addr: SocketAddr,
        options: &ConnectOptions,
    ) -> BoxFuture<'_, io::Result<Stream>> {
        let options = options.clone();
        Box::pin(async move {
            self.usable("connecting")?;
            let end = self.shared().with(|world| world.dial(self.number(), addr, &options))?;
            let connection = Connection::new(self, end, is_mapped(addr.ip()));
            poll_fn(|cx| {
                self.usable("connecting")?;
                self.shared().with(|world| world.poll_connect(end, connection.serial, cx))
            })
            .await?;
            Ok(stream(connection))
        })
    }
}

impl Host {
    fn usable(&self, what: &str) -> io::Result<()> {
        let usable = self.shared().enter(what, self.number()) && self.is_alive();
        if usable { Ok(()) } else { Err(gone()) }
    }
}

fn is_mapped(ip: IpAddr) -> bool {
    ip.to_canonical() != ip
}

/// A listening socket.
struct Port {
    host: Host,
    listener: u32,
    serial: u32,
    addr: SocketAddr,
}

impl Listener for Port {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, SocketAddr)>> {
        let Self { host, listener, serial, addr } = self;
        host.usable("accepting")?;
        let end = ready!(host.shared().with(|world| world.poll_accept(*listener, *serial, cx)))?;
        // A socket for both families shows IPv4 addresses as IPv6 ones (RFC 3493, 3.7).
        let connection = Connection::new(host, end, addr.is_ipv6());
        let peer = connection.peer;
        Poll::Ready(Ok((stream(connection), peer)))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.host.shared().with(|world| world.unlisten(self.listener, self.serial));
    }
}

fn stream(connection: Connection) -> Stream {
    let Connection { end, serial, .. } = connection;
    let (shared, host) = (connection.host.shared().clone(), connection.host.number());
    let connection = Arc::new(connection);
    let half = Half { shared, host, end, serial, _connection: connection.clone() };
    Stream::from_parts(Box::new(half.clone()), Box::new(half), connection)
}

/// A connected socket, or one that is about to connect.
struct Connection {
    host: Host,
    end: u32,
    serial: u32,
    local: SocketAddr,
    peer: SocketAddr,
    aborted: AtomicBool,
}

impl Connection {
    fn new(host: &Host, end: u32, mapped: bool) -> Self {
        let (serial, local, peer) = host.shared().with(|world| {
            let end = &world.ends[end as usize];
            (end.serial, end.cold.local, end.cold.remote)
        });
        let shown = |addr: SocketAddr| match addr {
            SocketAddr::V4(v4) if mapped => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            addr => addr,
        };
        let (local, peer) = (shown(local), shown(peer));
        Self { host: host.clone(), end, serial, local, peer, aborted: AtomicBool::new(false) }
    }
}

impl Socket for Connection {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }

    fn abort(&self) {
        self.aborted.store(true, Relaxed);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let aborted = self.aborted.load(Relaxed);
        self.host.shared().with(|world| world.close(self.end, self.serial, aborted));
    }
}

/// Either half of a connection; each direction remembers one waker.
///
/// It knows itself what it needs, since with many connections each step through memory counts.
#[derive(Clone)]
struct Half {
    shared: Arc<Shared>,
    host: u32,
    end: u32,
    serial: u32,
    /// Closes the connection when the other half is dropped, too.
    _connection: Arc<Connection>,
}

impl Half {
    fn with<T>(
        &self,
        change: impl FnOnce(&mut World, u32, u32) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if !self.shared.enter("a socket", self.host) {
            return Poll::Ready(Err(gone()));
        }
        self.shared.with(|world| change(world, self.end, self.serial))
    }
}

impl AsyncRead for Half {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|world, end, serial| world.poll_read(end, serial, cx, buf))
    }
}

impl AsyncWrite for Half {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|world, end, serial| world.poll_write(end, serial, cx, bufs))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|world, end, serial| Poll::Ready(world.close_write(end, serial)))
    }
}
