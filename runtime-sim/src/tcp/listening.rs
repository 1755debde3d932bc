//! Listening and accepting.

use super::{State, ports::Bound};
use crate::world::{Waiter, World, register};
use anypea_runtime::{ListenOptions, SocketOptions};
use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    task::{Context, Poll},
};

/// A listening socket.
pub(crate) struct Listening {
    pub(crate) serial: u32,
    pub(crate) host: u32,
    pub(crate) addr: SocketAddr,
    pub(crate) options: SocketOptions,
    backlog: usize,
    /// Connections that are still being set up.
    pub(crate) half_open: usize,
    pub(crate) queue: VecDeque<u32>,
    pub(crate) acceptor: Option<Waiter>,
}

impl Listening {
    /// Whether there is room for one more; Linux takes one more than the backlog says.
    pub(crate) fn has_room(&self) -> bool {
        self.half_open + self.queue.len() <= self.backlog
    }
}

impl World {
    /// Returns the new listener, its serial and its address.
    pub(crate) fn listen(
        &mut self,
        host: u32,
        addr: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<(u32, u32, SocketAddr)> {
        let ip = addr.ip().to_canonical();
        if !self.owns(host, ip) && !ip.is_unspecified() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let state = &mut self.hosts[host as usize];
        let port = match addr.port() {
            0 => state.ports.unused(&mut state.random).ok_or(io::ErrorKind::AddrInUse)?,
            port if state.ports.is_taken(ip, port, options.reuse_port) => {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            port => port,
        };
        let addr = SocketAddr::new(ip, port);
        let serial = self.serial();
        let listener = self.listeners.insert(Listening {
            serial,
            host,
            addr,
            options: options.socket.clone(),
            backlog: options.backlog as usize,
            half_open: 0,
            queue: VecDeque::new(),
            acceptor: None,
        }) as u32;
        let bound = Bound { listener, ip, reuse: options.reuse_port };
        self.hosts[host as usize].ports.listen(port, bound);
        Ok((listener, serial, addr))
    }

    /// Frees the port. Connections that nobody has accepted are reset.
    pub(crate) fn unlisten(&mut self, listener: u32, serial: u32) {
        if !self.is_listening(listener, serial) {
            return;
        }
        let Listening { host, addr, queue, acceptor, .. } =
            self.listeners.remove(listener as usize);
        self.hosts[host as usize].ports.unlisten(addr.port(), listener);
        self.dropped.extend(acceptor);
        for end in queue {
            self.abort(end);
        }
    }

    pub(crate) fn is_listening(&self, listener: u32, serial: u32) -> bool {
        self.listeners.get(listener as usize).is_some_and(|found| found.serial == serial)
    }

    /// Returns an end that is connected.
    pub(crate) fn poll_accept(
        &mut self,
        listener: u32,
        serial: u32,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<u32>> {
        if !self.is_listening(listener, serial) {
            return Poll::Ready(Err(gone()));
        }
        let listening = &mut self.listeners[listener as usize];
        match listening.queue.pop_front() {
            Some(end) => Poll::Ready(Ok(end)),
            None => {
                register(&mut listening.acceptor, cx.waker(), self.task, &mut self.dropped);
                Poll::Pending
            }
        }
    }

    /// The last step of connection set-up has arrived: the end can be accepted.
    pub(crate) fn established(&mut self, end: u32) {
        let State::SynReceived { listener, serial } = self.ends[end as usize].state else { return };
        self.open(end);
        if !self.is_listening(listener, serial) {
            return self.abort(end);
        }
        let listening = &mut self.listeners[listener as usize];
        listening.half_open -= 1;
        listening.queue.push_back(end);
        self.woken.extend(listening.acceptor.take());
    }
}

pub(crate) fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the host has crashed, or its simulation is over")
}
