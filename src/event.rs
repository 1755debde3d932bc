//! A thing that happens once, and that many can wait for.

use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    task::{Context, Poll, Waker},
};

/// Fires once; whoever waits is woken, and whoever comes later need not wait.
#[derive(Default)]
pub(crate) struct Event(Mutex<State>);

#[derive(Default)]
struct State {
    fired: bool,
    next_key: u64,
    waiting: BTreeMap<u64, Waker>,
}

impl Event {
    pub(crate) fn fire(&self) {
        let waiting = {
            let mut state = self.0.lock();
            state.fired = true;
            std::mem::take(&mut state.waiting)
        };
        // Outside the lock: a waker may run code of a runtime that comes back here.
        waiting.into_values().for_each(Waker::wake);
    }

    pub(crate) fn has_fired(&self) -> bool {
        self.0.lock().fired
    }

    /// Polls for the event. `key` belongs to the waiting future, which [`forget`](Self::forget)s
    /// it when dropped.
    pub(crate) fn poll(&self, cx: &mut Context<'_>, key: &mut Option<u64>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.fired {
            return Poll::Ready(());
        }
        let next = state.next_key;
        let key = *key.get_or_insert(next);
        state.next_key = next.max(key + 1);
        state.waiting.insert(key, cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn forget(&self, key: Option<u64>) {
        if let Some(key) = key {
            self.0.lock().waiting.remove(&key);
        }
    }
}
