//! What the handles of one simulation share, and who may use it.

use crate::{
    crash::Boot,
    event::{HostName, NO_HOST, Trace},
    options::Options,
    tasks::Tasks,
    world::{Waiter, World},
};
use std::{
    cell::Cell,
    collections::BTreeSet,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// One simulation.
///
/// There are two locks that are never held at once: one of the tasks and one of the world. No
/// foreign code runs under either: wakers are woken, and futures dropped, after it is released.
pub(crate) struct Shared {
    name: u64,
    pub(crate) options: Options,
    pub(crate) epoch: Instant,
    now: AtomicU64,
    /// The simulation is over for good.
    over: AtomicBool,
    /// Somebody drives it just now.
    pub(crate) driven: AtomicBool,
    failed: AtomicBool,
    failure: Mutex<Option<Violation>>,
    pub(crate) tasks: Mutex<Tasks>,
    /// Signalled when a task becomes ready, where other threads may do that.
    pub(crate) ready: Condvar,
    pub(crate) world: Mutex<World>,
    pub(crate) trace: Trace,
    /// How the program of each host is started.
    pub(crate) boots: Mutex<Vec<Option<Arc<dyn Boot>>>>,
    /// Hosts that are down and will be started again.
    pub(crate) waiting: Mutex<BTreeSet<usize>>,
    /// No more faults are to be drawn.
    pub(crate) healed: AtomicBool,
    pub(crate) current: Current,
}

/// Who is polled just now, for those who watch from another thread.
#[derive(Default)]
pub(crate) struct Current {
    pub(crate) host: AtomicU64,
    pub(crate) task: AtomicU64,
    /// The number of polls so far; it is odd while one is going on.
    pub(crate) polls: AtomicU64,
}

/// Something that nobody may do, with who did it and when.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) message: String,
    pub(crate) host: u32,
    pub(crate) task: Option<u64>,
    pub(crate) at: u64,
}

thread_local! {
    /// The simulation that this thread drives.
    static DRIVING: Cell<u64> = const { Cell::new(0) };
}

/// Marks the thread, until dropped, as the one that drives a simulation.
pub(crate) struct Driving<'a> {
    shared: &'a Shared,
    before: u64,
}

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        DRIVING.set(self.before);
        self.shared.driven.store(false, Relaxed);
    }
}

/// The instant that is virtual time zero in every simulation of the process.
fn epoch() -> Instant {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

impl Shared {
    pub(crate) fn new(options: Options) -> Arc<Self> {
        static NAMES: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            name: NAMES.fetch_add(1, Relaxed),
            epoch: epoch(),
            now: AtomicU64::new(0),
            over: AtomicBool::new(false),
            driven: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            tasks: Mutex::new(Tasks::new(options.seed)),
            ready: Condvar::new(),
            world: Mutex::new(World::new(&options)),
            trace: Trace::new(options.seed),
            boots: Mutex::default(),
            waiting: Mutex::default(),
            healed: AtomicBool::new(false),
            current: Current::default(),
            options,
        })
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.load(Relaxed)
    }

    pub(crate) fn set_now(&self, now: u64) {
        self.now.store(now, Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    pub(crate) fn drive(&self) -> Driving<'_> {
        assert!(!self.driven.swap(true, Relaxed), "the simulation is driven already");
        Driving { shared: self, before: DRIVING.replace(self.name) }
    }

    /// Tells whether the caller may use the simulation. If it is another thread than the one that
    /// drives it, the run ends with a report, since its order would depend on the system.
    pub(crate) fn enter(&self, what: &str, host: u32) -> bool {
        if DRIVING.get() == self.name {
            return true;
        }
        if self.is_over() {
            return false;
        }
        if self.driven.load(Relaxed) && !self.options.threads {
            let thread = thread::current();
            let thread = thread.name().unwrap_or("without a name");
            self.fail(
                format!(
                    "{what} of {} was used on another thread ({thread}), outside the simulation; \
                     the run would depend on real time (see `allow_threads`)",
                    HostName(host)
                ),
                host,
            );
            return false;
        }
        true
    }

    /// Ends the run with a message, at the next chance.
    pub(crate) fn fail(&self, message: String, host: u32) {
        let violation = self.violation(message);
        let host = if host == NO_HOST { violation.host } else { host };
        self.violated(Violation { host, ..violation });
    }

    /// Returns what is to be said of whoever is polled just now, be it from another thread.
    pub(crate) fn violation(&self, message: String) -> Violation {
        let current = &self.current;
        let polling = current.polls.load(Relaxed) % 2 == 1;
        let task = polling.then(|| current.task.load(Relaxed));
        let host = if polling { current.host.load(Relaxed) as u32 } else { NO_HOST };
        Violation { message, host, task, at: self.now() }
    }

    /// As [`fail`](Self::fail), for what a certain task has done.
    pub(crate) fn fail_in_task(&self, message: String, host: u32, task: u64) {
        self.violated(Violation { message, host, task: Some(task), at: self.now() });
    }

    fn violated(&self, violation: Violation) {
        lock(&self.failure).get_or_insert(violation);
        self.failed.store(true, Relaxed);
        self.notify();
    }

    /// Returns the first thing that went wrong.
    pub(crate) fn failure(&self) -> Option<Violation> {
        if self.failed.load(Relaxed) { lock(&self.failure).clone() } else { None }
    }

    pub(crate) fn notify(&self) {
        if self.options.threads {
            self.ready.notify_all();
        }
    }

    /// Changes the world, and then wakes whom that concerns.
    pub(crate) fn with<R>(&self, change: impl FnOnce(&mut World) -> R) -> R {
        let mut world = lock(&self.world);
        world.now = self.now();
        world.task = self.current.task.load(Relaxed);
        let output = change(&mut world);
        if world.woken.is_empty() && world.dropped.is_empty() {
            return output;
        }
        let (woken, dropped) = (world.take_woken(), std::mem::take(&mut world.dropped));
        drop(world);
        wake_all(woken);
        drop(dropped);
        output
    }

    /// Ends everything: tasks are dropped, timers fire, connections are gone.
    pub(crate) fn end(&self) {
        self.over.store(true, Relaxed);
        self.close_tasks();
        drop(std::mem::take(&mut *lock(&self.boots)));
        let (woken, dropped) = lock(&self.world).end();
        wake_all(woken);
        drop(dropped);
        // What the wakers woke can't run any more.
        self.close_tasks();
    }

    pub(crate) fn instant(&self, at: u64) -> Instant {
        self.epoch + Duration::from_nanos(at)
    }

    pub(crate) fn nanos(&self, at: Instant) -> u64 {
        crate::units::nanos(at.saturating_duration_since(self.epoch))
    }
}

pub(crate) fn wake_all(woken: impl IntoIterator<Item = Waiter>) {
    woken.into_iter().for_each(|waiter| waiter.waker.wake());
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
