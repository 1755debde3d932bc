//! Dialing, and how a dial arrives.

use super::{
    Carries, End, NONE, State,
    listening::gone,
    ports::{Tuple, Use},
};
use crate::{
    event::{EventKind, NO_HOST},
    link::Trouble,
    random::{Purpose, Random},
    world::{Happening, World, register},
};
use anypea_runtime::{ConnectOptions, SocketOptions};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    task::{Context, Poll},
};

const SECOND: u64 = 1_000_000_000;
/// How often an attempt to connect is repeated, as on Linux (`tcp_syn_retries`): the first time
/// after one second, then twice as long each time, so that it times out after 127 seconds.
const SYN_RETRIES: u32 = 6;

type Happened = (EventKind, u32, u64);

impl World {
    /// Tells whether an address is one of the host's own.
    pub(crate) fn owns(&self, host: u32, ip: IpAddr) -> bool {
        ip.is_loopback() || self.host_of(ip) == host
    }

    /// Begins to connect.
    pub(crate) fn dial(
        &mut self,
        host: u32,
        addr: SocketAddr,
        options: &ConnectOptions,
    ) -> io::Result<u32> {
        let remote = SocketAddr::new(destination(addr.ip()), addr.port());
        let own = remote.ip().is_loopback() || self.host_of(remote.ip()) == host;
        let to = if own { host } else { self.host_of(remote.ip()) };
        let (local, chosen) = self.bind(host, remote, options)?;
        let state = &mut self.hosts[host as usize];
        state.dials += 1;
        let which = [u64::from(host), state.dials, 0];
        let random = Random::new(self.seed, Purpose::Connection, &which);
        let serial = self.serial();
        let mut end =
            End::new(serial, (host, to), (local, remote), &options.socket, State::SynSent, random);
        end.cold.lost_since = self.now;
        let tuple = end.tuple();
        let index = self.ends.insert(end) as u32;
        let ports = &mut self.hosts[host as usize].ports;
        ports.insert(tuple, Use::End { end: index, chosen });
        let at = self.transit(index, 0);
        self.ends[index as usize].out.due = Some(self.queue.insert(at, Happening::Syn(index)));
        Ok(index)
    }

    /// Chooses the address to dial from; the flag tells whether the port was the system's choice.
    fn bind(
        &mut self,
        host: u32,
        remote: SocketAddr,
        options: &ConnectOptions,
    ) -> io::Result<(SocketAddr, bool)> {
        let state = &self.hosts[host as usize];
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == remote.is_ipv4();
        let unspecified = |ip: &IpAddr| ip.is_unspecified();
        let wanted = options.local.map(|local| (local.ip().to_canonical(), local.port()));
        let ip = match wanted.map(|(ip, _)| ip).filter(|ip| !unspecified(ip)) {
            Some(ip) if !self.owns(host, ip) || !same_family(&&ip) => {
                return Err(io::ErrorKind::AddrNotAvailable.into());
            }
            Some(ip) => ip,
            None if remote.ip().is_loopback() => localhost(remote.ip()),
            // A host that dials itself does so from the address that it dials.
            None if self.owns(host, remote.ip()) => remote.ip(),
            None => *state.ips.iter().find(same_family).ok_or(io::ErrorKind::NetworkUnreachable)?,
        };
        let state = &mut self.hosts[host as usize];
        match wanted.map_or(0, |(_, port)| port) {
            0 => match state.ports.ephemeral(ip, remote, &mut state.random) {
                Some(port) => Ok((SocketAddr::new(ip, port), true)),
                None => Err(io::ErrorKind::AddrNotAvailable.into()),
            },
            port if state.ports.is_taken(ip, port, options.reuse_port) => {
                Err(io::ErrorKind::AddrInUse.into())
            }
            port => match state.ports.get(&Tuple { port, ip, remote }) {
                Some(Use::End { .. }) => Err(io::ErrorKind::AddrNotAvailable.into()),
                // Linux lets a dial use it again (tcp_tw_reuse).
                Some(Use::TimeWait { slot }) => {
                    self.forget_time_wait(slot);
                    Ok((SocketAddr::new(ip, port), false))
                }
                None => Ok((SocketAddr::new(ip, port), false)),
            },
        }
    }

