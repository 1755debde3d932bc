//! asynchronous-codec's `Framed`, wired by hand on async-net (with smol's executor) and on
//! async-std, as little as does the job. Both have the same shape, so that one file does for two.
//!
//! `Framed` reads 8 KiB at most at a time and can't be told otherwise; where buffers are tuned,
//! a `BufReader` stands in front of it. Its write buffer is tuned by its high-water mark.

use super::ANY_PORT;
use crate::{
    bed::{self, Bed},
    contender::{self, Contender, Duty, Setup, Tuning},
    framing::Framing,
};
use asynchronous_codec::{FramedRead, FramedWrite};
use bytes::Bytes;
use futures::{
    AsyncRead, AsyncWrite, SinkExt, StreamExt,
    channel::oneshot,
    future::{AbortHandle, abortable},
    io::BufReader,
    lock::Mutex,
};
use socket2::{Domain, Socket, Type};
use std::{
    io,
    marker::PhantomData,
    net::{Shutdown, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::*},
    },
};

/// A runtime, wired by hand.
pub struct HandWired<B>(PhantomData<B>);

/// A runtime's sockets.
pub trait Net: Bed {
    /// A connection. Its clones share it.
    type Stream: AsyncRead + AsyncWrite + Clone + Unpin + Send + Sync + 'static;
    /// A listener.
    type Listener: Send + Sync + 'static;

    /// Takes a listener over.
    fn listener(listener: std::net::TcpListener) -> io::Result<Self::Listener>;

    /// Accepts a connection.
    fn accept(listener: &Self::Listener) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Makes a connection.
    fn connect(addr: SocketAddr) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Sets `TCP_NODELAY`.
    fn set_nodelay(stream: &Self::Stream) -> io::Result<()>;

    /// Sends a FIN.
    fn finish(stream: &Self::Stream) -> io::Result<()>;
}

impl Net for bed::Smol {
    type Stream = async_net::TcpStream;
    type Listener = async_net::TcpListener;

    fn listener(listener: std::net::TcpListener) -> io::Result<Self::Listener> {
        listener.try_into()
    }

    async fn accept(listener: &Self::Listener) -> io::Result<Self::Stream> {
        Ok(listener.accept().await?.0)
    }

    async fn connect(addr: SocketAddr) -> io::Result<Self::Stream> {
        async_net::TcpStream::connect(addr).await
    }

    fn set_nodelay(stream: &Self::Stream) -> io::Result<()> {
        stream.set_nodelay(true)
    }

    fn finish(stream: &Self::Stream) -> io::Result<()> {
        stream.shutdown(Shutdown::Write)
    }
}

impl Net for bed::AsyncStd {
    type Stream = async_std::net::TcpStream;
    type Listener = async_std::net::TcpListener;

    fn listener(listener: std::net::TcpListener) -> io::Result<Self::Listener> {
        Ok(listener.into())
    }

    async fn accept(listener: &Self::Listener) -> io::Result<Self::Stream> {
        Ok(listener.accept().await?.0)
    }

    async fn connect(addr: SocketAddr) -> io::Result<Self::Stream> {
        async_std::net::TcpStream::connect(addr).await
    }

    fn set_nodelay(stream: &Self::Stream) -> io::Result<()> {
        stream.set_nodelay(true)
    }

    fn finish(stream: &Self::Stream) -> io::Result<()> {
        stream.shutdown(Shutdown::Write)
    }
}

/// A listening socket with a long backlog, which neither runtime can be told.
fn listen() -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&ANY_PORT.into())?;
    socket.listen(super::BACKLOG as i32)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A reading half, with or without a buffer in front of it.
enum Reader<S: AsyncRead> {
    Plain(FramedRead<S, Framing>),
    Buffered(FramedRead<BufReader<S>, Framing>),
}

impl<S: AsyncRead + Unpin> Reader<S> {
    #[inline]
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        match self {
            Self::Plain(reader) => reader.next().await,
            Self::Buffered(reader) => reader.next().await,
        }
    }
}

/// A writing half, and the stream to finish.
struct Writer<N: Net> {
    framed: FramedWrite<N::Stream, Framing>,
    stream: N::Stream,
}

impl<N: Net> Writer<N> {
    async fn close(&mut self) -> io::Result<()> {
        SinkExt::<Bytes>::flush(&mut self.framed).await?;
        N::finish(&self.stream)
    }
}

fn halves<N: Net>(stream: N::Stream, setup: &Setup) -> io::Result<(Reader<N::Stream>, Writer<N>)> {
    N::set_nodelay(&stream)?;
    let codec = Framing::new(setup.max_frame_bytes(), setup.buffer_bytes().is_some());
    let mut framed = FramedWrite::new(stream.clone(), codec);
    let reader = match setup.buffer_bytes() {
        None => Reader::Plain(FramedRead::new(stream.clone(), codec)),
        Some(bytes) => {
            framed.set_send_high_water_mark(bytes);
            let buffered = BufReader::with_capacity(bytes, stream.clone());
            Reader::Buffered(FramedRead::new(buffered, codec))
        }
    };
    Ok((reader, Writer { framed, stream }))
}

