//! Which ports of a host are in use, and by what.

use crate::random::Random;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// The ports that the system chooses from, as on Linux (`ip_local_port_range`).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// What makes a connection unique on a host (RFC 9293, 3.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tuple {
    pub(crate) port: u16,
    pub(crate) ip: IpAddr,
    pub(crate) remote: SocketAddr,
}

/// What uses a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// An end; whether its port was chosen by the system, so that nobody may bind to it.
    End { end: u32, chosen: bool },
    /// Nothing any more; it is kept from being used anew for a while.
    TimeWait { slot: u32 },
}

#[derive(Default)]
pub(crate) struct Ports {
    tuples: BTreeMap<Tuple, Use>,
    ports: BTreeMap<u16, Port>,
}

#[derive(Default)]
struct Port {
    listeners: Vec<Bound>,
    tuples: u32,
    /// Tuples whose port was chosen by the system.
    chosen: u32,
}

/// A listener at a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) listener: u32,
    pub(crate) ip: IpAddr,
    pub(crate) reuse: bool,
}

impl Bound {
    /// Tells whether both would get the same connections.
    fn overlaps(&self, ip: IpAddr) -> bool {
        self.serves(ip)
            || Self { ip, ..*self }.serves(self.ip)
            || (ip.is_unspecified() && self.ip.is_unspecified())
    }

    /// Tells whether connections to `ip` are for it.
    pub(crate) fn serves(&self, ip: IpAddr) -> bool {
        self.ip == ip || self.ip.is_unspecified() && (self.ip.is_ipv6() || ip.is_ipv4())
    }
}

impl Ports {
    pub(crate) fn get(&self, tuple: &Tuple) -> Option<Use> {
        self.tuples.get(tuple).copied()
    }

    pub(crate) fn insert(&mut self, tuple: Tuple, by: Use) {
        self.remove(&tuple);
        let port = self.ports.entry(tuple.port).or_default();
        port.tuples += 1;
        port.chosen += u32::from(matches!(by, Use::End { chosen: true, .. }));
        self.tuples.insert(tuple, by);
    }

    pub(crate) fn remove(&mut self, tuple: &Tuple) {
        let Some(by) = self.tuples.remove(tuple) else { return };
        let Some(port) = self.ports.get_mut(&tuple.port) else { return };
        port.tuples -= 1;
        port.chosen -= u32::from(matches!(by, Use::End { chosen: true, .. }));
        self.tidy(tuple.port);
    }

    fn tidy(&mut self, number: u16) {
        let empty = |port: &Port| port.listeners.is_empty() && port.tuples == 0;
        if self.ports.get(&number).is_some_and(empty) {
            self.ports.remove(&number);
        }
    }

    /// Tells whether a socket can't be bound there.
    pub(crate) fn is_taken(&self, ip: IpAddr, port: u16, reuse: bool) -> bool {
        self.ports.get(&port).is_some_and(|port| {
            let conflicts = |bound: &Bound| bound.overlaps(ip) && !(bound.reuse && reuse);
            port.chosen > 0 || port.listeners.iter().any(conflicts)
        })
    }

    pub(crate) fn listen(&mut self, port: u16, bound: Bound) {
        self.ports.entry(port).or_default().listeners.push(bound);
    }

    pub(crate) fn unlisten(&mut self, port: u16, listener: u32) {
        if let Some(found) = self.ports.get_mut(&port) {
            found.listeners.retain(|bound| bound.listener != listener);
        }
        self.tidy(port);
    }

    /// Returns the listener for a connection; if ports are shared, one of those that match best.
    pub(crate) fn listener(&self, ip: IpAddr, port: u16, random: &mut Random) -> Option<Bound> {
        let listeners = &self.ports.get(&port)?.listeners;
        let exact = listeners.iter().filter(|bound| bound.ip == ip).count();
        let fits = |bound: &&Bound| if exact > 0 { bound.ip == ip } else { bound.serves(ip) };
        let count = listeners.iter().filter(fits).count();
        let which = if count > 1 { random.below(count as u64) as usize } else { 0 };
        listeners.iter().filter(fits).nth(which).copied()
    }

    /// Returns a port that nothing uses.
    pub(crate) fn unused(&self, random: &mut Random) -> Option<u16> {
        candidates(random).find(|port| !self.ports.contains_key(port))
    }

    /// Returns a port from which the remote address can be dialed.
    pub(crate) fn ephemeral(
        &self,
        ip: IpAddr,
        remote: SocketAddr,
        random: &mut Random,
    ) -> Option<u16> {
        candidates(random).find(|&port| {
            let listened = |found: &Port| !found.listeners.is_empty();
            // A dial to itself would succeed, as a simultaneous open.
            SocketAddr::new(ip, port) != remote
                && !self.ports.get(&port).is_some_and(listened)
                && !self.tuples.contains_key(&Tuple { port, ip, remote })
        })
    }

    /// Forgets all, as after a loss of power.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// All ports that the system chooses from, from a random one on, in steps of a random length: it
/// spreads them, so that even the last free ones are soon found.
fn candidates(random: &mut Random) -> impl Iterator<Item = u16> + use<> {
    const COUNT: u32 = (*EPHEMERAL.end() - *EPHEMERAL.start() + 1) as u32;
    /// The odd prime factor of the count. A step that is odd and no multiple of it meets all.
    const FACTOR: u32 = 3_529;
    const { assert!(COUNT == 8 * FACTOR) };
    let start = random.below(COUNT.into()) as u32;
    let step = match 2 * random.below(u64::from(COUNT / 2)) as u32 + 1 {
        step if step.is_multiple_of(FACTOR) => 1,
        step => step,
    };
    let offset =
        move |i: u32| (u64::from(start) + u64::from(i) * u64::from(step)) % u64::from(COUNT);
    (0..COUNT).map(move |i| EPHEMERAL.start() + offset(i) as u16)
}
