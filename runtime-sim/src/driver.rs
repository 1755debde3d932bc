//! The loop that runs a simulation: whatever is ready, then whatever is due next.

use crate::{
    event::{Event, EventKind, HostName, NO_HOST},
    shared::{Shared, Violation, lock, wake_all},
    tasks::{MainWaker, Meta, Next},
};
use async_task::Runnable;
use std::{
    any::Any,
    fmt::Write,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::Duration,
};

/// Polls at one instant, of all tasks together, for each poll that a single one may have.
const TASKS_AT_ONCE: u64 = 1_000;
/// Tasks that a report lists.
const LISTED_TASKS: usize = 20;

/// Why the loop has ended before the body.
pub(crate) enum Stop {
    Violation(Violation),
    /// The body has panicked.
    Panic(Box<dyn Any + Send>),
}

/// How often something was polled since time last moved.
#[derive(Default)]
struct Instantly {
    polls: u64,
    body: u64,
}

impl Shared {
    /// Runs the simulation until its body has ended.
    pub(crate) fn run<T>(
        self: &Arc<Self>,
        mut body: Pin<&mut dyn Future<Output = T>>,
    ) -> Result<T, Stop> {
        let _driving = self.drive();
        let waker = Waker::from(Arc::new(MainWaker(Arc::clone(self))));
        lock(&self.tasks).wake_main();
        let mut instantly = Instantly::default();
        loop {
            if let Some(violation) = self.failure() {
                return Err(Stop::Violation(violation));
            }
            let next = lock(&self.tasks).pick();
            match next {
                Some(Next::Main) => {
                    instantly.body += 1;
                    let poll = self.poll_body(body.as_mut(), &waker).map_err(Stop::Panic)?;
                    if let Poll::Ready(output) = poll {
                        // What went wrong in the last poll may have been hidden by its output.
                        return match self.failure() {
                            Some(violation) => Err(Stop::Violation(violation)),
                            None => Ok(output),
                        };
                    }
                    if instantly.body > self.options.max_polls {
                        self.fail_in_task(never_yields("it", instantly.body), NO_HOST, 0);
                    }
                }
                Some(Next::Task(task)) => self.poll_task(task),
                None => {
                    self.advance();
                    instantly = Instantly::default();
                    continue;
                }
            }
            instantly.polls += 1;
            if instantly.polls > self.options.max_polls.saturating_mul(TASKS_AT_ONCE) {
                self.fail(never_yields("a chain of tasks", instantly.polls), NO_HOST);
            }
        }
    }

    fn poll_body<T>(
        &self,
        body: Pin<&mut dyn Future<Output = T>>,
        waker: &Waker,
    ) -> Result<Poll<T>, Box<dyn Any + Send>> {
        self.polling(NO_HOST, 0);
        let poll = || body.poll(&mut Context::from_waker(waker));
        let poll = catch_unwind(AssertUnwindSafe(poll));
        self.polled();
        poll
    }

    fn poll_task(&self, task: Runnable<Meta>) {
        let meta = task.metadata();
        let (number, host) = (meta.number, meta.host);
        if meta.count_poll(self.now()) > self.options.max_polls {
            let message = never_yields("it", self.options.max_polls);
            return self.fail_in_task(message, host, number);
        }
        self.polling(host, number);
        let panic = catch_unwind(AssertUnwindSafe(|| task.run())).err();
        self.polled();
        if let Some(panic) = panic
            && !self.options.contain_panics
        {
            self.fail_in_task(format!("a task panicked: {}", message(&*panic)), host, number);
        }
    }

    fn polling(&self, host: u32, task: u64) {
        self.trace.record(Event { at: self.now(), kind: EventKind::Poll, host, detail: task });
        let current = &self.current;
        current.host.store(host.into(), Relaxed);
        current.task.store(task, Relaxed);
        current.polls.store(current.polls.load(Relaxed) + 1, Relaxed);
    }

    fn polled(&self) {
        self.current.polls.store(self.current.polls.load(Relaxed) + 1, Relaxed);
    }

    /// Moves time on to what is due next, and lets it happen.
    fn advance(&self) {
        let mut world = lock(&self.world);
        let Some((at, what)) = world.queue.pop_until(self.options.deadline) else {
            let later = !world.queue.is_empty();
            drop(world);
            return if later { self.miss_the_deadline() } else { self.wait_or_stall() };
        };
        debug_assert!(at >= self.now() || self.options.threads, "time went back");
        let now = at.max(self.now());
        self.set_now(now);
        world.now = now;
        world.happen(what, &self.trace);
        // All that is due at one instant happens before any task runs, so that the seed decides
        // who is first.
        while let Some((_, what)) = world.queue.pop_until(now) {
            world.happen(what, &self.trace);
        }
        let woken = world.take_woken();
        let dropped = std::mem::take(&mut world.dropped);
        drop(world);
        wake_all(woken);
        drop(dropped);
    }

    fn miss_the_deadline(&self) {
        self.set_now(self.options.deadline);
        let deadline = Duration::from_nanos(self.options.deadline);
        let tasks = self.list_tasks();
        self.fail(format!("not over at the deadline, {deadline:?}{tasks}"), NO_HOST);
    }

    /// Nothing is ready and nothing will be due.
    fn wait_or_stall(&self) {
        if !self.options.threads {
            let tasks = self.list_tasks();
            return self.fail(
                format!("stalled: nothing is ready, and nothing will ever be{tasks}"),
                NO_HOST,
            );
        }
        let tasks = lock(&self.tasks);
        if !tasks.is_ready() {
            // It may also be a timer that another thread sets, so not for long.
            drop(self.ready.wait_timeout(tasks, Duration::from_millis(1)));
        }
    }

    /// Describes the tasks that live, for a report.
    pub(crate) fn list_tasks(&self) -> String {
        let mut tasks = Vec::new();
        lock(&self.tasks).each(|meta| {
            let [spawned, polled] = [meta.spawned_at, meta.polled_at.load(Relaxed)];
            let times = [spawned, polled].map(Duration::from_nanos);
            tasks.push((meta.number, meta.host, meta.polls.load(Relaxed), times));
        });
        tasks.sort_unstable_by_key(|task| task.0);
        let waits = lock(&self.world).waits();
        let mut list = format!("; {} tasks live", tasks.len());
        for (number, host, polls, [spawned, polled]) in tasks.iter().take(LISTED_TASKS) {
            let host = HostName(*host);
            let waits =
                waits.get(number).map_or("nothing that the simulation knows of", |waits| waits);
            let _ = write!(
                list,
                "\n  task {number} of {host}, spawned at {spawned:?}, polled {polls} times, \
                 last at {polled:?}, waits for {waits}",
            );
        }
        if tasks.len() > LISTED_TASKS {
            let _ = write!(list, "\n  and {} more", tasks.len() - LISTED_TASKS);
        }
        list
    }
}

/// Returns what a panic says.
pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a value that is no text").to_owned()
}

fn never_yields(who: &str, polls: u64) -> String {
    format!("{who} was polled {polls} times at one instant: it never waits for time to pass")
}
