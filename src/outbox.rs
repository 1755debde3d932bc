//! A connection's send buffer, and the write half beside it.
//!
//! There is no queue of messages. Whoever sends encodes straight into the tail of the buffer,
//! under its lock, and wakes the writer only if it is parked. Whoever writes (the connection's
//! writer task, or its reader at the end of a batch) takes all there is and hands it to the
//! socket in one go, under a lock of its own, so that sending goes on meanwhile.
//!
//! Two rules keep this sound. Under the buffer's lock nothing foreign runs but `encode`: no waker,
//! no tracing, no drop of a message, since each of them might come back here. And the locks are
//! taken in one order, write half before buffer.

use crate::{BoxError, SendError};
use anypea_runtime::{Clock, WriteHalf, futures_io::AsyncWrite};
use asynchronous_codec::Encoder;
use bytes::{Buf, Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard};
use std::{
    any::Any,
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    io::{self, IoSlice},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

/// Ready bytes from this size on are queued as they are, uncopied.
const SHARE_BYTES: usize = 16 * 1024;
/// Slices in one vectored write.
const SLICES: usize = 16;
/// What a reader may leave unwritten while it goes on with its batch, and for how long.
const HOLD_BYTES: usize = 64 * 1024;
const HOLD_TIME: Duration = Duration::from_millis(1);
/// Writes that one poll makes before it lets other tasks run.
const WRITES_PER_POLL: u32 = 16;

thread_local! {
    static ENCODING: Cell<bool> = const { Cell::new(false) };
}

/// What [`Writing`](crate::Writing) gives to each connection.
pub(crate) struct Sender {
    /// The codec, of a type that the caller of `enqueue` knows.
    pub(crate) encoder: Box<dyn Any + Send>,
    pub(crate) queue_bytes: usize,
    pub(crate) encode_error_is_fatal: bool,
}

#[derive(Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    writer: Mutex<Writer>,
    // Written under the queue's lock, readable without it, also from inside an encoder.
    queued: AtomicUsize,
    most_queued: AtomicUsize,
    messages_written: AtomicU64,
    bytes_written: AtomicU64,
    /// Queued bytes that were thrown away.
    lost: AtomicUsize,
    ready: AtomicBool,
    finished: AtomicBool,
}

#[derive(Default, PartialEq, Eq, Clone, Copy)]
enum Intake {
    /// Not open yet: the connection is being set up.
    #[default]
    Unready,
    Open,
    /// Takes nothing more; what is queued is still written.
    Sealed,
    /// Takes nothing more, and what was queued is gone.
    Closed,
}

#[derive(Default)]
struct Queue {
    intake: Intake,
    sender: Option<Sender>,
    pending: Batch,
    /// Bytes not yet written, those that the writer has taken included.
    queued: usize,
    /// Bytes ever queued, and bytes ever handed to the operating system.
    enqueued: u64,
    delivered: u64,
    /// The writer's waker while it is parked.
    parked: Option<Waker>,
    waiting: Waiting,
}

/// Futures that wait for something of the outbox.
#[derive(Default)]
struct Waiting {
    next_ticket: u64,
    /// Senders that wait for room, first come first served.
    room: VecDeque<(u64, Waker)>,
    /// Deliveries by the offset that must be reached.
    deliveries: BTreeMap<(u64, u64), Waker>,
}

/// Bytes on their way to the socket: whole segments, then a tail that still grows.
#[derive(Default)]
struct Batch {
    segments: VecDeque<Segment>,
    tail: BytesMut,
    messages: u64,
}

enum Segment {
    Own(BytesMut),
    Shared(Bytes),
}

#[derive(Default)]
struct Writer {
    half: Option<WriteHalf>,
    taken: Batch,
    /// What of `taken` is in the socket's buffer, but perhaps not flushed.
    unflushed: usize,
    flushed: bool,
    /// The waker of the writer task, for whoever writes in its place.
    waker: Option<Waker>,
    /// An error that somebody else met while writing in the writer's place.
    failed: Option<io::Error>,
}

/// How far a call of [`Outbox::poll_write`] has come, if nothing is left to write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// More may come; the waker is kept until then.
    Parked,
    /// Nothing more will come.
    Sealed,
}

