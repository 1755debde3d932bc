//! A simulation as its scenario sees it.

use crate::{
    Event, Faults, Host, HostSet, Hosts, Options,
    clock::Alarm,
    driver::{Stop, message},
    event::{HostName, NO_HOST},
    link::Trouble,
    shared::{Shared, Violation, lock},
    units::nanos,
};
use anypea_runtime::BoxFuture;
use std::{
    fmt,
    future::Future,
    net::IpAddr,
    ops::Deref,
    panic::{Location, resume_unwind},
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

/// A handle to a running simulation, for the scenario: it makes hosts, and lets things go wrong.
///
/// Clones are the same simulation. Faults last until they are lifted, by [`heal`](Self::heal) or
/// through the [`Fault`] that the call returns; dropping that changes nothing.
#[derive(Clone)]
pub struct Sim {
    pub(crate) shared: Arc<Shared>,
}

/// How a host crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Its process ends, and its system resets the process's connections.
    Process,
    /// It falls silent. Peers find out when they give up, or when they write after its restart.
    PowerLoss,
}

/// How wrong a host's clocks are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skew {
    /// By how many seconds the wall clock is ahead, or behind if negative.
    pub wall_secs: i64,
    /// How many microseconds the clocks gain in a second, or lose if negative; at most 500,000
    /// either way. The monotonic clock doesn't jump.
    pub drift_ppm: i64,
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

    /// Cuts two sets of hosts off from each other.
    pub fn partition(&self, one: impl Into<HostSet>, other: impl Into<HostSet>) -> Fault {
        self.both_ways(one.into(), other.into(), Trouble::Block)
    }

    /// Lets nothing through from some hosts to some others; the other way stays open.
    pub fn partition_one_way(&self, from: impl Into<HostSet>, to: impl Into<HostSet>) -> Fault {
        self.trouble(vec![(from.into(), to.into(), Trouble::Block)])
    }

    /// Cuts hosts off from all others.
    pub fn isolate(&self, hosts: impl Into<HostSet>) -> Fault {
        let hosts = hosts.into();
        let others = (0..self.num_hosts()).filter(|host| !hosts.contains(*host)).collect();
        self.both_ways(hosts, others, Trouble::Block)
    }

    /// Has everything between two sets of hosts take longer.
    pub fn slow(
        &self,
        one: impl Into<HostSet>,
        other: impl Into<HostSet>,
        longer: Duration,
    ) -> Fault {
        self.both_ways(one.into(), other.into(), Trouble::Slow(nanos(longer)))
    }

    /// Lets hardly anything through between two sets of hosts: each connection gets this few bits
    /// per second.
    pub fn clog(
        &self,
        one: impl Into<HostSet>,
        other: impl Into<HostSet>,
        bits_per_second: u64,
    ) -> Fault {
        self.both_ways(one.into(), other.into(), Trouble::Clog(bits_per_second))
    }

    /// Has more of what is sent between two sets of hosts be lost.
    pub fn lose(
        &self,
        one: impl Into<HostSet>,
        other: impl Into<HostSet>,
        probability: f64,
    ) -> Fault {
        self.both_ways(one.into(), other.into(), Trouble::Loss(probability))
    }

    /// Has hosts refuse attempts to connect that come from others.
    pub fn refuse(&self, hosts: impl Into<HostSet>) -> Fault {
        let all = (0..self.num_hosts()).collect();
        self.trouble(vec![(all, hosts.into(), Trouble::Refuse)])
    }

    /// Resets the connections between two sets of hosts.
    pub fn reset(&self, one: impl Into<HostSet>, other: impl Into<HostSet>) {
        let (one, other) = (self.known(one.into()), self.known(other.into()));
        let within = |set: &HostSet, host: u32| set.contains(host as usize);
        self.shared.with(|world| {
            world.reset_between(|from, to| {
                within(&one, from) && within(&other, to) || within(&other, from) && within(&one, to)
            });
        });
    }

    /// Stops the programs of hosts, as SIGSTOP does; their systems go on.
    pub fn pause(&self, hosts: impl Into<HostSet>) {
        for host in self.known(hosts.into()).iter() {
            lock(&self.shared.tasks).pause(host as u32);
        }
    }

    /// Lets the programs of hosts go on.
    pub fn resume(&self, hosts: impl Into<HostSet>) {
        for host in self.known(hosts.into()).iter() {
            lock(&self.shared.tasks).resume(host as u32);
        }
    }

    /// Sets how wrong the clocks of hosts are.
    pub fn skew(&self, hosts: impl Into<HostSet>, skew: Skew) {
        let hosts = self.known(hosts.into());
        let drift = skew.drift_ppm.clamp(-500_000, 500_000);
        let offset = skew.wall_secs.saturating_mul(1_000_000_000);
        self.shared.with(|world| {
            let now = world.now;
            hosts.iter().for_each(|host| world.hosts[host].life.skew(now, offset, drift));
        });
    }

    /// Ends the programs of hosts. Without effect on those that are down.
    pub fn crash(&self, hosts: impl Into<HostSet>, how: Crash) {
        for host in self.known(hosts.into()).iter() {
            self.shared.crash(host as u32, how);
        }
    }

    /// Starts the programs of hosts that are down.
    pub fn restart(&self, hosts: impl Into<HostSet>) {
        for host in self.known(hosts.into()).iter() {
            self.shared.restart(host as u32);
        }
    }

    /// Starts the programs of hosts that are down, after a while; [`heal`](Self::heal) does it at
    /// once.
    pub fn restart_after(&self, hosts: impl Into<HostSet>, time: Duration) {
        let hosts = self.known(hosts.into());
        lock(&self.shared.waiting).extend(hosts.iter());
        let sim = self.clone();
        self.spawn(async move {
            sim.sleep(time).await;
            for host in hosts.iter() {
                if lock(&sim.shared.waiting).remove(&host) {
                    sim.restart(host);
                }
            }
        });
    }

    /// Ends all that is wrong: lifts all faults, resumes and restarts hosts, sets clocks right,
    /// and has no more faults be drawn from the seed. What follows must go well.
    ///
    /// A host that the scenario has crashed, without asking for a restart, stays down.
    pub fn heal(&self) {
        self.shared.healed.store(true, Relaxed);
        self.shared.with(|world| world.rules.clear());
        let paused = lock(&self.shared.tasks).paused();
        paused.into_iter().for_each(|host| lock(&self.shared.tasks).resume(host));
        self.skew(0..self.num_hosts(), Skew::default());
        let waiting = std::mem::take(&mut *lock(&self.shared.waiting));
        waiting.into_iter().for_each(|host| self.restart(host));
    }

    fn both_ways(&self, one: HostSet, other: HostSet, trouble: Trouble) -> Fault {
        self.trouble(vec![(one.clone(), other.clone(), trouble.clone()), (other, one, trouble)])
    }

    fn trouble(&self, rules: Vec<(HostSet, HostSet, Trouble)>) -> Fault {
        let known =
            rules.into_iter().map(|(from, to, what)| (self.known(from), self.known(to), what));
        let known: Vec<_> = known.collect();
        let add = |world: &mut crate::world::World| {
            known.into_iter().map(|(from, to, what)| world.add_rule(from, to, what)).collect()
        };
        Fault { sim: self.clone(), rules: self.shared.with(add) }
    }

    /// Returns the hosts of a set. An unknown one ends the run.
    fn known(&self, hosts: HostSet) -> HostSet {
        let count = self.num_hosts();
        if let Some(unknown) = hosts.iter().find(|host| *host >= count) {
            let message = format!("an unknown host: {unknown}; there are {count}, counted from 0");
            self.shared.fail(message, NO_HOST);
            return hosts.iter().filter(|host| *host < count).collect();
        }
        hosts
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

/// Something that is wrong with the network, until it is lifted.
#[derive(Debug)]
pub struct Fault {
    sim: Sim,
    rules: Vec<u64>,
}

impl Fault {
    /// Ends the fault.
    pub fn lift(self) {
        let Self { sim, rules } = self;
        sim.shared.with(|world| world.rules.retain(|rule| !rules.contains(&rule.number)));
    }

    /// Waits for a time, and then ends the fault.
    pub async fn lasting(self, time: Duration) {
        self.sim.sleep(time).await;
        self.lift();
    }
}

/// Starts the program of a host.
pub(crate) trait Boot: Send + Sync {
    fn start(&self, host: Host) -> BoxFuture<'static, ()>;
    /// Forgets what has run there.
    fn clear(&self, host: u32);
}

impl Shared {
    pub(crate) fn crash(self: &Arc<Self>, host: u32, how: Crash) {
        let life = self.with(|world| {
            let state = &world.hosts[host as usize];
            let life = state.life.clone();
            if how == Crash::PowerLoss || life.is_alive() {
                world.crash_network(host, how == Crash::PowerLoss);
            }
            life
        });
        if !life.is_alive() {
            return;
        }
        life.end();
        self.drop_tasks(host);
        lock(&self.tasks).resume(host);
        let boot = lock(&self.boots).get(host as usize).cloned().flatten();
        if let Some(boot) = boot {
            boot.clear(host);
        }
        self.with(|world| world.wake_alarms(host));
    }

    pub(crate) fn restart(self: &Arc<Self>, host: u32) {
        let down = self.with(|world| {
            let state = &world.hosts[host as usize];
            if state.life.is_alive() {
                return false;
            }
            let life = Arc::new(world.new_life(host, state.lives));
            let state = &mut world.hosts[host as usize];
            state.lives += 1;
            state.life = life;
            state.powered = true;
            state.sending_until = 0;
            true
        });
        let boot = lock(&self.boots).get(host as usize).cloned().flatten();
        if let Some(boot) = boot.filter(|_| down && !self.is_over()) {
            let task = boot.start(Sim { shared: self.clone() }.handle(host));
            self.spawn(host, task);
        }
    }
}

/// A simulation, and the end of it when this is dropped.
///
/// [`Sim::check`] makes one for each seed. By itself it is what a test harness needs that drives
/// its runtimes on its own.
pub struct Simulation {
    sim: Sim,
}

impl Simulation {
    pub(crate) fn start(options: Options) -> Self {
        if let Err(why) = options.check() {
            panic!("{why}");
        }
        Self { sim: Sim { shared: Shared::new(options) } }
    }

    /// Returns a handle to it.
    pub fn sim(&self) -> &Sim {
        &self.sim
    }

    /// Runs the simulation on this thread until `body` has ended. It can be called again.
    ///
    /// # Panics
    /// If `body` does, and if something goes wrong that ends the run: a panic in a task, a stall,
    /// the deadline, or what the crate's documentation lists.
    pub fn block_on<T>(&self, body: impl Future<Output = T>) -> T {
        match self.try_block_on(body) {
            Ok(output) => output,
            Err(Stop::Panic(panic)) => resume_unwind(panic),
            Err(Stop::Violation(violation)) => panic!("{violation}"),
        }
    }

    pub(crate) fn try_block_on<T>(&self, body: impl Future<Output = T>) -> Result<T, Stop> {
        self.sim.shared.run(pin!(body))
    }

    /// Draws faults from the seed, and has them happen; returns what they are.
    pub(crate) fn plan(&self, faults: &Faults, keep: Option<&[usize]>) -> Vec<String> {
        faults.begin(&self.sim, keep)
    }
}

impl Deref for Simulation {
    type Target = Sim;

    fn deref(&self) -> &Sim {
        &self.sim
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.sim.shared.end();
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sim.fmt(f)
    }
}

impl Violation {
    pub(crate) fn of_panic(shared: &Shared, panic: &(dyn std::any::Any + Send)) -> Self {
        Self { message: message(panic), host: NO_HOST, task: Some(0), at: shared.now() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = Duration::from_nanos(self.at);
        match self.task {
            Some(0) => write!(f, "in the body of the simulation, at {at:?}: {}", self.message),
            Some(task) => {
                write!(f, "in task {task} of {}, at {at:?}: {}", HostName(self.host), self.message)
            }
            None if self.host == NO_HOST => write!(f, "at {at:?}: {}", self.message),
            None => write!(f, "on {}, at {at:?}: {}", HostName(self.host), self.message),
        }
    }
}
