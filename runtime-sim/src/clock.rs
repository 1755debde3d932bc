//! Virtual time.

use crate::{
    event::NO_HOST,
    host::{Host, Life},
    shared::Shared,
};
use anypea_runtime::{Clock, Timer};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

/// The wall-clock time at which every run starts: the first second of 2025 (UTC).
const START: Duration = Duration::from_secs(1_735_689_600);

impl Clock for Host {
    fn now(&self) -> Instant {
        let shared = self.shared();
        shared.instant(self.life().local(shared.now()))
    }

    fn wall(&self) -> SystemTime {
        let shared = self.shared();
        SystemTime::UNIX_EPOCH + START + Duration::from_nanos(self.life().wall(shared.now()))
    }

    fn timer(&self, at: Instant) -> Pin<Box<dyn Timer>> {
        let shared = self.shared();
        let at = shared.nanos(at);
        Box::pin(Alarm { shared: shared.clone(), host: Some(self.life().clone()), at, slot: None })
    }
}

/// A timer. It is known to the simulation only while somebody waits for it.
pub(crate) struct Alarm {
    shared: Arc<Shared>,
    /// The host whose clock counts; `None` for the simulation's own.
    host: Option<Arc<Life>>,
    at: u64,
    slot: Option<u32>,
}

impl Alarm {
    /// Returns a timer by the simulation's own clock.
    pub(crate) fn global(shared: &Arc<Shared>, at: u64) -> Self {
        Self { shared: shared.clone(), host: None, at, slot: None }
    }

    fn host_number(&self) -> u32 {
        self.host.as_ref().map_or(NO_HOST, |life| life.host)
    }

    fn cancel(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.shared.with(|world| world.cancel_alarm(slot));
        }
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let usable = this.shared.enter("a timer", this.host_number()) && !this.shared.is_over();
        let due = match &this.host {
            Some(life) => life.global(this.at),
            None => this.at,
        };
        let gone = this.host.as_ref().is_some_and(|life| !life.is_alive());
        if !usable || gone || due <= this.shared.now() {
            this.cancel();
            return Poll::Ready(());
        }
        let host = this.host_number();
        let (slot, shared) = (&mut this.slot, &this.shared);
        // It may be over by now, on another thread.
        let known = shared.with(|world| match *slot {
            Some(slot) => world.rearm_alarm(slot, due, cx.waker()),
            None => {
                *slot = world.insert_alarm(due, host, cx.waker());
                slot.is_some()
            }
        });
        if known { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Timer for Alarm {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.at = self.shared.nanos(at);
        self.cancel();
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.cancel();
    }
}