    pub(crate) fn poll_connect(
        &mut self,
        end: u32,
        serial: u32,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(found) = self.end_mut(end, serial) else { return Poll::Ready(Err(gone())) };
        match found.state {
            State::Dead(kind) => Poll::Ready(Err(kind.into())),
            State::SynSent => {
                let found = &mut self.ends[end as usize];
                register(&mut found.writer, cx.waker(), self.task, &mut self.dropped);
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    /// An attempt to connect arrives, or the time for it is over.
    pub(crate) fn syn(&mut self, index: u32) -> Happened {
        let end = &mut self.ends[index as usize];
        end.out.due = None;
        let (from, to) = (end.host, end.to);
        if end.out.losses > SYN_RETRIES {
            self.time_out(index);
            return (EventKind::Lost, from, u64::from(SYN_RETRIES) + 1);
        }
        if !self.gets_through(index) || !self.arrive(index) {
            return self.syn_lost(index);
        }
        let end = &mut self.ends[index as usize];
        if end.state == State::SynSent && end.out.due.is_none() {
            // It isn't sent again, but the answer has to come in time.
            end.out.losses = SYN_RETRIES + 1;
            let at = (end.cold.lost_since + ((2 << SYN_RETRIES) - 1) * SECOND).max(self.now);
            end.out.due = Some(self.queue.insert(at, Happening::Syn(index)));
        }
        (EventKind::Syn, to, u64::from(from))
    }

    fn syn_lost(&mut self, index: u32) -> Happened {
        let end = &mut self.ends[index as usize];
        let at = self.now + (SECOND << end.out.losses);
        end.out.losses += 1;
        end.out.due = Some(self.queue.insert(at, Happening::Syn(index)));
        (EventKind::Lost, end.host, u64::from(end.out.losses))
    }

    /// Answers an attempt to connect; `false` if it is dropped without a word.
    fn arrive(&mut self, index: u32) -> bool {
        let end = &self.ends[index as usize];
        let (serial, from, host) = (end.serial, end.host, end.to);
        let (local, remote) = (end.cold.remote, end.cold.local);
        let tuple = Tuple { port: local.port(), ip: local.ip(), remote };
        match self.hosts[host as usize].ports.get(&tuple) {
            Some(Use::End { end: other, .. }) if other != index => {
                match &self.ends[other as usize] {
                    // Both have dialed each other (RFC 9293, 3.5: simultaneous open).
                    found if found.state == State::SynSent => {
                        self.join(index, other);
                        return true;
                    }
                    // A connection of which the dialing host has forgotten its end.
                    found if found.peer == NONE => self.kill(other, io::ErrorKind::ConnectionReset),
                    // Its old end is still about to finish.
                    _ => return false,
                }
            }
            Some(Use::TimeWait { slot }) => self.forget_time_wait(slot),
            _ => {}
        }
        let state = &mut self.hosts[host as usize];
        let bound = state.ports.listener(local.ip(), local.port(), &mut state.random);
        let refused = self.is_troubled(from, host, |trouble| *trouble == Trouble::Refuse);
        let Some(bound) = bound.filter(|_| !refused) else {
            let at = self.transit(index, 0);
            self.queue.insert(at, Happening::Reset { end: index, serial });
            return true;
        };
        let listening = &self.listeners[bound.listener as usize];
        if !listening.has_room() {
            return false;
        }
        let state = State::SynReceived { listener: bound.listener, serial: listening.serial };
        let options = listening.options.clone();
        self.answer(index, state, &options, tuple);
        self.listeners[bound.listener as usize].half_open += 1;
        true
    }

    /// Makes the other end of a connection.
    fn answer(&mut self, index: u32, state: State, options: &SocketOptions, tuple: Tuple) {
        let dialer = &self.ends[index as usize];
        let (from, host) = (dialer.host, dialer.to);
        let (local, remote) = (dialer.cold.remote, dialer.cold.local);
        let random = Random::new(dialer.random.state(), Purpose::Connection, &[1]);
        let serial = self.serial();
        let mut end = End::new(serial, (host, from), (local, remote), options, state, random);
        end.peer = index;
        let answer = self.ends.insert(end) as u32;
        self.ends[index as usize].peer = answer;
        let ports = &mut self.hosts[host as usize].ports;
        ports.insert(tuple, Use::End { end: answer, chosen: false });
        self.send(answer, Carries::SynAck);
    }

    /// Makes one connection of two dials that have met.
    fn join(&mut self, index: u32, other: u32) {
        self.ends[index as usize].peer = other;
        self.ends[other as usize].peer = index;
        self.open(other);
        self.send(other, Carries::SynAck);
    }

    /// The end can be read and written from now on.
    pub(crate) fn open(&mut self, index: u32) {
        let end = &mut self.ends[index as usize];
        if end.state == State::SynSent
            && let Some(key) = end.out.due.take()
        {
            self.queue.cancel(key);
        }
        end.out.losses = 0;
        end.state = State::Open;
        end.heard_at = self.now;
        self.woken.extend(end.writer.take());
        if let Some(probing) = &end.cold.keepalive {
            let at = self.now + crate::units::nanos(probing.options.time);
            end.upkeep = Some(self.queue.insert(at, Happening::Upkeep(index)));
        }
    }

    pub(crate) fn end_mut(&mut self, end: u32, serial: u32) -> Option<&mut End> {
        self.ends.get_mut(end as usize).filter(|found| found.serial == serial)
    }

    /// Tells whether something is wrong on the way.
    pub(crate) fn is_troubled(&self, from: u32, to: u32, what: impl Fn(&Trouble) -> bool) -> bool {
        from != to
            && to != NO_HOST
            && self.rules.iter().any(|rule| rule.applies(from, to) && what(&rule.trouble))
    }
}

/// Where a dial to this address goes; one to no address in particular goes to the host itself, as
/// on Linux.
fn destination(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        ip if ip.is_unspecified() => localhost(ip),
        ip => ip,
    }
}

/// Returns the loopback address of the same family.
fn localhost(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}
