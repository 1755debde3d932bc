use crate::AsyncStd;
use anypea_runtime::{Clock, Timer};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Instant, SystemTime},
};

impl Clock for AsyncStd {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn timer(&self, at: Instant) -> Pin<Box<dyn Timer>> {
        Box::pin(Alarm { timer: async_io::Timer::at(at), fired: false })
    }
}

/// async-io's timer, but for its being ready only once.
struct Alarm {
    timer: async_io::Timer,
    fired: bool,
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.fired {
            ready!(Pin::new(&mut self.timer).poll(cx));
            self.fired = true;
        }
        Poll::Ready(())
    }
}

impl Timer for Alarm {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.timer.set_at(at);
        self.fired = false;
    }
}
