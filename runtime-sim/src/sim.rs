//! A simulation as its scenario sees it: hosts and time.

use crate::{
    Event, Host, Hosts,
    clock::Alarm,
    event::NO_HOST,
    shared::{Shared, lock},
    units::nanos,
};
use std::{fmt, future::Future, net::IpAddr, panic::Location, sync::Arc, time::Duration};

/// A handle to a running simulation, for the scenario: it makes hosts, and lets things go wrong.
///
/// Clones are the same simulation. Faults last until they are lifted, by [`heal`](Self::heal) or
/// through the [`Fault`](crate::Fault) that the call returns; dropping that changes nothing.
#[derive(Clone)]
pub struct Sim {
    pub(crate) shared: Arc<Shared>,
}

impl Sim {
    /// Adds a host, with an IPv4 and an IPv6 address of its own.
    pub fn host(&self) -> Host {
        self.add_host(Vec::new())
    }

    /// Adds a host with these addresses.
    ///
    /// A duplicate address ends the run.
    pub fn host_at(&self, ips: impl IntoIterator<Item = IpAddr>) -> Host {
        self.add_host(ips.into_iter().collect())
    }

    fn add_host(&self, ips: Vec<IpAddr>) -> Host {
        let added = self.shared.with(|world| world.add_host(ips));
        let host = added.unwrap_or_else(|why| {
            self.shared.fail(why, NO_HOST);
            // The run ends as soon as the caller lets it; until then any host will do.
            self.shared.with(|world| world.add_host(Vec::new())).expect("a free address")
        });
        lock(&self.shared.boots).push(None);
        self.handle(host)
    }

    /// Returns a handle to a host in its present life.
    pub(crate) fn handle(&self, host: u32) -> Host {
        self.shared.with(|world| {
            let state = &world.hosts[host as usize];
            Host::new(&self.shared, state.life.clone(), state.ips.clone(), state.disk.clone())
        })
    }

    /// Starts a program on each of `count` new hosts, and waits until all of them are up.
    ///
    /// `start` is called with the host's runtime and the number of the program, counted from 0,
    /// again after each crash; what has to survive that is kept on the host's
    /// [disk](Host::disk), or by `start` itself. What it returns is a handle to the program, a
    /// node for example.
    pub async fn hosts<T, F>(
        &self,
        count: usize,
        start: impl Fn(Host, usize) -> F + Send + Sync + 'static,
    ) -> Hosts<T>
    where
        T: Clone + Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        Hosts::start(self, count, start).await
    }

    /// Returns how many hosts there are.
    pub fn num_hosts(&self) -> usize {
        self.shared.with(|world| world.hosts.len())
    }

    /// Returns the virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.shared.now())
    }

    /// Returns the seed of the run.
    pub fn seed(&self) -> u64 {
        self.shared.options.seed
    }

    /// Returns the hash of all events so far.
    pub fn hash(&self) -> u64 {
        self.shared.trace.hash()
    }

    /// Returns the number of events so far: polls of tasks, timers that fired, segments that
    /// arrived, and the like.
    pub fn num_events(&self) -> u64 {
        self.shared.trace.count()
    }

    /// Shows each event to `observer` as it happens. It must not use the simulation.
    pub fn observe(&self, observer: impl FnMut(&Event) + Send + 'static) {
        self.shared.trace.observe(Box::new(observer));
    }

    /// Waits for a time.
    pub async fn sleep(&self, time: Duration) {
        Alarm::global(&self.shared, self.shared.now().saturating_add(nanos(time))).await;
    }

    /// Runs a task that belongs to no host, and so outlives all crashes.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.spawn(NO_HOST, Box::pin(task));
    }

    /// Waits until a condition is true. It is looked at again and again, at most a tenth of a
    /// second of virtual time apart.
    ///
    /// # Panics
    /// If it is not true within the time, with the place of the call.
    #[track_caller]
    pub fn eventually(
        &self,
        within: Duration,
        mut condition: impl FnMut() -> bool,
    ) -> impl Future<Output = ()> {
        let (sim, place) = (self.clone(), Location::caller());
        async move {
            let deadline = sim.elapsed() + within;
            let mut pause = Duration::from_millis(1);
            while !condition() {
                assert!(
                    sim.elapsed() < deadline,
                    "not true within {within:?}: the condition of `eventually` at {place}"
                );
                sim.sleep(pause.min(deadline - sim.elapsed())).await;
                pause = (pause * 2).min(Duration::from_millis(100));
            }
        }
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("seed", &self.seed())
            .field("elapsed", &self.elapsed())
            .field("events", &self.num_events())
            .finish()
    }
}
