//! A group of hosts that run the same program.

use crate::{Crash, Host, HostSet, Sim, crash::Boot, shared::lock};
use anypea_runtime::BoxFuture;
use std::{
    fmt,
    future::{Future, poll_fn},
    net::IpAddr,
    ops::{Bound, RangeBounds},
    sync::{Arc, Mutex},
    task::{Poll, Waker},
    time::Duration,
};

/// Hosts that run the same program; see [`Sim::hosts`].
///
/// Its methods count hosts from 0 within the group. What they return or take as a [`HostSet`]
/// counts all hosts of the simulation.
pub struct Hosts<T> {
    sim: Sim,
    group: Arc<Group<T>>,
}

struct Group<T> {
    first: usize,
    start: Box<dyn Fn(Host, usize) -> BoxFuture<'static, T> + Send + Sync>,
    programs: Mutex<Programs<T>>,
}

struct Programs<T> {
    /// `None` while the host is down or starts.
    running: Vec<Option<T>>,
    waits: Option<Waker>,
}

impl<T: Clone + Send + 'static> Hosts<T> {
    pub(crate) async fn start<F>(
        sim: &Sim,
        count: usize,
        start: impl Fn(Host, usize) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        let hosts: Vec<_> = (0..count).map(|_| sim.host()).collect();
        let group = Arc::new(Group {
            first: hosts.first().map_or(0, Host::index),
            start: Box::new(move |host, i| Box::pin(start(host, i))),
            programs: Mutex::new(Programs { running: vec![None; count], waits: None }),
        });
        for host in hosts {
            let boot = Arc::new(Starter(group.clone()));
            lock(&sim.shared.boots)[host.index()] = Some(boot.clone());
            let number = host.number();
            sim.shared.spawn(number, boot.start(host));
        }
        poll_fn(|cx| {
            let mut programs = lock(&group.programs);
            programs.waits = Some(cx.waker().clone());
            let up = programs.running.iter().all(Option::is_some);
            if up { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        Self { sim: sim.clone(), group }
    }

    /// Returns the program that runs on a host just now; `None` if it is down, or about to start.
    pub fn get(&self, host: usize) -> Option<T> {
        lock(&self.group.programs).running.get(host).cloned().flatten()
    }

    /// Returns the programs that run just now, with the numbers of their hosts.
    pub fn running(&self) -> Vec<(usize, T)> {
        let programs = lock(&self.group.programs).running.clone();
        let numbered = programs.into_iter().enumerate();
        numbered.filter_map(|(host, program)| program.map(|program| (host, program))).collect()
    }

    /// Returns the number of hosts.
    pub fn len(&self) -> usize {
        lock(&self.group.programs).running.len()
    }

    /// Tells whether the group has no hosts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns some of the hosts.
    pub fn range(&self, range: impl RangeBounds<usize>) -> HostSet {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last + 1,
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len(),
        };
        (self.group.first + start..self.group.first + end).into()
    }

    /// Returns a handle to a host in its present life.
    ///
    /// # Panics
    /// If the group has no such host.
    pub fn host(&self, host: usize) -> Host {
        let count = self.len();
        assert!(host < count, "an unknown host: {host}; the group has {count}, counted from 0");
        self.sim.handle((self.group.first + host) as u32)
    }

    /// Returns a host's first address.
    ///
    /// # Panics
    /// If the group has no such host.
    pub fn ip(&self, host: usize) -> IpAddr {
        self.host(host).ip()
    }

    /// Ends the program of a host; see [`Sim::crash`].
    pub fn crash(&self, host: usize, how: Crash) {
        self.sim.crash(self.group.first + host, how);
    }

    /// Starts the program of a host that is down.
    pub fn restart(&self, host: usize) {
        self.sim.restart(self.group.first + host);
    }

    /// Starts the program of a host that is down, after a while.
    pub fn restart_after(&self, host: usize, time: Duration) {
        self.sim.restart_after(self.group.first + host, time);
    }
}

impl<T> Clone for Hosts<T> {
    fn clone(&self) -> Self {
        Self { sim: self.sim.clone(), group: self.group.clone() }
    }
}

impl<T> fmt::Debug for Hosts<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosts").field("first", &self.group.first).finish_non_exhaustive()
    }
}

struct Starter<T>(Arc<Group<T>>);

impl<T: Send + 'static> Starter<T> {
    /// Replaces what is known of a host's program.
    fn set(group: &Group<T>, host: usize, program: Option<T>) {
        let mut programs = lock(&group.programs);
        let before = std::mem::replace(&mut programs.running[host - group.first], program);
        let waits = programs.waits.take();
        drop(programs);
        // A program that is dropped may do anything, so no lock is held any more.
        drop(before);
        if let Some(waker) = waits {
            waker.wake();
        }
    }
}

impl<T: Send + 'static> Boot for Starter<T> {
    fn start(&self, host: Host) -> BoxFuture<'static, ()> {
        let group = self.0.clone();
        Box::pin(async move {
            let index = host.index();
            let program = (group.start)(host, index - group.first).await;
            Self::set(&group, index, Some(program));
        })
    }

    fn clear(&self, host: u32) {
        Self::set(&self.0, host as usize, None);
    }
}