/// What stopped an encoder, apart from its message.
pub(crate) enum Fault {
    Full,
    Closed,
    Reentrant,
}

/// Who asks for room: a caller that doesn't wait, or the holder of a ticket.
pub(crate) type Ticket = Option<u64>;

impl Outbox {
    pub(crate) fn open(&self, half: WriteHalf, sender: Option<Sender>) {
        self.writer.lock().half = Some(half);
        let mut queue = self.queue.lock();
        queue.sender = sender;
        queue.intake = Intake::Open;
        self.ready.store(true, Relaxed);
    }

    /// Whether the outbox has been opened: the connection is, or was, registered.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    pub(crate) fn queued(&self) -> usize {
        self.queued.load(Relaxed)
    }

    pub(crate) fn most_queued(&self) -> usize {
        self.most_queued.load(Relaxed)
    }

    pub(crate) fn messages_written(&self) -> u64 {
        self.messages_written.load(Relaxed)
    }

    pub(crate) fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Relaxed)
    }

    pub(crate) fn lost(&self) -> usize {
        self.lost.load(Relaxed)
    }

    /// Encodes `message` into the buffer, and returns the offset at which its frame ends.
    ///
    /// The second value tells whether the connection has to end because of the encoder.
    pub(crate) fn enqueue<C, M>(
        &self,
        message: M,
        ticket: Ticket,
    ) -> (Result<u64, SendError<M>>, bool)
    where
        C: for<'a> Encoder<Item<'a> = M, Error: Into<BoxError>> + 'static,
    {
        let mut queue = match self.admit(ticket) {
            Ok(queue) => queue,
            Err(fault) => return (Err(fault.with(message)), false),
        };
        let Queue { sender: Some(sender), pending, .. } = &mut *queue else {
            drop(queue);
            return (Err(SendError::NotEnabled(message)), false);
        };
        let Some(encoder) = sender.encoder.downcast_mut::<C>() else {
            drop(queue);
            return (Err(SendError::NotEnabled(message)), false);
        };
        let fatal = sender.encode_error_is_fatal;
        let border = Border::of(&pending.tail);
        let encoded = {
            let _scope = Encoding::enter();
            catch_unwind(AssertUnwindSafe(|| encoder.encode(message, &mut pending.tail)))
        };
        if !border.stands_in(&pending.tail) {
            drop(queue);
            return (Err(SendError::EncoderBroken), true);
        }
        match encoded {
            Ok(Ok(())) => {
                let frame = pending.tail.len() - border.at;
                (Ok(self.took(queue, frame, ticket)), false)
            }
            Ok(Err(error)) => {
                pending.tail.truncate(border.at);
                drop(queue);
                (Err(SendError::Encode(error.into())), fatal)
            }
            Err(panic) => {
                pending.tail.truncate(border.at);
                drop(queue);
                drop(panic);
                (Err(SendError::EncoderBroken), true)
            }
        }
    }

    /// Queues ready bytes at a frame border, and returns the offset at which they end.
    pub(crate) fn enqueue_encoded(&self, bytes: Bytes) -> Result<u64, SendError<Bytes>> {
        let mut queue = match self.admit(None) {
            Ok(queue) => queue,
            Err(fault) => return Err(fault.with(bytes)),
        };
        if queue.sender.is_none() {
            drop(queue);
            return Err(SendError::NotEnabled(bytes));
        }
        let length = bytes.len();
        if length < SHARE_BYTES {
            queue.pending.tail.extend_from_slice(&bytes);
            let end = self.took(queue, length, None);
            drop(bytes);
            return Ok(end);
        }
        queue.pending.freeze_tail();
        queue.pending.segments.push_back(Segment::Shared(bytes));
        Ok(self.took(queue, length, None))
    }

    /// Checks that a message may be queued now, in the order of arrival.
    fn admit(&self, ticket: Ticket) -> Result<MutexGuard<'_, Queue>, Fault> {
        if Encoding::is_on() {
            return Err(Fault::Reentrant);
        }
        let queue = self.queue.lock();
        if queue.intake != Intake::Open {
            return Err(Fault::Closed);
        }
        let first = queue.waiting.room.front().map(|(ticket, _)| *ticket);
        if queue.queued >= queue.limit() || (first.is_some() && first != ticket) {
            return Err(Fault::Full);
        }
        Ok(queue)
    }

    /// Accounts for a frame that is in the buffer now, and wakes whom it concerns.
    fn took(&self, mut queue: MutexGuard<'_, Queue>, frame: usize, ticket: Ticket) -> u64 {
        queue.pending.messages += 1;
        queue.queued += frame;
        queue.enqueued += frame as u64;
        self.queued.store(queue.queued, Relaxed);
        if queue.queued > self.most_queued.load(Relaxed) {
            self.most_queued.store(queue.queued, Relaxed);
        }
        let end = queue.enqueued;
        let writer = queue.parked.take();
        let next = if ticket.is_some() {
            queue.waiting.room.pop_front();
            queue.next_in_line()
        } else {
            None
        };
        drop(queue);
        writer.into_iter().chain(next).for_each(Waker::wake);
        end
    }

    /// Waits in line for room. Ready when it is worth trying again with the ticket.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>, ticket: &mut Ticket) -> Poll<()> {
        let mut queue = self.queue.lock();
        if queue.intake != Intake::Open {
            return Poll::Ready(());
        }
        let has_room = queue.queued < queue.limit();
        let waiting = &mut queue.waiting;
        let place = ticket.and_then(|ticket| waiting.room.iter().position(|(t, _)| *t == ticket));
        let place = match place {
            Some(place) => {
                waiting.room[place].1.clone_from(cx.waker());
                place
            }
            None => {
                *ticket = Some(waiting.next_ticket);
                waiting.room.push_back((waiting.next_ticket, cx.waker().clone()));
                waiting.next_ticket += 1;
                waiting.room.len() - 1
            }
        };
        // Room that came since the caller looked would otherwise be announced to nobody.
        if place == 0 && has_room { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Gives up a place in the line.
    pub(crate) fn leave_line(&self, ticket: Ticket) {
        let mut queue = self.queue.lock();
        queue.waiting.room.retain(|(t, _)| Some(*t) != ticket);
        // The place may have been first, and its waker spent.
        let next = queue.next_in_line();
        drop(queue);
        next.into_iter().for_each(Waker::wake);
    }

    /// Waits until all bytes before `end` are in the operating system's hands; an error if they
    /// never will be.
    pub(crate) fn poll_delivered(
        &self,
        cx: &mut Context<'_>,
        end: u64,
        ticket: &mut Ticket,
    ) -> Poll<Result<(), crate::NotDelivered>> {
        let mut queue = self.queue.lock();
        if queue.delivered >= end {
            return Poll::Ready(Ok(()));
        }
        if queue.intake == Intake::Closed {
            return Poll::Ready(Err(crate::NotDelivered));
        }
        let waiting = &mut queue.waiting;
        let ticket = *ticket.get_or_insert(waiting.next_ticket);
        waiting.next_ticket = waiting.next_ticket.max(ticket + 1);
        waiting.deliveries.insert((end, ticket), cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn forget_delivery(&self, end: u64, ticket: Ticket) {
        if let Some(ticket) = ticket {
            self.queue.lock().waiting.deliveries.remove(&(end, ticket));
        }
    }

    /// Takes no more messages; what is queued will be written, and a FIN after it.
    pub(crate) fn seal(&self) {
        let mut queue = self.queue.lock();
        if queue.intake != Intake::Closed {
            queue.intake = Intake::Sealed;
        }
        let parked = queue.parked.take();
        let room = mem::take(&mut queue.waiting.room);
        let sender = queue.sender.take();
        drop(queue);
        drop(sender);
        parked.into_iter().chain(room.into_iter().map(|(_, waker)| waker)).for_each(Waker::wake);
    }

    /// Takes no more messages and throws away what is queued. Returns how many bytes that was.
    pub(crate) fn close(&self) -> usize {
        let mut queue = self.queue.lock();
        queue.intake = Intake::Closed;
        let lost = mem::take(&mut queue.queued);
        self.lost.fetch_add(lost, Relaxed);
        self.queued.store(0, Relaxed);
        let pending = mem::take(&mut queue.pending);
        let sender = queue.sender.take();
        let parked = queue.parked.take();
        let Waiting { room, deliveries, .. } = mem::take(&mut queue.waiting);
        drop(queue);
        drop((pending, sender));
        let room = room.into_iter().map(|(_, waker)| waker);
        parked.into_iter().chain(room).chain(deliveries.into_values()).for_each(Waker::wake);
        lost
    }

    /// Takes the parked writer's waker, so that sends don't wake it: the caller will write.
    pub(crate) fn hold(&self) -> Held<'_> {
        Held { outbox: self, writer: self.queue.lock().parked.take(), since: None }
    }

    /// Writes until nothing is left or the socket takes no more. `budget` bounds the writes.
    ///
    /// The caller is the writer task: its waker is kept for all that may concern it.
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
        let mut writer = self.writer.lock();
        let Writer { half, taken, waker, .. } = mem::take(&mut *writer);
        drop(writer);
        drop((half, taken));
        waker.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn finish(&self) {
        self.finished.store(true, std::sync::atomic::Ordering::Release);
    }

    /// Whether the writer task has ended.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished.load(std::sync::atomic::Ordering::Acquire)
    }

    fn drain(&self, writer: &mut Writer, cx: &mut Context<'_>) -> Poll<io::Result<Drained>> {
        let mut budget = WRITES_PER_POLL;
        loop {
            if writer.taken.is_empty() {
                if !writer.flushed {
                    ready!(self.flush(writer, cx))?;
                }
                if let Some(drained) = self.take(writer, cx) {
                    return Poll::Ready(Ok(drained));
                }
            }
            if budget == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            budget -= 1;
            let Some(half) = &mut writer.half else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            let written = match writer.taken.poll_write(Pin::new(half), cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // What is written so far should leave a buffering stream, too.
                    if !writer.flushed {
                        let _ = self.flush(writer, cx)?;
                    }
                    return Poll::Pending;
                }
            };
            writer.taken.advance(written);
            writer.unflushed += written;
            writer.flushed = false;
            self.wrote(written);
        }
    }

    /// Accounts for bytes that the stream took, and wakes the first sender if there is room.
    fn wrote(&self, written: usize) {
        let mut queue = self.queue.lock();
        // Not below zero: `close` may have come in between.
        queue.queued = queue.queued.saturating_sub(written);
        self.queued.store(queue.queued, Relaxed);
        self.bytes_written.store(self.bytes_written.load(Relaxed) + written as u64, Relaxed);
        // Half of the queue is let drain first, so that one wake serves many messages.
        let drained = queue.queued <= queue.limit() / 2;
        let next = if drained { queue.next_in_line() } else { None };
        drop(queue);
        next.into_iter().for_each(Waker::wake);
    }

    fn flush(&self, writer: &mut Writer, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(half) = &mut writer.half else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        ready!(Pin::new(half).poll_flush(cx))?;
        writer.flushed = true;
        let flushed = mem::take(&mut writer.unflushed) as u64;
        let mut queue = self.queue.lock();
        queue.delivered += flushed;
        let delivered = queue.delivered;
        let wakers = queue.waiting.delivered_before(delivered);
        drop(queue);
        wakers.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }

    /// Takes all that is queued; if that is nothing, parks or tells that nothing more will come.
    fn take(&self, writer: &mut Writer, cx: &mut Context<'_>) -> Option<Drained> {
        let written = mem::take(&mut writer.taken.messages);
        if written > 0 {
            self.messages_written.store(self.messages_written.load(Relaxed) + written, Relaxed);
        }
        let mut queue = self.queue.lock();
        if !queue.pending.is_empty() {
            mem::swap(&mut queue.pending, &mut writer.taken);
            return None;
        }
        if queue.intake != Intake::Open {
            return Some(Drained::Sealed);
        }
        queue.parked = Some(cx.waker().clone());
        // An idle connection owns no buffer.
        let spare = mem::take(&mut queue.pending.tail);
        drop(queue);
        drop((spare, mem::take(&mut writer.taken)));
        Some(Drained::Parked)
    }
}

