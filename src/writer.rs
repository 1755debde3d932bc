//! The write half of a connection, and the bytes on their way to it.
//!
//! It stands beside the outbox, under a lock of its own, because two tasks use it: the writer
//! task, and the reader task at the end of a batch, so that a reply needs no hop between tasks.
//! The locks are taken in one order, write half before outbox.

use crate::{
    DisconnectReason, Peer, deadline::Deadline, ending::Manner, outbox::Outbox, stats::count,
};
use anypea_runtime::{Clock, WriteHalf, futures_io::AsyncWrite};
use bytes::{Buf, Bytes, BytesMut};
use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

/// What a reader may leave unwritten while it goes on with its batch, and for how long.
const HOLD_BYTES: usize = 64 * 1024;
const HOLD_TIME: Duration = Duration::from_millis(1);
/// Bytes for which a peer has the write timeout, each time anew.
const PROGRESS_BYTES: u64 = 256 * 1024;
/// Slices in one vectored write.
const SLICES: usize = 16;
/// Writes that one poll makes before it lets other tasks run.
const WRITES_PER_POLL: u32 = 16;

#[derive(Default)]
pub(crate) struct Writer {
    pub(crate) half: Option<WriteHalf>,
    taken: Batch,
    /// Bytes that the stream took, but that it may still hold back.
    unflushed: usize,
    /// The waker of the writer task, to end it with.
    waker: Option<Waker>,
    /// An error that the reader met while writing in the writer's place.
    failed: Option<io::Error>,
}

/// Bytes to be written: whole segments, then a tail that still grows.
#[derive(Default)]
pub(crate) struct Batch {
    segments: VecDeque<Segment>,
    pub(crate) tail: BytesMut,
    pub(crate) messages: u64,
}

enum Segment {
    Own(BytesMut),
    Shared(Bytes),
}

/// What it means that nothing is left to write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// More may come; the waker is kept until then.
    Parked,
    /// Nothing more will come.
    Sealed,
}

impl Outbox {
    /// Writes until nothing is left or the socket takes no more. For the writer task alone.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>) -> Poll<io::Result<Drained>> {
        let mut writer = self.writer.lock();
        match &mut writer.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        if let Some(error) = writer.failed.take() {
            return Poll::Ready(Err(error));
        }
        self.drain(&mut writer, cx)
    }

    /// Sends a FIN. Call it when the outbox is [`Drained::Sealed`].
    pub(crate) fn poll_fin(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.writer.lock().half {
            Some(half) => Pin::new(half).poll_close(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Drops the write half, and wakes the writer task so that it ends.
    pub(crate) fn drop_half(&self) {
        let Writer { half, taken, waker, .. } = mem::take(&mut *self.writer.lock());
        drop((half, taken));
        waker.into_iter().for_each(Waker::wake);
    }

    fn drain(&self, writer: &mut Writer, cx: &mut Context<'_>) -> Poll<io::Result<Drained>> {
        let Writer { half: Some(half), taken, unflushed, .. } = writer else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let mut half = Pin::new(half);
        for _ in 0..WRITES_PER_POLL {
            if taken.is_empty() {
                ready!(self.flush(half.as_mut(), unflushed, cx))?;
                if let Some(drained) = self.take(taken, cx.waker()) {
                    return Poll::Ready(Ok(drained));
                }
            }
            let written = match taken.poll_write(half.as_mut(), cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // What is written so far should leave a stream that buffers, too.
                    let _ = self.flush(half, unflushed, cx)?;
                    return Poll::Pending;
                }
            };
            taken.advance(written);
            *unflushed += written;
            self.wrote(written);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn flush(
        &self,
        half: Pin<&mut WriteHalf>,
        unflushed: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if *unflushed > 0 {
            ready!(half.poll_flush(cx))?;
            self.flushed(mem::take(unflushed));
        }
        Poll::Ready(Ok(()))
    }
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.segments.is_empty()
    }

    /// Appends bytes without copying them.
    pub(crate) fn share(&mut self, bytes: Bytes) {
        if !self.tail.is_empty() {
            self.segments.push_back(Segment::Own(mem::take(&mut self.tail)));
        }
        self.segments.push_back(Segment::Shared(bytes));
    }

    fn poll_write(
        &self,
        half: Pin<&mut WriteHalf>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.segments.is_empty() {
            return half.poll_write(cx, &self.tail);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let chunks = self.segments.iter().map(Segment::as_slice).chain([&self.tail[..]]);
        let used = SLICES.min(self.segments.len() + 1);
        for (slice, chunk) in slices.iter_mut().zip(chunks) {
            *slice = IoSlice::new(chunk);
        }
        half.poll_write_vectored(cx, &slices[..used])
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.segments.front_mut() {
            let here = first.as_slice().len().min(written);
            first.advance(here);
            written -= here;
            if !first.as_slice().is_empty() {
                return;
            }
            self.segments.pop_front();
        }
        // A buffer that was written whole keeps its allocation for the next round.
        if written == self.tail.len() { self.tail.clear() } else { self.tail.advance(written) }
    }
}

impl Segment {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Own(bytes) => bytes.advance(count),
            Self::Shared(bytes) => bytes.advance(count),
        }
    }
}

/// The writer task: writes what the outbox holds, keeps the write deadline, sends the FIN.
pub(crate) struct WriterTask {
    peer: Peer,
    deadline: Deadline,
    /// The bytes written when the deadline was set.
    mark: u64,
}

impl WriterTask {
    pub(crate) fn new(peer: Peer) -> Self {
        Self { peer, deadline: Deadline::default(), mark: 0 }
    }

    /// Ready when there is nothing to do any more; `None` if the peer was too slow.
    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<()>>> {
        let conn = &*self.peer.conn;
        if conn.ending.asked() == Some(Manner::Abort) {
            return Poll::Ready(Some(Ok(())));
        }
        match conn.outbox.poll_write(cx) {
            Poll::Ready(Ok(Drained::Sealed)) => conn.outbox.poll_fin(cx).map(Some),
            Poll::Ready(Ok(Drained::Parked)) => {
                self.deadline.clear();
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Pending => {
                let runtime = &*conn.inner.runtime;
                let written = conn.outbox.counts.bytes_written.load(Relaxed);
                if !self.deadline.is_set() || written - self.mark >= PROGRESS_BYTES {
                    self.deadline.set(runtime, conn.outbox.write_timeout());
                    self.mark = written;
                }
                self.deadline.poll(runtime, cx).map(|()| None)
            }
        }
    }
}

impl Future for WriterTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let worked = ready!(self.poll_work(cx));
        let conn = &*self.peer.conn;
        match worked {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                // Frames that arrived before may still be readable, so the reader goes on.
                conn.ending.note(DisconnectReason::of(error));
                conn.outbox.close();
            }
            None => {
                count(&conn.inner.counters.write_timeouts);
                conn.ending.begin(DisconnectReason::WriteTimedOut, Manner::Abort);
                conn.outbox.close();
            }
        }
        conn.outbox.finish();
        Poll::Ready(())
    }
}

