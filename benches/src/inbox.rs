//! Counting what arrives, and bounding what is under way.
//!
//! All contenders share this code. Each payload begins with the number of its sender, so that a
//! receiver finds the sender's count without any help from the library under test. The count
//! bounds what a sender may have under way, in the libraries' queues, in the kernel and in
//! between: the same for all, whatever queue limits they have of their own.

use bytes::Bytes;
use crossbeam_utils::CachePadded;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::*},
    },
    task::Poll,
    time::Instant,
};

/// Bytes of a payload that name its sender.
const NUMBER_BYTES: usize = 4;

/// Returns a payload of `bytes` bytes from the sender with a number.
///
/// It lives for ever, so that its clones cost nothing: counting references to it would be a good
/// part of what a small message costs, for everybody alike.
pub fn payload(sender: usize, bytes: usize) -> Bytes {
    static PAYLOADS: Mutex<BTreeMap<(usize, usize), &[u8]>> = Mutex::new(BTreeMap::new());
    let make = || {
        let mut payload = vec![0xA5; bytes.max(NUMBER_BYTES)];
        payload[..NUMBER_BYTES].copy_from_slice(&(sender as u32).to_be_bytes());
        &*payload.leak()
    };
    Bytes::from_static(PAYLOADS.lock().entry((sender, bytes)).or_insert_with(make))
}

/// Counts what arrives from each of several senders.
pub struct Inbox {
    slots: Box<[CachePadded<Slot>]>,
    /// Messages that one sender may have under way.
    window: u64,
    bytes: usize,
    /// Senders whose messages have not all arrived.
    missing: AtomicUsize,
    finished: Mutex<Instant>,
    waker: AtomicWaker,
}

/// One sender's count. The receiver is one task per connection, so it needs no atomic addition.
struct Slot {
    arrived: AtomicU64,
    goal: AtomicU64,
    /// `arrived`, as told to the sender now and then.
    told: CachePadded<AtomicU64>,
    /// The count at which the sender wants to be woken.
    wake_at: AtomicU64,
    waker: AtomicWaker,
}

impl Inbox {
    /// Makes an inbox for messages of `bytes` bytes from each of `senders`, of which each may have
    /// `window` messages under way.
    pub fn new(senders: usize, bytes: usize, window: usize) -> Arc<Self> {
        let slot = |_| {
            CachePadded::new(Slot {
                arrived: AtomicU64::new(0),
                goal: AtomicU64::new(u64::MAX),
                told: CachePadded::new(AtomicU64::new(0)),
                wake_at: AtomicU64::new(u64::MAX),
                waker: AtomicWaker::new(),
            })
        };
        Arc::new(Self {
            slots: (0..senders).map(slot).collect(),
            window: window.next_power_of_two().max(4) as u64,
            bytes,
            missing: AtomicUsize::new(0),
            finished: Mutex::new(Instant::now()),
            waker: AtomicWaker::new(),
        })
    }

    /// Returns how many messages a sender may have under way.
    pub fn window(&self) -> usize {
        self.window as usize
    }

    /// Takes one message.
    #[inline]
    pub fn take(&self, message: &[u8]) {
        assert_eq!(message.len(), self.bytes, "a message of another length");
        let number = message.first_chunk::<NUMBER_BYTES>().expect("a number");
        let slot = &self.slots[u32::from_be_bytes(*number) as usize];
        let arrived = slot.arrived.load(Relaxed) + 1;
        slot.arrived.store(arrived, Relaxed);
        // A sixteenth of the window at a time, so that telling costs nothing much.
        let quantum = (self.window / 16).max(1);
        if arrived & (quantum - 1) == 0 {
            slot.told.store(arrived, SeqCst);
            if slot.wake_at.load(SeqCst) <= arrived {
                slot.waker.wake();
            }
        }
        if arrived == slot.goal.load(Relaxed) && self.missing.fetch_sub(1, AcqRel) == 1 {
            *self.finished.lock() = Instant::now();
            self.waker.wake();
        }
    }

    /// Sets the next goal: `messages` more from each sender. Call it while nothing is under way.
    pub fn expect(&self, messages: u64) {
        self.missing.store(self.slots.len(), SeqCst);
        for slot in &self.slots {
            slot.goal.store(slot.arrived.load(SeqCst) + messages, SeqCst);
        }
    }

    /// Waits until the goal is reached, and tells when it was.
    pub async fn reached(&self) -> Instant {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.missing.load(Acquire) == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        *self.finished.lock()
    }
}

/// A sender's side of an [`Inbox`].
pub struct Credit {
    inbox: Arc<Inbox>,
    sender: usize,
    sent: u64,
    limit: u64,
}

impl Credit {
    /// Returns that of the sender with a number.
    pub fn new(inbox: &Arc<Inbox>, sender: usize) -> Self {
        Self { inbox: inbox.clone(), sender, sent: 0, limit: inbox.window }
    }

    /// Takes leave to send one message; `false` if too much is under way already.
    #[inline]
    pub fn take(&mut self) -> bool {
        if self.sent == self.limit {
            self.limit = self.inbox.slots[self.sender].told.load(Acquire) + self.inbox.window;
        }
        let free = self.sent < self.limit;
        self.sent += u64::from(free);
        free
    }

    /// Waits until half of the window is free.
    pub async fn wait(&mut self) {
        let slot = &self.inbox.slots[self.sender];
        let wake_at = self.sent.saturating_sub(self.inbox.window / 2);
        poll_fn(|cx| {
            slot.waker.register(cx.waker());
            slot.wake_at.store(wake_at, SeqCst);
            if slot.told.load(SeqCst) < wake_at {
                return Poll::Pending;
            }
            slot.wake_at.store(u64::MAX, SeqCst);
            Poll::Ready(())
        })
        .await;
    }
}
