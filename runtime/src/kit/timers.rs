//! Timers.

use super::{
    Case, Ended, Harness,
    host::Host,
    threads::{self, on_another_thread},
};
use futures_util::{future::poll_immediate, task::noop_waker};
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, mpsc},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

pub(super) const CASES: &[Case] = &[
    Case::inside("timers_fire_in_order", |host| Box::pin(timers_fire_in_order(host))),
    Case::inside("a_past_instant_fires_at_once", |host| {
        Box::pin(a_past_instant_fires_at_once(host))
    }),
    Case::inside("a_fired_timer_stays_ready", |host| Box::pin(a_fired_timer_stays_ready(host))),
    Case::inside("a_timer_can_be_reset", |host| Box::pin(a_timer_can_be_reset(host))),
    Case::inside("a_fired_timer_can_be_reset", |host| Box::pin(a_fired_timer_can_be_reset(host))),
    Case::inside("a_century_is_nothing_special", |host| {
        Box::pin(a_century_is_nothing_special(host))
    }),
    Case::inside("a_timer_wakes_who_polled_last", |host| {
        Box::pin(a_timer_wakes_who_polled_last(host))
    }),
    Case::inside("a_dropped_timer_leaves_nothing", |host| {
        Box::pin(a_dropped_timer_leaves_nothing(host))
    }),
    Case::outside("timers_survive_their_runtime", timers_survive_their_runtime),
    Case::outside("the_end_of_the_runtime_wakes_timers", the_end_of_the_runtime_wakes_timers),
];

const SOON: Duration = Duration::from_millis(5);
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

async fn timers_fire_in_order(host: Host) {
    let start = host.now();
    let instants = [1, 2, 4, 8].map(|factor| start + SOON * factor);
    let mut timers = instants.map(|at| host.timer(at));
    let mut fired = [false; 4];
    poll_fn(|cx| {
        // From the last to the first: if one is ready, those before it must be so as well.
        for later in (0..4).rev() {
            let was = fired[later];
            fired[later] = timers[later].as_mut().poll(cx).is_ready();
            assert!(fired[later] || !was, "timer {later} was ready and is no longer");
            let early = host.now() < instants[later];
            assert!(!(fired[later] && early), "timer {later} fired early");
            if later < 3 {
                assert!(fired[later] || !fired[later + 1], "timer {later} fired out of order");
            }
        }
        if fired == [true; 4] { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

async fn a_past_instant_fires_at_once(host: Host) {
    let start = host.now();
    host.after(SOON).await;
    host.timer(start).await;
}

async fn a_fired_timer_stays_ready(host: Host) {
    let mut timer = host.after(SOON);
    timer.as_mut().await;
    for _ in 0..3 {
        assert!(poll_immediate(timer.as_mut()).await.is_some(), "it was ready only once");
    }
}

async fn a_timer_can_be_reset(host: Host) {
    let start = host.now();
    let mut later = host.timer(start + SOON);
    let mut sooner = host.timer(start + CENTURY);
    // Once before and once after the runtime has come to know the timer.
    for polled in [false, true] {
        if polled {
            assert!(poll_immediate(sooner.as_mut()).await.is_none(), "fired a century early");
            let _ = poll_immediate(later.as_mut()).await;
        }
        let at = host.now() + SOON * 2;
        later.as_mut().reset(at);
        later.as_mut().await;
        assert!(host.now() >= at, "fired at the instant before the reset");

        sooner.as_mut().reset(host.now() + SOON);
        sooner.as_mut().await;
        sooner.as_mut().reset(start + CENTURY);
    }
}

async fn a_fired_timer_can_be_reset(host: Host) {
    let mut timer = host.after(SOON);
    for _ in 0..5 {
        timer.as_mut().await;
        let at = host.now() + SOON;
        timer.as_mut().reset(at);
        timer.as_mut().await;
        assert!(host.now() >= at, "a reset timer was still ready");
    }
    timer.as_mut().reset(host.now() + CENTURY);
    assert!(poll_immediate(timer).await.is_none(), "a reset timer was still ready");
}

async fn a_century_is_nothing_special(host: Host) {
    let mut timer = host.after(CENTURY);
    assert!(poll_immediate(timer.as_mut()).await.is_none(), "fired a century early");
    // Time passes, and others fire.
    for _ in 0..3 {
        host.after(SOON).await;
        assert!(poll_immediate(timer.as_mut()).await.is_none(), "fired a century early");
    }
    timer.as_mut().reset(host.now());
    timer.await;
}

async fn a_timer_wakes_who_polled_last(host: Host) {
    let mut timer = host.after(SOON * 2);
    let nobody = noop_waker();
    let _ = timer.as_mut().poll(&mut Context::from_waker(&nobody));
    host.start(timer).await.expect("the task panicked");
}

struct Silent;

impl Wake for Silent {
    fn wake(self: Arc<Self>) {}
}

async fn a_dropped_timer_leaves_nothing(host: Host) {
    let silent = Arc::new(Silent);
    let waker = Waker::from(Arc::clone(&silent));
    for number in 0..100 {
        let mut timer = host.after(CENTURY + SOON * number);
        let poll = timer.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(poll.is_pending(), "fired a century early");
    }
    drop(waker);
    // The runtime may take its time to forget them.
    while Arc::strong_count(&silent) > 1 {
        host.after(SOON).await;
    }
}

fn timers_survive_their_runtime(harness: Box<dyn Harness>) {
    let host = Host::of(&*harness);
    let (fresh, mut known, mut fired) =
        (host.after(CENTURY), host.after(CENTURY), host.after(SOON));
    let mut soon = host.after(SOON);
    let (handed, taken) = mpsc::channel();
    harness.block_on(Box::pin(async move {
        assert!(poll_immediate(known.as_mut()).await.is_none(), "fired a century early");
        let _ = poll_immediate(soon.as_mut()).await;
        fired.as_mut().await;
        handed.send((known, fired, soon)).expect("the case is there");
    }));
    let (known, fired, soon) = taken.recv().expect("the body ran to its end");
    let ended = harness.end();

    let mut reset = host.after(CENTURY);
    threads::block_on(soon);
    threads::block_on(fired);
    reset.as_mut().reset(host.now());
    threads::block_on(reset);
    for (name, mut timer) in [("fresh", fresh), ("known", known), ("new", host.after(CENTURY))] {
        let nobody = noop_waker();
        let poll = timer.as_mut().poll(&mut Context::from_waker(&nobody));
        let due = ended == Ended::Everything;
        assert_eq!(poll.is_ready(), due, "a {name} timer, after {ended:?} has ended");
    }
}

fn the_end_of_the_runtime_wakes_timers(harness: Box<dyn Harness>) {
    let host = Host::of(&*harness);
    let mut timer = host.after(CENTURY);
    let (polled, waits) = mpsc::channel();
    let waiting = on_another_thread(async move {
        let mut once = Some(polled);
        poll_fn(|cx| {
            let poll = Pin::new(&mut timer).poll(cx);
            once.take().map(|polled| polled.send(()));
            poll
        })
        .await;
    });
    waits.recv().expect("the timer was polled");
    if harness.end() == Ended::Everything {
        threads::block_on(waiting).expect("the timer panicked");
    }
}