impl Drop for WriterTask {
    /// Tells the reader task that the writer is gone.
    fn drop(&mut self) {
        let conn = &*self.peer.conn;
        if !conn.outbox.is_finished() {
            // The runtime has dropped it: what is queued from now on would never be written.
            conn.ending.begin(DisconnectReason::RuntimeGone, Manner::Abort);
            conn.outbox.finish();
        }
        conn.ending.wake_reader();
    }
}

/// The right to write in the writer's place, held by the reader for the length of a batch.
///
/// It must not be held across an await: until it is let go, sends wake nobody.
pub(crate) struct Held<'a> {
    outbox: &'a Outbox,
    /// The parked writer's waker; without it the writer is awake, and will see for itself.
    waker: Option<Waker>,
    /// When something was first seen to be queued.
    since: Option<Instant>,
}

impl<'a> Held<'a> {
    pub(crate) fn new(outbox: &'a Outbox, waker: Option<Waker>) -> Self {
        Self { outbox, waker, since: None }
    }

    /// To be called between messages: writes if much is queued, or if it has waited for long
    /// because the handlers are slow, and holds on.
    pub(crate) fn renew(&mut self, clock: &dyn Clock) {
        let queued = self.outbox.counts.queued.load(Relaxed);
        if queued == 0 || self.waker.is_none() {
            return;
        }
        let now = clock.now();
        let since = *self.since.get_or_insert(now);
        if queued >= HOLD_BYTES || now.saturating_duration_since(since) >= HOLD_TIME {
            self.let_go();
            *self = self.outbox.hold();
        }
    }

    /// Writes what was queued meanwhile, and gives the writer its waker back.
    pub(crate) fn let_go(&mut self) {
        let Some(waker) = self.waker.take() else { return };
        let outbox = self.outbox;
        if outbox.counts.queued.load(Relaxed) > 0
            && let Some(mut writer) = outbox.writer.try_lock()
        {
            match outbox.drain(&mut writer, &mut Context::from_waker(&waker)) {
                Poll::Ready(Ok(Drained::Parked)) => return,
                Poll::Ready(Err(error)) => writer.failed = Some(error),
                Poll::Ready(Ok(Drained::Sealed)) | Poll::Pending => {}
            }
            // The writer keeps the deadlines, sends the FIN, and reports errors.
            drop(writer);
            waker.wake();
        } else if let Some(waker) = outbox.park(waker) {
            waker.wake();
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}
