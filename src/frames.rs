//! The read loop: from the socket's bytes to processed messages.
//!
//! Bytes are read through a buffer that all connections of a thread share and that stays in the
//! cache, appended to the connection's own, decoded, and processed in line, whole batches at a
//! time. An idle connection owns no buffer.

use crate::{
    BoxError, DisconnectReason, Hook, Peer, Reading, deadline::Deadline, ending::Manner,
    peer::Conn, protocols::Stop, stats::count, tasks::let_others_run, writer::Held,
};
use anypea_runtime::futures_io::AsyncRead;
use asynchronous_codec::Decoder;
use bytes::BytesMut;
use std::{
    cell::Cell,
    future::poll_fn,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

/// Size of the shared buffer: small enough to stay in the first or second level of the cache.
const SCRATCH_BYTES: usize = 32 * 1024;
/// How much of a big frame is read at once, straight into the connection's buffer, at most.
const BIG_READ_BYTES: usize = 256 * 1024;
/// Batches after which other tasks are let run: not every runtime has a budget of its own.
const BATCHES_PER_POLL: u32 = 16;

/// Messages after which other tasks are let run, whatever the codec makes of its input.
const MESSAGES_PER_BATCH: u64 = 64 * 1024;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Reads and processes messages until the peer's FIN, or until something ends the connection.
pub(crate) async fn process<R: Reading>(handler: R, peer: Peer) -> Stop {
    let conn = &*peer.conn;
    let mut decoder = match guarded(conn, || handler.codec(&peer)) {
        Ok(decoder) => decoder,
        Err(stop) => return stop,
    };
    let mut input = Input::new(&handler);
    loop {
        // Replies to this batch are written by us at its end, not by the writer task beside us.
        let mut batch = Batch { conn, messages: 0, held: conn.outbox.hold() };
        loop {
            let message = match input.decode(conn, &mut decoder) {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(stop) => return stop,
            };
            // Looked at here, after the read: the end may have been asked for on another thread
            // before these bytes had even come.
            if conn.ending.asked().is_some() {
                return Stop::Asked;
            }
            batch.messages += 1;
            let mut processing = pin!(handler.process_message(&peer, message));
            let processed = poll_fn(|cx| {
                if let Poll::Ready(processed) = processing.as_mut().poll(cx) {
                    return Poll::Ready(Some(processed));
                }
                batch.settle();
                input.poll_timeout(conn, cx, Wait::Handler).map(|()| None)
            });
            match processed.await {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    let reason = DisconnectReason::HandlerError(Arc::new(error));
                    return fail(conn, reason, Manner::Graceful);
                }
                None => {
                    count(&conn.inner.counters.hook_timeouts);
                    let reason = DisconnectReason::TimedOut(Hook::ProcessMessage);
                    return fail(conn, reason, Manner::Abort);
                }
            }
            input.waits_for = Wait::Nothing;
            batch.held.renew(&*conn.inner.runtime);
            if batch.messages == MESSAGES_PER_BATCH {
                // No read makes so many of itself: the codec may go on for ever.
                batch.settle();
                let_others_run().await;
            }
        }
        drop(batch);
        if input.eof {
            let reason = match input.buffer.len() {
                0 => DisconnectReason::PeerClosed,
                bytes => DisconnectReason::Truncated { bytes },
            };
            conn.ending.note(reason);
            return Stop::Fin;
        }
        let max_buffered_bytes = input.max_buffered_bytes;
        if input.buffer.len() > max_buffered_bytes {
            return fail(conn, DisconnectReason::BufferFull { max_buffered_bytes }, Manner::Abort);
        }
        match poll_fn(|cx| input.poll_fill(conn, cx)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => return fail(conn, DisconnectReason::of(error), Manner::Abort),
            None => {
                count(&conn.inner.counters.idle_timeouts);
                return fail(conn, DisconnectReason::Idle, Manner::Abort);
            }
        }
    }
}

/// Reads and discards until the peer's FIN, for a node that doesn't read.
pub(crate) async fn discard(peer: Peer) -> Stop {
    let conn = &*peer.conn;
    match poll_fn(|cx| poll_discard(conn, cx)).await {
        Ok(()) => {
            conn.ending.note(DisconnectReason::PeerClosed);
            Stop::Fin
        }
        Err(error) => fail(conn, DisconnectReason::of(error), Manner::Abort),
    }
}

