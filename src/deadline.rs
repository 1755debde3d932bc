//! A deadline that is cheap to move.

use anypea_runtime::{Runtime, Timer};
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// An optional deadline with a timer that is made when first waited for, and re-armed only when
/// it fires too early: moving the deadline ahead costs an assignment.
#[derive(Default)]
pub(crate) struct Deadline {
    at: Option<Instant>,
    timer: Option<Pin<Box<dyn Timer>>>,
    armed: Option<Instant>,
}

impl Deadline {
    pub(crate) fn after(runtime: &dyn Runtime, time: Duration) -> Self {
        let mut deadline = Self::default();
        deadline.set(runtime, time);
        deadline
    }

    pub(crate) fn is_set(&self) -> bool {
        self.at.is_some()
    }

    pub(crate) fn set(&mut self, runtime: &dyn Runtime, time: Duration) {
        self.at = Some(later(runtime.now(), time));
    }

    /// Sets the deadline aside and gives the timer back, which would be dead weight in an idle
    /// connection.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Is ready once the deadline has passed; never if none is set.
    pub(crate) fn poll(&mut self, runtime: &dyn Runtime, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        loop {
            let timer = self.timer.get_or_insert_with(|| {
                self.armed = Some(at);
                runtime.timer(at)
            });
            if self.armed > Some(at) {
                timer.as_mut().reset(at);
                self.armed = Some(at);
            }
            ready!(timer.as_mut().poll(cx));
            // Taken at its word, without a look at the clock: the timer of a runtime that is gone
            // fires at once, however often it is re-armed, and this loop would never end.
            if self.armed >= Some(at) {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
            self.armed = Some(at);
        }
    }
}

/// Returns `now + time`, or an instant in the far future where that has no representation.
pub(crate) fn later(now: Instant, time: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now.checked_add(time).or_else(|| now.checked_add(CENTURY)).unwrap_or(now)
}

/// Runs `future` for at most `time`; `None` if it was not over by then.
pub(crate) async fn within<T>(
    runtime: &dyn Runtime,
    time: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    let mut deadline = Deadline::default();
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        // Only a future that is not ready at once costs a clock reading and a timer.
        if !deadline.is_set() {
            deadline.set(runtime, time);
        }
        deadline.poll(runtime, cx).map(|()| None)
    })
    .await
}
