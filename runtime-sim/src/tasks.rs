//! Tasks, and which of those that are ready runs next.

use crate::{
    event::NO_HOST,
    host::Host,
    random::{Purpose, Random},
    shared::{Shared, lock},
};
use anypea_runtime::{BoxFuture, Spawner};
use async_task::{Builder, Runnable, Task};
use slab::Slab;
use std::{
    collections::BTreeMap,
    future::Future,
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake},
};

/// What is known of a task.
#[derive(Debug)]
pub(crate) struct Meta {
    /// Unique in the run; 0 is the body of the simulation.
    pub(crate) number: u64,
    pub(crate) host: u32,
    pub(crate) spawned_at: u64,
    pub(crate) polls: AtomicU64,
    pub(crate) polled_at: AtomicU64,
    /// How often it was polled at the instant of its last poll.
    pub(crate) polls_at_once: AtomicU64,
}

/// All tasks that live, and those that are ready.
pub(crate) struct Tasks {
    /// `None` is the body of the simulation.
    ready: Vec<Option<Runnable<Meta>>>,
    live: Slab<Task<(), Meta>>,
    random: Random,
    next_number: u64,
    main_is_ready: bool,
    /// Hosts that are paused, with what has become ready meanwhile.
    paused: BTreeMap<u32, Vec<Runnable<Meta>>>,
    closed: bool,
}

/// What to run next.
pub(crate) enum Next {
    Main,
    Task(Runnable<Meta>),
}

impl Tasks {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            ready: Vec::new(),
            live: Slab::new(),
            random: Random::new(seed, Purpose::Scheduler, &[]),
            next_number: 1,
            main_is_ready: false,
            paused: BTreeMap::new(),
            closed: false,
        }
    }

    /// Picks one of those that are ready; each is as likely as any other.
    pub(crate) fn pick(&mut self) -> Option<Next> {
        loop {
            let which = match self.ready.len() {
                0 => return None,
                1 => 0,
                count => self.random.below(count as u64) as usize,
            };
            let Some(runnable) = self.ready.swap_remove(which) else {
                self.main_is_ready = false;
                return Some(Next::Main);
            };
            if !self.paused.is_empty()
                && let Some(parked) = self.paused.get_mut(&runnable.metadata().host)
            {
                parked.push(runnable);
                continue;
            }
            return Some(Next::Task(runnable));
        }
    }

    pub(crate) fn wake_main(&mut self) {
        if !mem::replace(&mut self.main_is_ready, true) {
            self.ready.push(None);
        }
    }

    pub(crate) fn pause(&mut self, host: u32) {
        self.paused.entry(host).or_default();
    }

    pub(crate) fn resume(&mut self, host: u32) {
        let parked = self.paused.remove(&host).unwrap_or_default();
        self.ready.extend(parked.into_iter().map(Some));
    }

    pub(crate) fn paused(&self) -> Vec<u32> {
        self.paused.keys().copied().collect()
    }

    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Shows each task that lives.
    pub(crate) fn each(&self, mut show: impl FnMut(&Meta)) {
        self.live.iter().for_each(|(_, task)| show(task.metadata()));
    }
}

/// A task's future, which takes the task off the list when it ends, in whatever way.
struct Job {
    task: BoxFuture<'static, ()>,
    shared: Arc<Shared>,
    slot: usize,
    number: u64,
}

impl Future for Job {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.task.as_mut().poll(cx)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let mut tasks = lock(&self.shared.tasks);
        let listed = tasks.live.get(self.slot).map(|task| task.metadata().number);
        if listed == Some(self.number) {
            let task = tasks.live.remove(self.slot);
            drop(tasks);
            task.detach();
        }
    }
}

impl Spawner for Host {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        if self.shared().enter("spawn", self.number()) && self.is_alive() {
            self.shared().spawn(self.number(), task);
        }
    }
}

impl Shared {
    pub(crate) fn spawn(self: &Arc<Self>, host: u32, task: BoxFuture<'static, ()>) {
        let mut tasks = lock(&self.tasks);
        if tasks.closed {
            drop(tasks);
            // What is dropped here may spawn, so no lock may be held.
            return drop(task);
        }
        let number = tasks.next_number;
        tasks.next_number += 1;
        let slot = tasks.live.vacant_key();
        let job = Job { task, shared: Arc::clone(self), slot, number };
        let meta = Meta {
            number,
            host,
            spawned_at: self.now(),
            polls: AtomicU64::new(0),
            polled_at: AtomicU64::new(0),
            polls_at_once: AtomicU64::new(0),
        };
        let shared = Arc::clone(self);
        let schedule = move |runnable| shared.schedule(runnable);
        let (runnable, task) = Builder::new().metadata(meta).spawn(|_| job, schedule);
        tasks.live.insert(task);
        tasks.ready.push(Some(runnable));
        drop(tasks);
        self.notify();
    }

    fn schedule(self: &Arc<Self>, runnable: Runnable<Meta>) {
        self.enter("a waker", runnable.metadata().host);
        let mut tasks = lock(&self.tasks);
        if tasks.closed {
            drop(tasks);
            // This drops the task's future.
            return drop(runnable);
        }
        tasks.ready.push(Some(runnable));
        drop(tasks);
        self.notify();
    }

    /// Drops the tasks of a host. One that is running is dropped at its await.
    pub(crate) fn drop_tasks(&self, host: u32) {
        loop {
            let mut tasks = lock(&self.tasks);
            let of_host = tasks.live.iter().filter(|(_, task)| task.metadata().host == host);
            let slots: Vec<_> = of_host.map(|(slot, _)| slot).collect();
            let live: Vec<_> = slots.into_iter().map(|slot| tasks.live.remove(slot)).collect();
            let of_host = |entry: &mut Option<Runnable<Meta>>| {
                entry.as_ref().is_some_and(|runnable| runnable.metadata().host == host)
            };
            let ready: Vec<_> = tasks.ready.extract_if(.., of_host).collect();
            let parked = tasks.paused.get_mut(&host).map(mem::take).unwrap_or_default();
            drop(tasks);
            if live.is_empty() && ready.is_empty() && parked.is_empty() {
                return;
            }
            // Dropping the handle of a task that waits makes it ready once more, so that its
            // future is dropped in the next round.
            drop((live, ready, parked));
        }
    }

    /// Drops all tasks, and whatever is spawned from now on.
    pub(crate) fn close_tasks(&self) {
        loop {
            let mut tasks = lock(&self.tasks);
            tasks.closed = true;
            let live = mem::take(&mut tasks.live);
            let ready = mem::take(&mut tasks.ready);
            let paused = mem::take(&mut tasks.paused);
            drop(tasks);
            if live.is_empty() && ready.is_empty() && paused.is_empty() {
                return;
            }
            drop((live, ready, paused));
        }
    }
}

impl Meta {
    /// Counts a poll, and returns how many there were at this instant.
    pub(crate) fn count_poll(&self, now: u64) -> u64 {
        self.polls.store(self.polls.load(Relaxed) + 1, Relaxed);
        let at_once = match self.polled_at.swap(now, Relaxed) {
            before if before == now => self.polls_at_once.load(Relaxed) + 1,
            _ => 1,
        };
        self.polls_at_once.store(at_once, Relaxed);
        at_once
    }
}

/// Wakes the body of the simulation.
pub(crate) struct MainWaker(pub(crate) Arc<Shared>);

impl Wake for MainWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.enter("a waker", NO_HOST);
        let mut tasks = lock(&self.0.tasks);
        if !tasks.closed {
            tasks.wake_main();
        }
        drop(tasks);
        self.0.notify();
    }
}
