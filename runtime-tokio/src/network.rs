use crate::Tokio;
use anypea_runtime::{
    BoxFuture, ConnectOptions, ListenOptions, Listener, Network, Socket, SocketOptions, Stream,
    futures_io::{AsyncRead, AsyncWrite, IoSlice},
    socket,
    socket2::SockRef,
};
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream},
    runtime::Handle,
};

impl Network for Tokio {
    fn listen(
        &self,
        addr: SocketAddr,
        options: &ListenOptions,
    ) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        let options = options.clone();
        Box::pin(async move {
            let socket = socket::listen(addr, &options)?;
            let _inside = self.handle.enter();
            let io = TcpListener::from_std(socket)?;
            let handle = self.handle.clone();
            Ok(Box::new(Port { io, options: options.socket, handle }) as Box<dyn Listener>)
        })
    }

    fn connect(
        &self,
        addr: SocketAddr,
        options: &ConnectOptions,
    ) -> BoxFuture<'_, io::Result<Stream>> {
        let options = options.clone();
        Box::pin(async move {
            let socket = socket::connect(addr, &options)?;
            let io = {
                let _inside = self.handle.enter();
                TcpStream::from_std(socket)?
            };
            io.async_io(Interest::WRITABLE, || socket::connected(SockRef::from(&io))).await?;
            Ok(stream(io))
        })
    }
}

/// A listening socket.
struct Port {
    io: TcpListener,
    options: SocketOptions,
    handle: Handle,
}

impl Listener for Port {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, SocketAddr)>> {
        // tokio registers what it accepts with the runtime that it finds itself in.
        let _inside = self.handle.enter();
        let (io, addr) = ready!(self.io.poll_accept(cx))?;
        socket::accepted(SockRef::from(&io), &self.options)?;
        Poll::Ready(Ok((stream(io), addr)))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }
}

fn stream(io: TcpStream) -> Stream {
    let connection = Arc::new(Connection(io));
    let half = Half(Arc::clone(&connection));
    Stream::from_parts(Box::new(half.clone()), Box::new(half), connection)
}

/// A connected socket.
struct Connection(TcpStream);

impl Socket for Connection {
    fn sock_ref(&self) -> Option<SockRef<'_>> {
        Some(SockRef::from(&self.0))
    }
}

/// Either half of a connection: tokio keeps one waker for each direction, and its calls need no
/// exclusive access. (Its own write half would send a FIN when it is dropped.)
#[derive(Clone)]
struct Half(Arc<Connection>);

impl Half {
    /// Transfers up to `wanted` bytes with `transfer`, once the socket is ready for it.
    fn poll_transfer(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        wanted: usize,
        mut transfer: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let Connection(io) = &*self.0;
        loop {
            if interest.is_readable() {
                ready!(io.poll_read_ready(cx))?;
            } else {
                ready!(io.poll_write_ready(cx))?;
            }
            let mut short = None;
            let done = io.try_io(interest, || match transfer(io)? {
                // Fewer than wanted: the kernel has no more data, or no more room (epoll(7)).
                // Saying so as if the next call had been refused saves that call.
                bytes if 0 < bytes && bytes < wanted => {
                    short = Some(bytes);
                    Err(io::ErrorKind::WouldBlock.into())
                }
                bytes => Ok(bytes),
            });
            match short.map_or(done, Ok) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncRead for Half {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_transfer(cx, Interest::READABLE, buf.len(), |io| io.try_read(buf))
    }
}

impl AsyncWrite for Half {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_transfer(cx, Interest::WRITABLE, buf.len(), |io| io.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = bufs.iter().map(|buf| buf.len()).sum();
        self.poll_transfer(cx, Interest::WRITABLE, wanted, |io| io.try_write_vectored(bufs))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket::close(SockRef::from(&self.0.0)))
    }
}
