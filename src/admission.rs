//! Who gets in: the registry of connections and the limits on them, under one lock, so that the
//! limits hold at every instant.

use crate::{
    Config, ConnectError, NodeStats, Peer,
    node::Inner,
    stats::{Counters, count},
};
use indexmap::IndexMap;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

/// All connections of a node, from reservation to release.
pub(crate) struct Table {
    /// An ordered map, so that the order in which peers are told of a message, or of the node's
    /// end, is no accident.
    entries: IndexMap<SocketAddr, Entry>,
    per_ip: IndexMap<IpAddr, usize>,
    per_prefix: IndexMap<IpAddr, usize>,
    inbound: usize,
    inbound_setups: usize,
    outbound_setups: usize,
    closed: bool,
    /// The statistics of released connections.
    past: NodeStats,
}

/// One address and what is going on with it.
enum Entry {
    Setup {
        inbound: bool,
        /// The address of our end, once known; boxed, since every live entry is as large.
        local: Option<Box<SocketAddr>>,
        /// Both ends are ours.
        own: bool,
    },
    Live(Peer),
}

impl Table {
    pub(crate) fn new(stats: NodeStats) -> Self {
        Self {
            entries: IndexMap::new(),
            per_ip: IndexMap::new(),
            per_prefix: IndexMap::new(),
            inbound: 0,
            inbound_setups: 0,
            outbound_setups: 0,
            closed: false,
            past: stats,
        }
    }