impl Queue {
    fn limit(&self) -> usize {
        self.sender.as_ref().map_or(usize::MAX, |sender| sender.queue_bytes)
    }

    /// Returns the waker of the first sender in line, if it can be served.
    fn next_in_line(&self) -> Option<Waker> {
        let (_, waker) = self.waiting.room.front()?;
        (self.queued < self.limit()).then(|| waker.clone())
    }
}

impl Waiting {
    fn delivered_before(&mut self, delivered: u64) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(first) = self.deliveries.first_entry() {
            if first.key().0 > delivered {
                break;
            }
            wakers.push(first.remove());
        }
        wakers
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.segments.is_empty()
    }

    fn freeze_tail(&mut self) {
        if !self.tail.is_empty() {
            self.segments.push_back(Segment::Own(mem::take(&mut self.tail)));
        }
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
        let mut used = 0;
        for (slice, chunk) in slices.iter_mut().zip(chunks.filter(|chunk| !chunk.is_empty())) {
            *slice = IoSlice::new(chunk);
            used += 1;
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
        // A buffer written whole keeps its allocation for the next round.
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

/// The right to write in the writer's place, held by the reader for the length of a batch.
///
/// It must not be held across an await: until it is let go, sends wake nobody.
pub(crate) struct Held<'a> {
    outbox: &'a Outbox,
    writer: Option<Waker>,
    /// When something was first seen to be queued.
    since: Option<Instant>,
}

impl Held<'_> {
    /// To be called between messages: writes if much is queued, or if it has waited for long
    /// because the handlers are slow, and holds on.
    pub(crate) fn renew(&mut self, clock: &dyn Clock) {
        let queued = self.outbox.queued();
        if queued == 0 || self.writer.is_none() {
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
        // Without its waker the writer was not parked, and will see for itself.
        let Some(waker) = self.writer.take() else { return };
        let outbox = self.outbox;
        if outbox.queued() > 0 {
            let Some(mut writer) = outbox.writer.try_lock() else { return waker.wake() };
            let drained = outbox.drain(&mut writer, &mut Context::from_waker(&waker));
            match drained {
                Poll::Ready(Ok(Drained::Parked)) => return,
                // The writer keeps the deadlines, sends the FIN, and reports errors.
                Poll::Ready(Err(error)) => writer.failed = Some(error),
                Poll::Ready(Ok(Drained::Sealed)) | Poll::Pending => {}
            }
            drop(writer);
            return waker.wake();
        }
        let mut queue = outbox.queue.lock();
        if queue.pending.is_empty() && queue.intake == Intake::Open {
            queue.parked = Some(waker);
        } else {
            drop(queue);
            waker.wake();
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.writer.take().into_iter().for_each(Waker::wake);
    }
}

/// Marks this thread as being inside an encoder.
struct Encoding;

impl Encoding {
    fn enter() -> Self {
        ENCODING.set(true);
        Self
    }

    fn is_on() -> bool {
        ENCODING.get()
    }
}

impl Drop for Encoding {
    fn drop(&mut self) {
        ENCODING.set(false);
    }
}

/// Where the tail ended before an encoder wrote to it, and what stood there, to find an encoder
/// out that removes or overwrites the frames of others.
struct Border {
    at: usize,
    before: [u8; 16],
}

impl Border {
    fn of(tail: &BytesMut) -> Self {
        let mut before = [0; 16];
        if let Some(last) = tail.last_chunk() {
            before = *last;
        }
        Self { at: tail.len(), before }
    }

    fn stands_in(&self, tail: &BytesMut) -> bool {
        let Some(earlier) = tail.get(..self.at) else { return false };
        earlier.last_chunk().is_none_or(|last| *last == self.before)
    }
}

impl Fault {
    fn with<M>(self, message: M) -> SendError<M> {
        match self {
            Self::Full => SendError::Full(message),
            Self::Closed => SendError::NotConnected(message),
            Self::Reentrant => SendError::Reentrant(message),
        }
    }
}
