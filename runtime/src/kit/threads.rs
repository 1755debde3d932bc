//! Use from threads that the runtime doesn't know.

use super::{
    Case,
    host::{Host, accept},
};
use futures_channel::oneshot;
use futures_util::{AsyncReadExt, AsyncWriteExt, future::join};
use std::{
    future::{Future, ready},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

pub(super) const CASES: &[Case] = &[
    Case::inside("another_thread_can_connect", |host| Box::pin(another_thread_can_connect(host))),
    Case::inside("another_thread_can_use_timers", |host| {
        Box::pin(another_thread_can_use_timers(host))
    }),
    Case::inside("another_thread_can_spawn", |host| Box::pin(another_thread_can_spawn(host))),
];

async fn another_thread_can_connect(host: Host) {
    let outcome = on_another_thread(async move {
        let (mut listener, addr) = host.listen().await;
        let (dialed, accepted) = join(host.dial(addr), accept(&mut listener)).await;
        let (mut dialed, mut accepted) = (dialed.expect("connect"), accepted.expect("accept").0);
        dialed.write_all(b"from afar").await.expect("write");
        dialed.close().await.expect("close");
        let mut heard = Vec::new();
        accepted.read_to_end(&mut heard).await.expect("read");
        assert_eq!(heard, b"from afar");
    });
    outcome.await.expect("the thread panicked");
}

async fn another_thread_can_use_timers(host: Host) {
    let outcome = on_another_thread(async move {
        let soon = Duration::from_millis(5);
        let mut timer = host.after(soon);
        timer.as_mut().await;
        let at = host.now() + soon;
        timer.as_mut().reset(at);
        timer.await;
        assert!(host.now() >= at, "fired early");
    });
    outcome.await.expect("the thread panicked");
}

async fn another_thread_can_spawn(host: Host) {
    let outcome = on_another_thread(async move { host.start(ready(7)).await });
    assert_eq!(outcome.await.expect("the thread panicked"), Ok(7));
}

/// Runs `body` on a new thread, without any runtime around it.
pub(super) fn on_another_thread<T: Send + 'static>(
    body: impl Future<Output = T> + Send + 'static,
) -> oneshot::Receiver<T> {
    let (report, outcome) = oneshot::channel();
    thread::spawn(move || report.send(block_on(body)));
    outcome
}

/// Polls `body` on this thread until it has ended.
pub(super) fn block_on<T>(body: impl Future<Output = T>) -> T {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut body = pin!(body);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match body.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => return outcome,
            Poll::Pending => thread::park(),
        }
    }
}