    /// Refuses all that comes from now on, and returns the live connections. Empty if it has been
    /// closed before.
    pub(crate) fn close(&mut self) -> Vec<Peer> {
        if std::mem::replace(&mut self.closed, true) { Vec::new() } else { self.peers() }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn peer(&self, addr: SocketAddr) -> Option<&Peer> {
        match self.entries.get(&addr) {
            Some(Entry::Live(peer)) => Some(peer),
            _ => None,
        }
    }

    pub(crate) fn peers(&self) -> Vec<Peer> {
        self.live().cloned().collect()
    }

    pub(crate) fn num_live(&self) -> usize {
        self.entries.len() - self.num_setups()
    }

    pub(crate) fn num_setups(&self) -> usize {
        self.inbound_setups + self.outbound_setups
    }

    pub(crate) fn has_inbound_budget(&self, config: &Config) -> bool {
        self.inbound_setups < config.max_inbound_setups
    }

    pub(crate) fn stats(&self) -> NodeStats {
        let mut stats = self.past;
        stats.queued_bytes = 0;
        self.live().for_each(|peer| stats.add(&peer.stats()));
        stats
    }

    fn live(&self) -> impl Iterator<Item = &Peer> {
        self.entries.values().filter_map(|entry| match entry {
            Entry::Live(peer) => Some(peer),
            Entry::Setup { .. } => None,
        })
    }

    fn reserve(
        &mut self,
        config: &Config,
        addr: SocketAddr,
        inbound: bool,
    ) -> Result<(), ConnectError> {
        if self.closed {
            return Err(ConnectError::ShuttingDown(addr));
        }
        match self.entries.get(&addr) {
            Some(Entry::Live(_)) => return Err(ConnectError::AlreadyConnected(addr)),
            Some(Entry::Setup { .. }) => return Err(ConnectError::AlreadyConnecting(addr)),
            None => {}
        }
        if self.entries.len() >= config.max_connections {
            return Err(ConnectError::TotalLimit(addr));
        }
        if inbound && self.inbound >= config.max_inbound {
            return Err(ConnectError::InboundLimit(addr));
        }
        let budget = match inbound {
            true => self.has_inbound_budget(config),
            false => self.outbound_setups < config.max_outbound_setups,
        };
        if !budget {
            return Err(ConnectError::SetupBudget(addr));
        }
        let counted = Counted::of(config, addr.ip());
        if let Some(Counted { ip, prefix }) = counted {
            let used = |map: &IndexMap<_, usize>, key| map.get(key).copied().unwrap_or(0);
            if used(&self.per_ip, &ip) >= config.max_per_ip {
                return Err(ConnectError::IpLimit(addr));
            }
            if used(&self.per_prefix, &prefix) >= config.max_per_prefix {
                return Err(ConnectError::PrefixLimit(addr));
            }
            *self.per_ip.entry(ip).or_default() += 1;
            *self.per_prefix.entry(prefix).or_default() += 1;
        }
        self.entries.insert(addr, Entry::Setup { inbound, local: None, own: false });
        self.inbound += usize::from(inbound);
        *self.setups(inbound) += 1;
        Ok(())
    }

    fn setups(&mut self, inbound: bool) -> &mut usize {
        if inbound { &mut self.inbound_setups } else { &mut self.outbound_setups }
    }

    fn remove(&mut self, config: &Config, addr: SocketAddr, inbound: bool) -> Option<Entry> {
        let entry = self.entries.swap_remove(&addr);
        match &entry {
            Some(Entry::Live(peer)) => self.past.add(&peer.stats()),
            _ => *self.setups(inbound) -= 1,
        }
        self.inbound -= usize::from(inbound);
        if let Some(Counted { ip, prefix }) = Counted::of(config, addr.ip()) {
            for (map, key) in [(&mut self.per_ip, ip), (&mut self.per_prefix, prefix)] {
                match map.get_mut(&key) {
                    Some(used) if *used > 1 => *used -= 1,
                    _ => drop(map.swap_remove(&key)),
                }
            }
        }
        entry
    }

    /// Notes our end of a connection in set-up. Returns the other end of the very same
    /// connection, if that is ours as well: a dialed and an accepted connection that have each
    /// other's addresses are one.
    fn locate(&mut self, addr: SocketAddr, ours: SocketAddr) -> (bool, Option<Peer>) {
        let Some(Entry::Setup { inbound, local, .. }) = self.entries.get_mut(&addr) else {
            return (false, None);
        };
        if addr == ours {
            // A socket that dials itself is connected with itself (RFC 9293, 3.5). It happens by
            // chance, to who dials a dead port of the local host.
            return (true, None);
        }
        *local = Some(Box::new(ours));
        let inbound = *inbound;
        match self.entries.get_mut(&ours) {
            Some(Entry::Setup { inbound: other, local, own })
                if *other != inbound && local.as_deref() == Some(&addr) =>
            {
                *own = true;
                (true, None)
            }
            Some(Entry::Live(peer)) if peer.local_addr() == Some(addr) => {
                (true, Some(peer.clone()))
            }
            _ => (false, None),
        }
    }
}

/// An address reserved for a connection that is being set up; freed when dropped.
pub(crate) struct Slot {
    pub(crate) inner: Arc<Inner>,
    pub(crate) addr: SocketAddr,
    inbound: bool,
    /// Set as soon as there is a connection, so that its end is announced however it comes.
    pub(crate) peer: Option<Peer>,
    registered: bool,
}

/// The place of a registered connection. Dropping it releases the connection, its socket and its
/// address.
pub(crate) struct Place {
    pub(crate) peer: Peer,
    inbound: bool,
}

impl Slot {
    pub(crate) fn reserve(
        inner: &Arc<Inner>,
        addr: SocketAddr,
        inbound: bool,
    ) -> Result<Self, ConnectError> {
        let reserved = inner.table.lock().reserve(&inner.config, addr, inbound);
        if let Err(error) = reserved {
            count_rejection(&inner.counters, &error, inbound);
            return Err(error);
        }
        Ok(Self { inner: inner.clone(), addr, inbound, peer: None, registered: false })
    }

    /// Notes the address of our end, and checks that it isn't the other end, too.
    pub(crate) fn locate(&self, local: Option<SocketAddr>) -> Result<(), ConnectError> {
        let Some(local) = local else { return Ok(()) };
        let (own, other) = self.inner.table.lock().locate(self.addr, local);
        if let Some(other) = other {
            use crate::{DisconnectReason::OwnAddress, ending::Manner};
            other.conn.ending.begin(OwnAddress, Manner::Abort);
        }
        if own { Err(self.own_address()) } else { Ok(()) }
    }

