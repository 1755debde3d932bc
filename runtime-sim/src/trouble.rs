//! What a scenario can let go wrong.

use crate::{
    HostSet, Sim, event::NO_HOST, link::Trouble, shared::lock, units::nanos, world::World,
};
use std::{sync::atomic::Ordering::Relaxed, time::Duration};

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
        let add = |world: &mut World| {
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
