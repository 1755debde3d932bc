//! tokio with tokio-util's `FramedRead` and `FramedWrite`, wired by hand: as little as does the
//! job. A task for each end of a connection reads; whoever sends owns the writing half.

use super::ANY_PORT;
use crate::{
    bed,
    contender::{self, Contender, Duty, Setup, Tuning},
    framing::Framing,
};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::*},
    },
};
use tokio::{
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Mutex,
    task::JoinHandle,
};
use tokio_util::codec::{FramedRead, FramedWrite};

type Reader = FramedRead<OwnedReadHalf, Framing>;
type Writer = FramedWrite<OwnedWriteHalf, Framing>;

/// tokio, wired by hand.
pub struct HandWired;

/// What a listener shares with its connections.
#[derive(Clone)]
struct Shared {
    setup: Setup,
    duty: Duty,
    live: Arc<AtomicUsize>,
    /// The writing halves of accepted connections, where there will be broadcasts.
    writers: Arc<Mutex<Vec<Writer>>>,
}

/// A listener and what it has accepted.
pub struct Host {
    shared: Shared,
    listening: Option<(SocketAddr, JoinHandle<()>)>,
}

fn halves(stream: TcpStream, setup: &Setup) -> io::Result<(Reader, Writer)> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let codec = Framing::new(setup.max_frame_bytes(), setup.buffer_bytes().is_some());
    Ok(match setup.buffer_bytes() {
        None => (FramedRead::new(reader, codec), FramedWrite::new(writer, codec)),
        Some(bytes) => {
            let mut writer = FramedWrite::with_capacity(writer, codec, bytes);
            writer.set_backpressure_boundary(bytes);
            (FramedRead::with_capacity(reader, codec, bytes), writer)
        }
    })
}

/// Reads to the end, answers, and closes.
async fn serve(mut reader: Reader, mut writer: Option<Writer>, duty: Duty) {
    while let Some(Ok(message)) = reader.next().await {
        if let Some(answer) = duty.take(&message).bytes(|| message) {
            let Some(writer) = &mut writer else { continue };
            if writer.send(answer).await.is_err() {
                break;
            }
        }
    }
    if let Some(mut writer) = writer {
        // It fails if the peer is gone already.
        let _ = SinkExt::<Bytes>::close(&mut writer).await;
    }
}

impl Shared {
    async fn accept(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok((reader, writer)) = halves(stream, &self.setup) else { continue };
            self.live.fetch_add(1, SeqCst);
            let writer = if self.setup.broadcasts {
                self.writers.lock().await.push(writer);
                None
            } else {
                Some(writer)
            };
            let (live, duty) = (self.live.clone(), self.duty.clone());
            tokio::spawn(async move {
                serve(reader, writer, duty).await;
                live.fetch_sub(1, SeqCst);
            });
        }
    }
}

impl Contender for HandWired {
    type Bed = bed::Tokio;
    type Host = Host;

    const NAME: &'static str = "hand-wired";
    const TUNINGS: &'static [Tuning] = super::BUFFERS;

    async fn host(setup: Setup, duty: Duty) -> io::Result<Host> {
        let (live, writers) = Default::default();
        let shared = Shared { setup, duty, live, writers };
        let mut listening = None;
        if setup.listens {
            let socket = TcpSocket::new_v4()?;
            socket.bind(ANY_PORT)?;
            let listener = socket.listen(super::BACKLOG)?;
            let addr = listener.local_addr()?;
            listening = Some((addr, tokio::spawn(shared.clone().accept(listener))));
        }
        Ok(Host { shared, listening })
    }
}

impl contender::Host for Host {
    type Link = Link;

    fn addr(&self) -> SocketAddr {
        self.listening.as_ref().expect("a listening host").0
    }

    fn live(&self) -> usize {
        self.shared.live.load(SeqCst)
    }

    async fn dial(&self, addr: SocketAddr) -> io::Result<Link> {
        let (reader, writer) = halves(TcpStream::connect(addr).await?, &self.shared.setup)?;
        let task = tokio::spawn(serve(reader, None, self.shared.duty.clone()));
        Ok(Link { writer: Some(writer), task })
    }

    async fn converse(&self, addr: SocketAddr, opening: Bytes) -> io::Result<Link> {
        let (reader, mut writer) = halves(TcpStream::connect(addr).await?, &self.shared.setup)?;
        writer.send(opening).await?;
        let task = tokio::spawn(serve(reader, Some(writer), self.shared.duty.clone()));
        Ok(Link { writer: None, task })
    }

    async fn broadcast(&self, message: &Bytes) -> io::Result<()> {
        for writer in &mut *self.shared.writers.lock().await {
            writer.feed(message.clone()).await?;
        }
        Ok(())
    }

    async fn flush(&self) -> io::Result<()> {
        for writer in &mut *self.shared.writers.lock().await {
            SinkExt::<Bytes>::flush(writer).await?;
        }
        Ok(())
    }

    async fn shut_down(self) {
        if let Some((_, accepting)) = self.listening {
            accepting.abort();
        }
        self.shared.writers.lock().await.clear();
    }
}

/// A connection.
pub struct Link {
    /// Without it the reading task has it.
    writer: Option<Writer>,
    task: JoinHandle<()>,
}

impl contender::Link for Link {
    #[inline]
    async fn feed(&mut self, message: &Bytes) -> io::Result<()> {
        match &mut self.writer {
            Some(writer) => writer.feed(message.clone()).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        match &mut self.writer {
            Some(writer) => SinkExt::<Bytes>::flush(writer).await,
            None => Ok(()),
        }
    }

    async fn close(self) -> io::Result<()> {
        match self.writer {
            Some(mut writer) => {
                SinkExt::<Bytes>::close(&mut writer).await?;
                drop(writer);
            }
            None => self.task.abort(),
        }
        // Reads to the end: the other side closes, too.
        let _ = self.task.await;
        Ok(())
    }
}