    /// Makes the connection one that can be found and sent to.
    pub(crate) fn register(mut self, peer: &Peer) -> Result<Place, ConnectError> {
        let mut table = self.inner.table.lock();
        let closed = table.closed;
        let entry = match table.entries.get_mut(&self.addr) {
            Some(Entry::Setup { own: true, .. }) => {
                drop(table);
                return Err(self.own_address());
            }
            Some(entry) if !closed => entry,
            _ => return Err(ConnectError::ShuttingDown(self.addr)),
        };
        *entry = Entry::Live(peer.clone());
        *table.setups(self.inbound) -= 1;
        drop(table);
        self.registered = true;
        Ok(Place { peer: peer.clone(), inbound: self.inbound })
    }

    /// Whether the other end of the connection has turned out to be ours as well.
    pub(crate) fn leads_back(&self) -> bool {
        let table = self.inner.table.lock();
        matches!(table.entries.get(&self.addr), Some(Entry::Setup { own: true, .. }))
    }

    pub(crate) fn own_address(&self) -> ConnectError {
        let error = ConnectError::OwnAddress(self.addr);
        count_rejection(&self.inner.counters, &error, self.inbound);
        error
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.registered {
            release(&self.inner, self.addr, self.inbound, self.peer.as_ref());
        }
        self.inner.budget.wake();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let conn = &self.peer.conn;
        release(&conn.inner, conn.addr, self.inbound, Some(&self.peer));
    }
}

/// Frees a connection's socket and its place in the table, and announces its end.
fn release(inner: &Inner, addr: SocketAddr, inbound: bool, peer: Option<&Peer>) {
    // The socket goes first: whoever gets the address next must not meet it.
    if let Some(peer) = peer {
        peer.conn.release();
    }
    let entry = inner.table.lock().remove(&inner.config, addr, inbound);
    drop(entry);
    if let Some(peer) = peer {
        peer.conn.ending.over.fire();
    }
}

/// An IP address as the limits count it: under itself and under its prefix.
struct Counted {
    ip: IpAddr,
    prefix: IpAddr,
}

impl Counted {
    /// `None` if the limits don't count the address.
    fn of(config: &Config, ip: IpAddr) -> Option<Self> {
        if config.exempt_loopback && ip.is_loopback() || config.exempt_private && is_private(ip) {
            return None;
        }
        let prefix = match ip {
            IpAddr::V4(ip) => {
                let host_bits = 32 - u32::from(config.ipv4_prefix_bits);
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
                Ipv4Addr::from(u32::from(ip) & mask).into()
            }
            IpAddr::V6(ip) => {
                let host_bits = 128 - u32::from(config.ipv6_prefix_bits);
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                Ipv6Addr::from(u128::from(ip) & mask).into()
            }
        };
        Some(Self { ip, prefix })
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Gives an address the one form in which it is counted and looked up: IPv4 as such, also where
/// a dual-stack socket maps it into IPv6 (RFC 4291, 2.5.5.2), and without a flow label.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(mut addr) => match addr.ip().to_ipv4_mapped() {
            Some(ip) => SocketAddr::new(ip.into(), addr.port()),
            None => {
                addr.set_flowinfo(0);
                addr.into()
            }
        },
        v4 => v4,
    }
}

/// Counts what no hook sees: why strangers were turned away.
pub(crate) fn count_rejection(counters: &Counters, error: &ConnectError, inbound: bool) {
    let counter = match error {
        ConnectError::SetupBudget(_) => &counters.rejected_budget,
        _ if !inbound => return,
        ConnectError::AlreadyConnected(_) | ConnectError::AlreadyConnecting(_) => {
            &counters.rejected_duplicate
        }
        ConnectError::OwnAddress(_) => &counters.rejected_own,
        ConnectError::IpLimit(_) => &counters.rejected_ip,
        ConnectError::PrefixLimit(_) => &counters.rejected_prefix,
        ConnectError::TotalLimit(_) | ConnectError::InboundLimit(_) => &counters.rejected_total,
        ConnectError::NotAdmitted(_) => &counters.rejected_by_admission,
        _ => return,
    };
    count(counter);
}
