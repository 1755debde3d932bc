use crate::AsyncStd;
use anypea_runtime::{
    BoxFuture, ConnectOptions, ListenOptions, Listener, Network, Socket, SocketOptions, Stream,
    futures_io::{AsyncRead, AsyncWrite, IoSlice},
    socket,
    socket2::SockRef,
};
use async_io::Async;
use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

impl Network for AsyncStd {
    fn listen(
        &self,
        addr: SocketAddr,
        options: &ListenOptions,
    ) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        let options = options.clone();
        Box::pin(async move {
            let io = Async::new_nonblocking(socket::listen(addr, &options)?)?;
            Ok(Box::new(Port { io, options: options.socket }) as Box<dyn Listener>)
        })
    }

    fn connect(
        &self,
        addr: SocketAddr,
        options: &ConnectOptions,
    ) -> BoxFuture<'_, io::Result<Stream>> {
        let options = options.clone();
        Box::pin(async move {
            let io = Async::new_nonblocking(socket::connect(addr, &options)?)?;
            loop {
                io.writable().await?;
                match socket::connected(SockRef::from(&io)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    done => return done.map(|()| stream(io)),
                }
            }
        })
    }
}

/// A listening socket.
struct Port {
    io: Async<TcpListener>,
    options: SocketOptions,
}

impl Listener for Port {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, SocketAddr)>> {
        let (io, addr) = loop {
            match self.io.get_ref().accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.io.poll_readable(cx))?;
                }
                done => break done?,
            }
        };
        socket::accepted(SockRef::from(&io), &self.options)?;
        Poll::Ready(Ok((stream(Async::new(io)?), addr)))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }
}

fn stream(io: Async<TcpStream>) -> Stream {
    let connection = Arc::new(Connection(io));
    let half = Half(Arc::clone(&connection));
    Stream::from_parts(Box::new(half.clone()), Box::new(half), connection)
}

/// A connected socket.
struct Connection(Async<TcpStream>);

impl Socket for Connection {
    fn sock_ref(&self) -> Option<SockRef<'_>> {
        Some(SockRef::from(&self.0))
    }
}

/// Either half of a connection: async-io keeps one waker for each direction, and its calls need no
/// exclusive access.
#[derive(Clone)]
struct Half(Arc<Connection>);

impl AsyncRead for Half {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &self.0.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Half {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &self.0.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &self.0.0).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // async-io's own sends no FIN.
        Poll::Ready(socket::close(SockRef::from(&self.0.0)))
    }
}
