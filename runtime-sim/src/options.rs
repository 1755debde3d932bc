//! How a simulation is set up.

use crate::{Link, Simulation, units::nanos};
use std::time::Duration;

/// The settings of one simulation; [`start`](Self::start) begins it.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) seed: u64,
    pub(crate) link: Link,
    pub(crate) deadline: u64,
    pub(crate) short_io: f64,
    pub(crate) contain_panics: bool,
    pub(crate) threads: bool,
    pub(crate) watchdog: Duration,
    pub(crate) max_polls: u64,
    pub(crate) hash_payloads: bool,
}

impl Options {
    /// Starts with the defaults, for this seed.
    pub fn seed(seed: u64) -> Self {
        Self {
            seed,
            link: Link::default(),
            deadline: u64::MAX,
            short_io: 0.0,
            contain_panics: false,
            threads: false,
            watchdog: Duration::from_secs(5),
            max_polls: 100_000,
            hash_payloads: false,
        }
    }

    /// Sets what lies between any two hosts; [`Link::default`] by default.
    pub fn link(mut self, link: Link) -> Self {
        self.link = link;
        self
    }

    /// Sets the virtual time by which the run must have ended; none by default.
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = nanos(time);
        self
    }

    /// Has reads return, and writes take, less than they could with this probability, as TCP may
    /// at any time; 0 by default, and 1/16 in [`Sim::check`](crate::Sim::check).
    pub fn short_io(mut self, probability: f64) -> Self {
        self.short_io = probability;
        self
    }

    /// Lets the run go on when a task panics, as it would on a real runtime. By default a panic
    /// ends the run.
    pub fn contain_panics(mut self) -> Self {
        self.contain_panics = true;
        self
    }

    /// Lets other threads than the one that drives the simulation use its hosts, as they could
    /// with a real runtime. Such a run isn't deterministic. By default that ends the run.
    pub fn allow_threads(mut self) -> Self {
        self.threads = true;
        self
    }

    /// Sets how much real time a single poll of a task may take before it counts as blocked; five
    /// seconds by default.
    pub fn watchdog(mut self, time: Duration) -> Self {
        self.watchdog = time;
        self
    }

    /// Sets how often a task may be polled at one instant of virtual time before it counts as
    /// never yielding; 100,000 by default.
    pub fn max_polls(mut self, count: u64) -> Self {
        self.max_polls = count;
        self
    }

    /// Has the hash of the run depend on all bytes that are delivered, not only on how many they
    /// are. Not by default: real cryptography draws randomness of its own.
    pub fn hash_payloads(mut self) -> Self {
        self.hash_payloads = true;
        self
    }

    /// Begins the simulation.
    ///
    /// # Panics
    /// If the settings are impossible; the message says which.
    pub fn start(self) -> Simulation {
        Simulation::start(self)
    }

    /// Returns what makes the settings impossible.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.link.check()?;
        if !(0.0..1.0).contains(&self.short_io) {
            return Err(format!(
                "short reads have a probability of {}, not in 0..1",
                self.short_io
            ));
        }
        Ok(())
    }
}
