//! What happens in a run, and the hash of all of it.

use crate::random::mix;
use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// One thing that happened. Two runs are the same if all their events are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub(crate) at: u64,
    pub(crate) kind: EventKind,
    pub(crate) host: u32,
    pub(crate) detail: u64,
}

/// What kind of thing happened, and what [`Event::detail`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A task was polled; the detail is its number, 0 for the simulation's own body.
    Poll,
    /// A timer fired; the detail is how many nanoseconds of its instant were past.
    Timer,
    /// An attempt to connect arrived; the detail is the host that it came from.
    Syn,
    /// The answer to an attempt to connect arrived; the detail is the host that it came from.
    SynAck,
    /// The end of connection set-up arrived; the detail is the host that it came from.
    Established,
    /// Bytes arrived; the detail is how many.
    Data,
    /// The end of a direction arrived; the detail is the host that it came from.
    Fin,
    /// A reset arrived; the detail is the host that it came from.
    Reset,
    /// Something that was sent got lost, and is sent again or given up; the detail is how often
    /// it was lost by now.
    Lost,
    /// A sender heard that there is room again; the detail is the host that said so.
    Window,
    /// Time for the system to look after a connection: a probe, or the end of a wait.
    Upkeep,
    /// A fault began, ended, or was lifted; the detail is its number.
    Fault,
}

impl Event {
    /// Returns the virtual time since the start of the run.
    pub fn at(&self) -> Duration {
        Duration::from_nanos(self.at)
    }

    /// Returns what kind of thing happened.
    pub fn kind(&self) -> EventKind {
        self.kind
    }

    /// Returns the host on which it happened; `None` for what belongs to no host.
    pub fn host(&self) -> Option<usize> {
        (self.host != NO_HOST).then_some(self.host as usize)
    }

    /// Returns a number whose meaning depends on the [kind](EventKind).
    pub fn detail(&self) -> u64 {
        self.detail
    }
}

/// Stands for the simulation's own body, and for addresses that no host has.
pub(crate) const NO_HOST: u32 = u32::MAX;

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, detail, .. } = self;
        write!(f, "{kind:?}({detail}) on {} at {:?}", HostName(self.host), self.at())
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A host's name in a message.
pub(crate) struct HostName(pub(crate) u32);

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            NO_HOST => f.write_str("no host"),
            host => write!(f, "host {host}"),
        }
    }
}

/// Is shown each event as it happens.
pub(crate) type Observer = Box<dyn FnMut(&Event) + Send>;

/// The rolling hash and the number of events, and who else wants to see them.
///
/// Only the thread that drives the simulation writes here, so plain loads and stores will do.
pub(crate) struct Trace {
    hash: AtomicU64,
    count: AtomicU64,
    observed: AtomicBool,
    observer: Mutex<Option<Observer>>,
}

impl Trace {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            hash: AtomicU64::new(mix(seed)),
            count: AtomicU64::new(0),
            observed: AtomicBool::new(false),
            observer: Mutex::new(None),
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        mix(self.hash.load(Relaxed))
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub(crate) fn observe(&self, observer: Observer) {
        *self.observer.lock().unwrap_or_else(PoisonError::into_inner) = Some(observer);
        self.observed.store(true, Relaxed);
    }

    pub(crate) fn record(&self, event: Event) {
        let who = u64::from(event.host) | ((event.kind as u64) << 32);
        self.absorb(event.at);
        self.absorb(who);
        self.absorb(event.detail);
        self.count.store(self.count.load(Relaxed) + 1, Relaxed);
        if self.observed.load(Relaxed) {
            let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(observer) = &mut *observer {
                observer(&event);
            }
        }
    }

    /// Lets the hash depend on one more word.
    pub(crate) fn absorb(&self, word: u64) {
        // As in FxHash: a multiplication by an odd number loses nothing, the rotation brings the
        // well-mixed high bits down.
        let hash =
            (self.hash.load(Relaxed).rotate_left(5) ^ word).wrapping_mul(0xf135_7aea_2e62_a9c5);
        self.hash.store(hash, Relaxed);
    }
}
