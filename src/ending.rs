//! The end of one connection: whether it has begun, how, why, and who waits for it.

use crate::{DisconnectReason, event::Event};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use std::{
    sync::atomic::{AtomicU8, Ordering},
    task::Waker,
};

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Manner {
    /// Queued messages are written, a FIN is sent, the peer's FIN is awaited.
    Graceful = 1,
    /// All is thrown away, and the connection is reset.
    Abort = 2,
}

#[derive(Default)]
pub(crate) struct Ending {
    /// 0, or the [`Manner`] asked for; it only ever grows.
    manner: AtomicU8,
    reason: Mutex<Option<DisconnectReason>>,
    /// The reader task, which carries the end out.
    reader: AtomicWaker,
    pub(crate) over: Event,
}

impl Ending {
    /// Asks for the end. The first reason stays; a stronger manner replaces a weaker one.
    pub(crate) fn begin(&self, reason: DisconnectReason, manner: Manner) {
        self.note(reason);
        self.manner.fetch_max(manner as u8, Ordering::AcqRel);
        self.reader.wake();
    }

    /// Notes a cause of which the end is sure to follow by itself.
    pub(crate) fn note(&self, reason: DisconnectReason) {
        let spare = {
            let mut first = self.reason.lock();
            if first.is_some() { Some(reason) } else { first.replace(reason) }
        };
        // Outside the lock: a reason may hold an error of the user's.
        drop(spare);
    }

    /// Replaces the reason, once the end has come out differently.
    pub(crate) fn amend(&self, reason: DisconnectReason) {
        let former = self.reason.lock().replace(reason);
        drop(former);
    }

    pub(crate) fn reason(&self) -> Option<DisconnectReason> {
        self.reason.lock().clone()
    }

    /// Whether the reason so far is one that loses nothing.
    pub(crate) fn is_clean(&self) -> bool {
        use DisconnectReason::*;
        let clean = |reason: &DisconnectReason| {
            matches!(reason, PeerClosed | Truncated { .. } | HandlerError(_) | User | Shutdown)
        };
        self.reason.lock().as_ref().is_none_or(clean)
    }

    /// Returns the manner asked for, if the end has been asked for.
    pub(crate) fn asked(&self) -> Option<Manner> {
        match self.manner.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Manner::Graceful),
            _ => Some(Manner::Abort),
        }
    }

    /// Has `waker` woken by whatever the reader task must know.
    pub(crate) fn register(&self, waker: &Waker) {
        self.reader.register(waker);
    }

    pub(crate) fn wake_reader(&self) {
        self.reader.wake();
    }
}
