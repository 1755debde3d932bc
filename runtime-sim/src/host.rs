//! A host as its programs see it.

use crate::{
    random,
    shared::{Shared, lock},
};
use anypea_runtime::Runtime;
use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

/// A host of a simulation: the [`Runtime`] of the programs that run on it.
///
/// Clones are the same host. A handle belongs to one life of the host: after a crash, programs
/// are started anew with a new handle, and the old one is that of a runtime that is gone.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    life: Arc<Life>,
    ips: Arc<[IpAddr]>,
    disk: Disk,
}

/// One life of a host: from its start to a crash.
pub(crate) struct Life {
    pub(crate) host: u32,
    alive: AtomicBool,
    random: AtomicU64,
    /// Nanoseconds by which the wall clock is ahead.
    wall_offset: AtomicI64,
    /// How many nanoseconds in a million the monotonic clock gains.
    drift: AtomicI64,
    /// When the drift was set, by the simulation's clock and by the host's.
    drift_since: [AtomicU64; 2],
}

impl Life {
    pub(crate) fn new(host: u32, random: u64) -> Self {
        Self {
            host,
            alive: AtomicBool::new(true),
            random: AtomicU64::new(random),
            wall_offset: AtomicI64::new(0),
            drift: AtomicI64::new(0),
            drift_since: [AtomicU64::new(0), AtomicU64::new(0)],
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Relaxed)
    }

    pub(crate) fn end(&self) {
        self.alive.store(false, Relaxed);
    }

    /// Sets how wrong the clocks are from now on. The monotonic clock doesn't jump.
    pub(crate) fn skew(&self, now: u64, wall_offset: i64, drift: i64) {
        let local = self.local(now);
        self.wall_offset.store(wall_offset, Relaxed);
        self.drift.store(drift, Relaxed);
        self.drift_since[0].store(now, Relaxed);
        self.drift_since[1].store(local, Relaxed);
    }

    /// Returns what the host's monotonic clock shows.
    pub(crate) fn local(&self, now: u64) -> u64 {
        let [since, local] = &self.drift_since;
        let (since, local) = (since.load(Relaxed), local.load(Relaxed));
        if since == 0 {
            return now;
        }
        let rate = 1_000_000 + self.drift.load(Relaxed);
        local + (u128::from(now - since) * rate as u128 / 1_000_000) as u64
    }

    /// Returns the first instant at which the host's monotonic clock shows `local`.
    pub(crate) fn global(&self, at: u64) -> u64 {
        let [since, local] = &self.drift_since;
        let (since, local) = (since.load(Relaxed), local.load(Relaxed));
        if since == 0 {
            return at;
        }
        let rate = 1_000_000 + self.drift.load(Relaxed);
        let wait = u128::from(at.saturating_sub(local)) * 1_000_000;
        since.saturating_add(u64::try_from(wait.div_ceil(rate as u128)).unwrap_or(u64::MAX))
    }

    pub(crate) fn wall(&self, now: u64) -> u64 {
        self.local(now).saturating_add_signed(self.wall_offset.load(Relaxed))
    }
}

/// What a host keeps across crashes and restarts: one value of each type.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<BTreeMap<TypeId, Arc<dyn Any + Send + Sync>>>>);

impl Disk {
    /// Returns the value of this type, which is the default until somebody changes it.
    pub fn get<T: Default + Send + 'static>(&self) -> Arc<Mutex<T>> {
        let value = lock(&self.0)
            .entry(TypeId::of::<T>())
            .or_insert_with(|| Arc::new(Mutex::new(T::default())))
            .clone();
        value.downcast().expect("it is listed under its own type")
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl Host {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        life: Arc<Life>,
        ips: Arc<[IpAddr]>,
        disk: Disk,
    ) -> Self {
        Self { inner: Arc::new(Inner { shared: shared.clone(), life, ips, disk }) }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(crate) fn life(&self) -> &Arc<Life> {
        &self.inner.life
    }

    pub(crate) fn number(&self) -> u32 {
        self.inner.life.host
    }

    /// Returns the host's number in the simulation: 0 for the first.
    pub fn index(&self) -> usize {
        self.number() as usize
    }

    /// Returns the host's first address. Each host also has its own loopback addresses.
    pub fn ip(&self) -> IpAddr {
        self.inner.ips[0]
    }

    /// Returns all addresses of the host but those of its loopback.
    pub fn ips(&self) -> &[IpAddr] {
        &self.inner.ips
    }

    /// Returns what the host keeps across crashes.
    pub fn disk(&self) -> &Disk {
        &self.inner.disk
    }

    /// Tells whether the host hasn't crashed since this handle was made.
    pub fn is_alive(&self) -> bool {
        self.inner.life.is_alive() && !self.inner.shared.is_over()
    }

    /// Returns the host as a shared [`Runtime`].
    pub fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(self.clone())
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("index", &self.index()).field("ip", &self.ip()).finish()
    }
}

impl Runtime for Host {
    fn random(&self) -> u64 {
        self.inner.shared.enter("random numbers", self.number());
        random::mix(random::step(self.inner.life.random.fetch_add(random::step(0), Relaxed)))
    }
}