/// Reads to the end, answers, and closes.
async fn serve<N: Net>(mut reader: Reader<N::Stream>, mut writer: Option<Writer<N>>, duty: Duty) {
    while let Some(Ok(message)) = reader.next().await {
        if let Some(answer) = duty.take(&message).bytes(|| message) {
            let Some(writer) = &mut writer else { continue };
            if writer.framed.send(answer).await.is_err() {
                break;
            }
        }
    }
    if let Some(mut writer) = writer {
        // It fails if the peer is gone already.
        let _ = writer.close().await;
    }
}

/// What a listener shares with its connections.
struct Shared<N: Net> {
    setup: Setup,
    duty: Duty,
    live: AtomicUsize,
    /// The writing halves of accepted connections, where there will be broadcasts.
    writers: Mutex<Vec<Writer<N>>>,
}

/// A listener and what it has accepted.
pub struct Host<N: Net> {
    shared: Arc<Shared<N>>,
    listening: Option<(SocketAddr, AbortHandle)>,
}

async fn accept<N: Net>(shared: Arc<Shared<N>>, listener: N::Listener) {
    while let Ok(stream) = N::accept(&listener).await {
        let Ok((reader, writer)) = halves::<N>(stream, &shared.setup) else { continue };
        shared.live.fetch_add(1, SeqCst);
        let writer = if shared.setup.broadcasts {
            shared.writers.lock().await.push(writer);
            None
        } else {
            Some(writer)
        };
        let shared = shared.clone();
        N::spawn(async move {
            serve(reader, writer, shared.duty.clone()).await;
            shared.live.fetch_sub(1, SeqCst);
        });
    }
}

impl<N: Net> Contender for HandWired<N> {
    type Bed = N;
    type Host = Host<N>;

    const NAME: &'static str = "hand-wired";
    const TUNINGS: &'static [Tuning] = super::BUFFERS;

    async fn host(setup: Setup, duty: Duty) -> io::Result<Host<N>> {
        let (live, writers) = Default::default();
        let shared = Arc::new(Shared { setup, duty, live, writers });
        let mut listening = None;
        if setup.listens {
            let listener = listen()?;
            let addr = listener.local_addr()?;
            let accepting = accept(shared.clone(), N::listener(listener)?);
            let (accepting, abort) = abortable(accepting);
            N::spawn(async {
                // It ends by being aborted.
                let _ = accepting.await;
            });
            listening = Some((addr, abort));
        }
        Ok(Host { shared, listening })
    }
}

impl<N: Net> Host<N> {
    async fn connect(&self, addr: SocketAddr, opening: Option<Bytes>) -> io::Result<Link<N>> {
        let stream = N::connect(addr).await?;
        let (reader, mut writer) = halves::<N>(stream.clone(), &self.shared.setup)?;
        let (ours, theirs) = match opening {
            Some(opening) => {
                writer.framed.send(opening).await?;
                (None, Some(writer))
            }
            None => (Some(writer), None),
        };
        let (end, ended) = oneshot::channel();
        let duty = self.shared.duty.clone();
        N::spawn(async move {
            serve(reader, theirs, duty).await;
            // Nobody need wait.
            let _ = end.send(());
        });
        Ok(Link { writer: ours, stream, ended })
    }
}

impl<N: Net> contender::Host for Host<N> {
    type Link = Link<N>;

    fn addr(&self) -> SocketAddr {
        self.listening.as_ref().expect("a listening host").0
    }

    fn live(&self) -> usize {
        self.shared.live.load(SeqCst)
    }

    async fn dial(&self, addr: SocketAddr) -> io::Result<Link<N>> {
        self.connect(addr, None).await
    }

    async fn converse(&self, addr: SocketAddr, opening: Bytes) -> io::Result<Link<N>> {
        self.connect(addr, Some(opening)).await
    }

    async fn broadcast(&self, message: &Bytes) -> io::Result<()> {
        for writer in &mut *self.shared.writers.lock().await {
            writer.framed.feed(message.clone()).await?;
        }
        Ok(())
    }

    async fn flush(&self) -> io::Result<()> {
        for writer in &mut *self.shared.writers.lock().await {
            SinkExt::<Bytes>::flush(&mut writer.framed).await?;
        }
        Ok(())
    }

    async fn shut_down(self) {
        if let Some((_, accepting)) = self.listening {
            accepting.abort();
        }
        for mut writer in self.shared.writers.lock().await.drain(..) {
            // It fails if the peer is gone already.
            let _ = writer.close().await;
        }
    }
}

/// A connection.
pub struct Link<N: Net> {
    /// Without it the reading task has it.
    writer: Option<Writer<N>>,
    stream: N::Stream,
    ended: oneshot::Receiver<()>,
}

impl<N: Net> contender::Link for Link<N> {
    #[inline]
    async fn feed(&mut self, message: &Bytes) -> io::Result<()> {
        match &mut self.writer {
            Some(writer) => writer.framed.feed(message.clone()).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        match &mut self.writer {
            Some(writer) => SinkExt::<Bytes>::flush(&mut writer.framed).await,
            None => Ok(()),
        }
    }

    async fn close(self) -> io::Result<()> {
        match self.writer {
            Some(mut writer) => writer.close().await?,
            None => N::finish(&self.stream)?,
        }
        // Reads to the end: the other side closes, too.
        let _ = self.ended.await;
        Ok(())
    }
}