/// Reads and discards; ready at the peer's FIN.
pub(crate) fn poll_discard(conn: &Conn, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    for _ in 0..BATCHES_PER_POLL {
        let read = ready!(with_scratch(|scratch| poll_read(conn, cx, scratch)))?;
        if read == 0 {
            return Poll::Ready(Ok(()));
        }
        conn.received(0, read as u64);
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

fn fail(conn: &Conn, reason: DisconnectReason, manner: Manner) -> Stop {
    conn.ending.begin(reason, manner);
    Stop::Asked
}

/// Calls a codec; a panic of its ends the connection.
fn guarded<T>(conn: &Conn, codec: impl FnOnce() -> T) -> Result<T, Stop> {
    catch_unwind(AssertUnwindSafe(codec)).map_err(|panic| {
        let reason = conn.inner.panicked(Hook::Decoder, panic);
        fail(conn, reason, Manner::Abort)
    })
}

/// The messages that one read has completed.
struct Batch<'a> {
    conn: &'a Conn,
    messages: u64,
    held: Held<'a>,
}

impl Batch<'_> {
    /// Counts the messages, and writes what was sent meanwhile.
    fn settle(&mut self) {
        self.conn.received(std::mem::take(&mut self.messages), 0);
        self.held.let_go();
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.settle();
    }
}

/// What has arrived and is not decoded yet, and how long to wait for more.
struct Input {
    buffer: BytesMut,
    max_buffered_bytes: usize,
    idle_timeout: Option<Duration>,
    process_timeout: Option<Duration>,
    deadline: Deadline,
    /// What the deadline has been set for, since the last message.
    waits_for: Wait,
    eof: bool,
    /// Whether the last read got all that it asked for, so that there is likely more.
    filled: bool,
    batches_left: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Nothing,
    Handler,
    Message,
}

impl Input {
    fn new(handler: &impl Reading) -> Self {
        Self {
            buffer: BytesMut::new(),
            max_buffered_bytes: handler.max_buffered_bytes(),
            idle_timeout: handler.idle_timeout(),
            process_timeout: handler.process_timeout(),
            deadline: Deadline::default(),
            waits_for: Wait::Nothing,
            eof: false,
            filled: false,
            batches_left: BATCHES_PER_POLL,
        }
    }

    /// Decodes the next message, if there is a complete one.
    fn decode<D>(&mut self, conn: &Conn, decoder: &mut D) -> Result<Option<D::Item>, Stop>
    where
        D: Decoder<Error: Into<BoxError>>,
    {
        let (buffer, eof) = (&mut self.buffer, self.eof);
        let decoded = guarded(conn, || match eof {
            true => decoder.decode_eof(buffer),
            false => decoder.decode(buffer),
        })?;
        decoded.map_err(|error| {
            let reason = DisconnectReason::Undecodable(Arc::from(error.into()));
            fail(conn, reason, Manner::Abort)
        })
    }

    /// Is ready when `what` has been waited for too long.
    fn poll_timeout(&mut self, conn: &Conn, cx: &mut Context<'_>, what: Wait) -> Poll<()> {
        let time = match what {
            Wait::Handler => self.process_timeout,
            _ => self.idle_timeout,
        };
        let Some(time) = time else { return Poll::Pending };
        let runtime = &*conn.inner.runtime;
        if self.waits_for != what {
            self.waits_for = what;
            self.deadline.set(runtime, time);
        }
        self.deadline.poll(runtime, cx)
    }

    /// Reads once; `None` if the connection has been idle for too long.
    fn poll_fill(&mut self, conn: &Conn, cx: &mut Context<'_>) -> Poll<Option<io::Result<()>>> {
        if self.batches_left == 0 {
            self.batches_left = BATCHES_PER_POLL;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.poll_read(conn, cx) {
            Poll::Ready(Ok(read)) => {
                self.batches_left -= 1;
                self.eof = read == 0;
                conn.received(0, read as u64);
                Poll::Ready(Some(Ok(())))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Pending => {
                self.batches_left = BATCHES_PER_POLL;
                if self.buffer.is_empty() {
                    self.buffer = BytesMut::new();
                }
                self.poll_timeout(conn, cx, Wait::Message).map(|()| None)
            }
        }
    }

    fn poll_read(&mut self, conn: &Conn, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let buffer = &mut self.buffer;
        let start = buffer.len();
        if self.filled && start >= SCRATCH_BYTES {
            // A big frame, with more of it waiting: spare it the way through the scratch buffer.
            let most = start.min(BIG_READ_BYTES);
            buffer.resize(start + most, 0);
            let read = poll_read(conn, cx, &mut buffer[start..]);
            let count = if let Poll::Ready(Ok(count)) = read { count } else { 0 };
            buffer.truncate(start + count);
            self.filled = count == most;
            return read;
        }
        with_scratch(|scratch| {
            let read = ready!(poll_read(conn, cx, scratch))?;
            buffer.extend_from_slice(&scratch[..read]);
            self.filled = read == scratch.len();
            Poll::Ready(Ok(read))
        })
    }
}

fn poll_read(conn: &Conn, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
    match &mut *conn.reader.lock() {
        Some(reader) => Pin::new(reader).poll_read(cx, buf),
        None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
    }
}

/// Lends the thread's buffer. A nested loan, by a stream that itself reads in here, gets a new one.
fn with_scratch<T>(borrow: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut scratch = SCRATCH.take();
    scratch.resize(SCRATCH_BYTES, 0);
    let output = borrow(&mut scratch);
    SCRATCH.set(scratch);
    output
}
