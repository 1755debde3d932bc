use crate::Tokio;
use anypea_runtime::{Clock, Timer};
use pin_project_lite::pin_project;
use std::{
    future::{Future, pending},
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
    time::{Instant, SystemTime},
};
use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{Sleep, sleep_until},
};

impl Clock for Tokio {
    fn now(&self) -> Instant {
        // tokio's clock, because it can be paused in tests.
        tokio::time::Instant::now().into_std()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn timer(&self, at: Instant) -> Pin<Box<dyn Timer>> {
        let _inside = self.handle.enter();
        Box::pin(Alarm { sleep: sleep_until(at.into()), life: Arc::clone(&self.life) })
    }
}

pin_project! {
    /// tokio's timer, but for the panic with which that one meets the end of its runtime.
    struct Alarm {
        #[pin]
        sleep: Sleep,
        life: Arc<Life>,
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        // Only the runtime's end ever takes this lock for writing, so a failure to take it for
        // reading means that end. Holding it while polling makes the end wait for the poll.
        match this.life.alive.try_read() {
            Ok(alive) if *alive => this.sleep.poll(cx),
            _ => Poll::Ready(()),
        }
    }
}

impl Timer for Alarm {
    fn reset(self: Pin<&mut Self>, at: Instant) {
        self.project().sleep.reset(at.into());
    }
}

/// Knows whether a tokio runtime is still there, which tokio itself doesn't tell.
///
/// A runtime drops its tasks before it stops its timers. So a task that only waits to be dropped
/// learns of the end in time.
#[derive(Debug)]
pub(crate) struct Life {
    alive: Arc<RwLock<bool>>,
    witness: AbortHandle,
}

impl Life {
    pub(crate) fn of(handle: &Handle) -> Self {
        let alive = Arc::new(RwLock::new(true));
        let witness = Witness(Arc::clone(&alive));
        let task = handle.spawn(async move {
            let _witness = witness;
            pending::<()>().await;
        });
        Self { alive, witness: task.abort_handle() }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.witness.abort();
    }
}

struct Witness(Arc<RwLock<bool>>);

impl Drop for Witness {
    fn drop(&mut self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = false;
    }
}
