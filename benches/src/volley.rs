//! Request and response: the next request is sent as soon as the answer to the last is there.

use bytes::Bytes;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::*},
    },
    task::Poll,
    time::{Duration, Instant},
};

/// A series of requests, and how long each answer took.
pub struct Volley {
    request: Bytes,
    rally: Mutex<Rally>,
    over: AtomicBool,
    waker: AtomicWaker,
}

struct Rally {
    sent: Instant,
    until: Instant,
    times: Vec<Duration>,
}

impl Volley {
    /// Prepares as many requests as have an answer within `time`.
    pub fn new(request: Bytes, time: Duration) -> Arc<Self> {
        let now = Instant::now();
        // More than fit, so that no reallocation shows in the times.
        let times = Vec::with_capacity(time.as_micros() as usize / 4);
        let rally = Rally { sent: now, until: now + time, times };
        Arc::new(Self {
            request,
            rally: Mutex::new(rally),
            over: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        })
    }

    /// Returns the first request, to be sent now.
    pub fn open(&self) -> Bytes {
        self.rally.lock().sent = Instant::now();
        self.request.clone()
    }

    /// Takes an answer, and returns the next request.
    pub fn take(&self) -> Option<Bytes> {
        let now = Instant::now();
        let mut rally = self.rally.lock();
        let time = now - rally.sent;
        rally.times.push(time);
        if now >= rally.until {
            drop(rally);
            self.over.store(true, Release);
            self.waker.wake();
            return None;
        }
        rally.sent = Instant::now();
        Some(self.request.clone())
    }

    /// Whether there has been the last answer.
    pub fn is_over(&self) -> bool {
        self.over.load(Acquire)
    }

    /// Waits for the last answer, and returns the times, sorted; the first tenth, when everything
    /// was still cold, is left out.
    pub async fn times(&self) -> Vec<Duration> {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.is_over() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let mut times = std::mem::take(&mut self.rally.lock().times);
        times.drain(..times.len() / 10);
        times.sort_unstable();
        times
    }
}
