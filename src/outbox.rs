//! A connection's send buffer.
//!
//! There is no queue of messages. Whoever sends encodes straight into the tail of the buffer,
//! under its lock, and wakes the writer only if it is parked. Whoever writes takes all there is
//! and hands it to the socket in one go, under a lock of its own (see `writer.rs`), so that
//! sending goes on meanwhile.
//!
//! Under the buffer's lock nothing foreign runs but `encode`: no waker, no tracing, no drop of a
//! message, since each of them might come back here.

use crate::{
    BoxError, NotDelivered,
    writer::{Batch, Drained, Held, Writer},
};
use anypea_runtime::WriteHalf;
use asynchronous_codec::Encoder;
use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard};
use std::{
    any::Any,
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*},
    task::{Context, Poll, Waker},
    time::Duration,
};

/// Ready bytes from this size on are queued as they are, uncopied.
const SHARE_BYTES: usize = 16 * 1024;

thread_local! {
    /// Whether the thread is inside an encoder.
    static ENCODING: Cell<bool> = const { Cell::new(false) };
}

/// What [`Writing`](crate::Writing) gives to each connection.
pub(crate) struct Sender {
    /// The codec, of a type that the caller of `enqueue` knows; `None` once nothing more is taken.
    pub(crate) encoder: Option<Box<dyn Any + Send>>,
    pub(crate) queue_bytes: usize,
    pub(crate) write_timeout: Duration,
    pub(crate) encode_error_is_fatal: bool,
}

/// A place in a line of waiting futures.
pub(crate) type Ticket = Option<u64>;

/// Why a message was not queued.
pub(crate) enum Fault {
    Full,
    Closed,
    NotEnabled,
    Reentrant,
    /// The encoder's error, and whether it ends the connection.
    Encode(BoxError, bool),
    /// The encoder has damaged earlier frames, or panicked; the connection has to end.
    Broken(Option<Box<dyn Any + Send>>),
}

#[derive(Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    pub(crate) writer: Mutex<Writer>,
    /// The connection is, or was, registered.
    ready: AtomicBool,
    /// The writer has ended.
    finished: AtomicBool,
    pub(crate) counts: Counts,
}

/// Counts that are written under the queue's lock, and can be read without it, also from inside
/// an encoder.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) queued: AtomicUsize,
    pub(crate) most_queued: AtomicUsize,
    pub(crate) messages_written: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    /// Queued bytes that were thrown away.
    pub(crate) lost: AtomicUsize,
}

#[derive(Default, PartialEq, Eq, Clone, Copy)]
enum Intake {
    /// The connection is being set up.
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
    /// Bytes ever queued, and of these the bytes that are in the operating system's hands.
    enqueued: u64,
    delivered: u64,
    /// The writer's waker while it is parked.
    parked: Option<Waker>,
    next_ticket: u64,
    /// `None` while nobody has to wait for anything, as is the rule.
    waiting: Option<Box<Waiting>>,
}

/// Futures that wait for something of the outbox.
#[derive(Default)]
struct Waiting {
    /// Senders that wait for room, first come first served.
    room: VecDeque<(u64, Waker)>,
    /// Deliveries, by the offset that they wait for.
    deliveries: BTreeMap<(u64, u64), Waker>,
}

impl Outbox {
    pub(crate) fn open(&self, half: WriteHalf, sender: Option<Sender>) {
        self.writer.lock().half = Some(half);
        let mut queue = self.queue.lock();
        queue.sender = sender;
        queue.intake = Intake::Open;
        self.ready.store(true, Release);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Acquire)
    }

    /// Returns how long the peer may take; without [`Writing`](crate::Writing) there is only a
    /// FIN to take.
    pub(crate) fn write_timeout(&self) -> Duration {
        const FIN_TIMEOUT: Duration = Duration::from_secs(10);
        self.queue.lock().sender.as_ref().map_or(FIN_TIMEOUT, |sender| sender.write_timeout)
    }

    pub(crate) fn finish(&self) {
        self.finished.store(true, Release);
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished.load(Acquire)
    }

    /// Encodes `message` into the buffer, and returns the offset at which its frame ends. A
    /// message that the encoder has not been given is left where it is.
    pub(crate) fn enqueue<C, M>(
        &self,
        message: &mut Option<M>,
        ticket: Ticket,
    ) -> Result<u64, Fault>
    where
        C: for<'a> Encoder<Item<'a> = M, Error: Into<BoxError>> + 'static,
    {
        let mut guard = self.admit(ticket)?;
        let Queue { sender, pending: Batch { tail, .. }, .. } = &mut *guard;
        let Some(Sender { encoder: Some(encoder), encode_error_is_fatal, .. }) = sender else {
            return Err(Fault::NotEnabled);
        };
        let Some(encoder) = encoder.downcast_mut::<C>() else { return Err(Fault::NotEnabled) };
        let Some(message) = message.take() else { return Err(Fault::Closed) };
        let border = Border::of(tail);
        ENCODING.with(|encoding| encoding.set(true));
        let encoded = catch_unwind(AssertUnwindSafe(|| encoder.encode(message, tail)));
        ENCODING.with(|encoding| encoding.set(false));
        if encoded.is_err() || !border.stands_in(tail) {
            self.close_locked(guard);
            return Err(Fault::Broken(encoded.err()));
        }
        if let Ok(Err(error)) = encoded {
            tail.truncate(border.at);
            let fatal = *encode_error_is_fatal;
            drop(guard);
            return Err(Fault::Encode(error.into(), fatal));
        }
        let frame = tail.len() - border.at;
        Ok(self.took(guard, frame, ticket))
    }

    /// Queues ready bytes at a frame border, and returns the offset at which they end.
    pub(crate) fn enqueue_encoded(&self, bytes: &mut Option<Bytes>) -> Result<u64, Fault> {
        let mut queue = self.admit(None)?;
        if queue.sender.is_none() {
            return Err(Fault::NotEnabled);
        }
        let length = bytes.as_ref().map_or(0, Bytes::len);
        if let Some(bytes) = bytes.take_if(|_| length >= SHARE_BYTES) {
            queue.pending.share(bytes);
        } else if let Some(bytes) = bytes {
            queue.pending.tail.extend_from_slice(bytes);
        }
        Ok(self.took(queue, length, None))
    }

    /// Checks that a message may be queued now, in the order of arrival.
    #[inline]
    fn admit(&self, ticket: Ticket) -> Result<MutexGuard<'_, Queue>, Fault> {
        if ENCODING.with(Cell::get) {
            return Err(Fault::Reentrant);
        }
        let queue = self.queue.lock();
        if queue.intake != Intake::Open {
            return Err(Fault::Closed);
        }
        let first = queue.first_in_line().map(|(ticket, _)| *ticket);
        if queue.queued >= queue.limit() || (first.is_some() && first != ticket) {
            return Err(Fault::Full);
        }
        Ok(queue)
    }

    /// Accounts for a frame that is in the buffer now, and wakes whom it concerns.
    #[inline]
    fn took(&self, mut queue: MutexGuard<'_, Queue>, frame: usize, ticket: Ticket) -> u64 {
        queue.pending.messages += 1;
        queue.queued += frame;
        queue.enqueued += frame as u64;
        self.counts.queued.store(queue.queued, Relaxed);
        if queue.queued > self.counts.most_queued.load(Relaxed) {
            self.counts.most_queued.store(queue.queued, Relaxed);
        }
        let end = queue.enqueued;
        if queue.parked.is_some() || ticket.is_some() {
            wake_for_frame(queue, ticket);
        }
        end
    }

    /// Waits in line for room. Ready when it is worth trying again with the ticket.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>, ticket: &mut Ticket) -> Poll<()> {
        let mut guard = self.queue.lock();
        let queue = &mut *guard;
        if queue.intake != Intake::Open {
            return Poll::Ready(());
        }
        let number = *ticket.get_or_insert_with(|| queue.new_ticket());
        let room = &mut queue.waiting().room;
        let place = match room.iter().position(|(ticket, _)| *ticket == number) {
            Some(place) => {
                room[place].1.clone_from(cx.waker());
                place
            }
            None => {
                room.push_back((number, cx.waker().clone()));
                room.len() - 1
            }
        };
        // Room that came since the caller looked would otherwise be announced to nobody.
        if place == 0 && queue.queued < queue.limit() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Gives up a place in the line.
    pub(crate) fn leave_line(&self, ticket: Ticket) {
        let mut queue = self.queue.lock();
        queue.waiting().room.retain(|(number, _)| Some(*number) != ticket);
        // The place may have been first, and its waker spent.
        let next = queue.next_in_line();
        drop(queue);
        wake(next);
    }

    /// Waits until all bytes before `end` are in the operating system's hands; an error if they
    /// never will be.
    pub(crate) fn poll_delivered(
        &self,
        cx: &mut Context<'_>,
        end: u64,
        ticket: &mut Ticket,
    ) -> Poll<Result<(), NotDelivered>> {
        if ENCODING.with(Cell::get) {
            // The lock may be the encoder's, on this very thread.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut guard = self.queue.lock();
        let queue = &mut *guard;
        if queue.delivered >= end {
            return Poll::Ready(Ok(()));
        }
        if queue.intake == Intake::Closed {
            return Poll::Ready(Err(NotDelivered));
        }
        let number = *ticket.get_or_insert_with(|| queue.new_ticket());
        queue.waiting().deliveries.insert((end, number), cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn forget_delivery(&self, end: u64, ticket: u64) {
        if ENCODING.with(Cell::get) {
            // As above. What stays behind is a wake that nobody needs.
            return;
        }
        let waker = self.queue.lock().waiting().deliveries.remove(&(end, ticket));
        drop(waker);
    }

    /// Takes no more messages; what is queued will be written, and a FIN after it.
    pub(crate) fn seal(&self) {
        let mut queue = self.queue.lock();
        if queue.intake != Intake::Closed {
            queue.intake = Intake::Sealed;
        }
        let (parked, room) = (queue.parked.take(), mem::take(&mut queue.waiting().room));
        let encoder = queue.sender.as_mut().and_then(|sender| sender.encoder.take());
        drop(queue);
        drop(encoder);
        wake(parked.into_iter().chain(room.into_iter().map(|(_, waker)| waker)));
    }

    /// Takes no more messages and throws away what is queued. Returns how many bytes that was.
    pub(crate) fn close(&self) -> usize {
        self.close_locked(self.queue.lock())
    }

    fn close_locked(&self, mut queue: MutexGuard<'_, Queue>) -> usize {
        let spent = mem::take(&mut *queue);
        queue.intake = Intake::Closed;
        queue.enqueued = spent.enqueued;
        queue.delivered = spent.delivered;
        queue.next_ticket = spent.next_ticket;
        self.counts.queued.store(0, Relaxed);
        self.counts.lost.fetch_add(spent.queued, Relaxed);
        drop(queue);
        let Queue { sender, pending, queued, parked, waiting, .. } = spent;
        drop((sender, pending));
        let Waiting { room, deliveries } = waiting.map(|waiting| *waiting).unwrap_or_default();
        let room = room.into_iter().map(|(_, waker)| waker);
        wake(parked.into_iter().chain(room).chain(deliveries.into_values()));
        queued
    }

    /// Takes the parked writer's waker, so that sends don't wake it: the caller will write.
    pub(crate) fn hold(&self) -> Held<'_> {
        Held::new(self, self.queue.lock().parked.take())
    }

    /// Parks the writer again, unless there is something for it to do: then its waker comes back.
    pub(crate) fn park(&self, waker: Waker) -> Option<Waker> {
        let mut queue = self.queue.lock();
        if queue.pending.is_empty() && queue.intake == Intake::Open {
            queue.parked = Some(waker);
            None
        } else {
            Some(waker)
        }
    }

    /// Gives the writer all that is queued, in exchange for a spent batch. If that is nothing,
    /// parks the writer, or tells that nothing more will come.
    pub(crate) fn take(&self, batch: &mut Batch, waker: &Waker) -> Option<Drained> {
        let written = mem::take(&mut batch.messages);
        let mut queue = self.queue.lock();
        if written > 0 {
            let messages = self.counts.messages_written.load(Relaxed) + written;
            self.counts.messages_written.store(messages, Relaxed);
        }
        if !queue.pending.is_empty() {
            mem::swap(&mut queue.pending, batch);
            return None;
        }
        if queue.intake != Intake::Open {
            return Some(Drained::Sealed);
        }
        queue.parked = Some(waker.clone());
        // An idle connection owns no buffer.
        let waiting = queue.waiting.take_if(|waiting| waiting.is_empty());
        let spare = (mem::take(&mut queue.pending.tail), mem::take(batch), waiting);
        drop(queue);
        drop(spare);
        Some(Drained::Parked)
    }

    /// Accounts for bytes that the stream took, and wakes the first sender if there is room.
    pub(crate) fn wrote(&self, written: usize) {
        let mut queue = self.queue.lock();
        // Not below zero: the queue may have been closed meanwhile.
        queue.queued = queue.queued.saturating_sub(written);
        self.counts.queued.store(queue.queued, Relaxed);
        let bytes = self.counts.bytes_written.load(Relaxed) + written as u64;
        self.counts.bytes_written.store(bytes, Relaxed);
        // Half of the queue is let drain first, so that one wake serves many messages.
        let drained = queue.waiting.is_some() && queue.queued <= queue.limit() / 2;
        let next = if drained { queue.next_in_line() } else { None };
        drop(queue);
        wake(next);
    }

    /// Accounts for bytes that have left the stream, too, and wakes whoever waited for that.
    pub(crate) fn flushed(&self, bytes: usize) {
        let mut queue = self.queue.lock();
        queue.delivered += bytes as u64;
        let beyond = (queue.delivered + 1, 0);
        let Some(Waiting { deliveries, .. }) = queue.waiting.as_deref_mut() else { return };
        let undelivered = deliveries.split_off(&beyond);
        let delivered = mem::replace(deliveries, undelivered);
        drop(queue);
        wake(delivered.into_values());
    }
}

/// Wakes the writer if it is parked, and the next sender if one has left the line.
#[cold]
fn wake_for_frame(mut queue: MutexGuard<'_, Queue>, ticket: Ticket) {
    let writer = queue.parked.take();
    let next = ticket.and_then(|_| {
        queue.waiting().room.pop_front();
        queue.next_in_line()
    });
    drop(queue);
    wake(writer.into_iter().chain(next));
}

fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

impl Queue {
    #[inline]
    fn limit(&self) -> usize {
        self.sender.as_ref().map_or(usize::MAX, |sender| sender.queue_bytes)
    }

    fn new_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    fn waiting(&mut self) -> &mut Waiting {
        self.waiting.get_or_insert_default()
    }

    #[inline]
    fn first_in_line(&self) -> Option<&(u64, Waker)> {
        self.waiting.as_ref()?.room.front()
    }

    /// Returns the waker of the first sender in line, if it can be served.
    fn next_in_line(&self) -> Option<Waker> {
        let (_, waker) = self.first_in_line()?;
        (self.queued < self.limit()).then(|| waker.clone())
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.room.is_empty() && self.deliveries.is_empty()
    }
}

/// Where the tail ended before an encoder wrote to it, and what stood there, to find an encoder
/// out that removes or overwrites the frames of others.
struct Border {
    at: usize,
    before: [u8; 16],
}

impl Border {
    #[inline]
    fn of(tail: &BytesMut) -> Self {
        let mut before = [0; 16];
        match tail.last_chunk() {
            Some(last) => before = *last,
            None => before[..tail.len()].copy_from_slice(tail),
        }
        Self { at: tail.len(), before }
    }

    #[inline]
    fn stands_in(&self, tail: &BytesMut) -> bool {
        let Some(earlier) = tail.get(..self.at) else { return false };
        match earlier.last_chunk() {
            Some(last) => *last == self.before,
            None => *earlier == self.before[..self.at],
        }
    }
}
