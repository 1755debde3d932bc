//! How connections end, and what remains of them.

use super::{Carries, Fin, NONE, State, ports::Use};
use crate::{
    event::EventKind,
    units::nanos,
    world::{Happening, World},
};
use std::io;

/// How long a tuple is kept from being used anew (`TIME_WAIT`), and how long the system waits for
/// the FIN of a peer when the program has closed already (`tcp_fin_timeout`); Linux's figure for
/// both.
const LINGER: u64 = 60_000_000_000;

type Happened = (EventKind, u32, u64);

impl World {
    /// The program has dropped its socket, or the dial.
    pub(crate) fn close(&mut self, index: u32, serial: u32, abort: bool) {
        let Some(end) = self.end_mut(index, serial) else { return };
        end.orphan = true;
        let (reader, writer) = (end.reader.take(), end.writer.take());
        let finished = end.is_finished();
        let unread = !end.received.is_empty();
        match end.state {
            State::SynSent | State::Dead(_) => self.free(index),
            State::Open if finished => self.finish(index),
            // Unread data means that it was for nothing, which the peer has to know
            // (RFC 2525, 2.17; RFC 1122, 4.2.2.13).
            State::Open if abort || unread => self.abort(index),
            State::Open => {
                if end.out.fin == Fin::No {
                    end.out.fin = Fin::Queued;
                }
                self.transmit(index);
                self.finish(index);
            }
            State::SynReceived { .. } | State::Resetting => {}
        }
        self.dropped.extend(reader);
        self.dropped.extend(writer);
    }

    /// Ends a connection with a reset. What is on its way may still arrive before that.
    pub(crate) fn abort(&mut self, index: u32) {
        let end = &mut self.ends[index as usize];
        match end.state {
            State::Resetting => return,
            State::Dead(_) => return self.free(index),
            _ if end.peer == NONE => return self.free(index),
            _ => {}
        }
        end.state = State::Resetting;
        end.orphan = true;
        let on_the_way = end.out.in_flight;
        end.out.bytes.truncate(on_the_way);
        let unread = std::mem::take(&mut end.received);
        let keys = [end.out.window_due.take(), end.upkeep.take()];
        let wakers = [end.reader.take(), end.writer.take()];
        self.woken.extend(wakers.into_iter().flatten());
        self.recycle(unread);
        keys.into_iter().flatten().for_each(|key| self.queue.cancel(key));
        self.unlist(index);
        self.send(index, Carries::Reset);
    }

    /// Frees an end whose program has let go of it and for which nothing more can come.
    pub(crate) fn finish(&mut self, index: u32) {
        let end = &mut self.ends[index as usize];
        if !end.orphan || end.out.fin != Fin::Arrived {
            return;
        }
        if !end.fin_received {
            if let Some(key) = end.upkeep.take() {
                self.queue.cancel(key);
            }
            end.upkeep = Some(self.queue.insert(self.now + LINGER, Happening::Upkeep(index)));
            return;
        }
        if end.out.closed_first && end.listed {
            let (host, tuple) = (end.host, end.tuple());
            end.listed = false;
            let slot = self.time_waits.insert((host, tuple)) as u32;
            self.hosts[host as usize].ports.insert(tuple, Use::TimeWait { slot });
            self.queue.insert(self.now + LINGER, Happening::TimeWaitOver(slot));
        }
        self.free(index);
    }

    /// Ends a connection with an error on this side. What has arrived can still be read.
    pub(crate) fn kill(&mut self, index: u32, kind: io::ErrorKind) {
        let end = &mut self.ends[index as usize];
        match end.state {
            _ if end.orphan => return self.free(index),
            State::SynReceived { .. } => return self.free(index),
            State::Dead(_) => return,
            _ => end.state = State::Dead(kind),
        }
        end.out.bytes = Default::default();
        end.out.segments = Default::default();
        end.out.in_flight = 0;
        let keys = [end.out.due.take(), end.out.window_due.take(), end.upkeep.take()];
        keys.into_iter().flatten().for_each(|key| self.queue.cancel(key));
        self.woken.extend(end.reader.take());
        self.woken.extend(end.writer.take());
        self.unlink(index);
    }

    /// What was sent could not be delivered for too long.
    pub(crate) fn time_out(&mut self, index: u32) {
        match self.ends[index as usize].state {
            State::Resetting => self.free(index),
            _ => self.kill(index, io::ErrorKind::TimedOut),
        }
    }

    /// The host of the peer knows nothing of the connection, and will say so.
    pub(crate) fn answer_with_reset(&mut self, index: u32) {
        let end = &mut self.ends[index as usize];
        end.out.segments = Default::default();
        let serial = end.serial;
        if end.state == State::Resetting {
            return self.free(index);
        }
        let at = self.now + end.random.between(0, self.network.latency.1);
        self.queue.insert(at, Happening::Reset { end: index, serial });
    }

    pub(crate) fn reset_arrived(&mut self, index: u32, serial: u32) -> Happened {
        let Some(end) = self.end_mut(index, serial) else {
            return (EventKind::Reset, crate::event::NO_HOST, 0);
        };
        let happened = (EventKind::Reset, end.host, u64::from(end.to));
        match end.state {
            State::SynSent => self.kill(index, io::ErrorKind::ConnectionRefused),
            _ => self.kill(index, io::ErrorKind::ConnectionReset),
        }
        happened
    }

    /// A probe of an idle connection, or the end of the wait for a FIN.
    pub(crate) fn upkeep(&mut self, index: u32) -> Happened {
        let end = &mut self.ends[index as usize];
        end.upkeep = None;
        let happened = (EventKind::Upkeep, end.host, u64::from(end.to));
        let (idle, peer) = (self.now - end.heard_at, end.peer);
        let Some(probing) = end.cold.keepalive.as_mut().filter(|_| !end.orphan) else {
            self.free(index);
            return happened;
        };
        let (time, interval) = (nanos(probing.options.time), nanos(probing.options.interval));
        let wait = if idle < time {
            probing.unanswered = 0;
            time - idle
        } else if !end.out.segments.is_empty() {
            // What is sent again is a probe, too.
            time
        } else if self.gets_through(index) {
            if peer == NONE {
                self.answer_with_reset(index);
                return happened;
            }
            self.ends[index as usize].heard_at = self.now;
            time
        } else {
            let end = &mut self.ends[index as usize];
            let Some(probing) = &mut end.cold.keepalive else { return happened };
            probing.unanswered += 1;
            if probing.unanswered > probing.options.retries {
                self.time_out(index);
                return happened;
            }
            interval
        };
        let at = self.now + wait.max(1);
        self.ends[index as usize].upkeep = Some(self.queue.insert(at, Happening::Upkeep(index)));
        happened
    }

    pub(crate) fn time_wait_over(&mut self, slot: u32) -> Happened {
        let host = match self.time_waits.try_remove(slot as usize) {
            Some((host, tuple)) => {
                let ports = &mut self.hosts[host as usize].ports;
                if ports.get(&tuple) == Some(Use::TimeWait { slot }) {
                    ports.remove(&tuple);
                }
                host
            }
            None => crate::event::NO_HOST,
        };
        (EventKind::Upkeep, host, 0)
    }

    /// Lets a tuple be used before its time. The slot stays until the time is over.
    pub(crate) fn forget_time_wait(&mut self, slot: u32) {
        let (host, tuple) = self.time_waits[slot as usize];
        self.hosts[host as usize].ports.remove(&tuple);
    }

    fn unlist(&mut self, index: u32) {
        let end = &mut self.ends[index as usize];
        if std::mem::take(&mut end.listed) {
            let (host, tuple) = (end.host, end.tuple());
            let ports = &mut self.hosts[host as usize].ports;
            if matches!(ports.get(&tuple), Some(Use::End { end, .. }) if end == index) {
                ports.remove(&tuple);
            }
        }
    }

    fn unlink(&mut self, index: u32) {
        let peer = std::mem::replace(&mut self.ends[index as usize].peer, NONE);
        if let Some(peer) = self.ends.get_mut(peer as usize)
            && peer.peer == index
        {
            peer.peer = NONE;
        }
    }

    /// Forgets an end. Whatever its peer sends from now on is answered with a reset.
    pub(crate) fn free(&mut self, index: u32) {
        self.unlist(index);
        self.unlink(index);
        let end = self.ends.remove(index as usize);
        let keys = [end.out.due, end.out.window_due, end.upkeep];
        keys.into_iter().flatten().for_each(|key| self.queue.cancel(key));
        self.dropped.extend(end.reader);
        self.dropped.extend(end.writer);
        self.recycle(end.out.bytes);
        self.recycle(end.received);
        if let State::SynReceived { listener, serial } = end.state
            && self.is_listening(listener, serial)
        {
            self.listeners[listener as usize].half_open -= 1;
        }
    }

    /// Takes away all that a host's programs had of the network: with resets for their peers, or
    /// without a word.
    pub(crate) fn crash_network(&mut self, host: u32, power_loss: bool) {
        let of_host = self.listeners.iter().filter(|(_, listening)| listening.host == host);
        let listeners: Vec<_> =
            of_host.map(|(index, found)| (index as u32, found.serial)).collect();
        for (listener, serial) in listeners {
            self.unlisten(listener, serial);
        }
        let of_host = self.ends.iter().filter(|(_, end)| end.host == host);
        let ends: Vec<_> = of_host.map(|(index, _)| index as u32).collect();
        if power_loss {
            ends.into_iter().for_each(|end| self.free(end));
        } else {
            for index in ends {
                let end = &self.ends[index as usize];
                match end.state {
                    State::SynSent | State::Dead(_) => self.free(index),
                    // What programs have closed before goes its way without them.
                    State::Open if !end.orphan => self.abort(index),
                    _ => {}
                }
            }
        }
        if power_loss {
            let state = &mut self.hosts[host as usize];
            state.ports.clear();
            state.powered = false;
        }
    }

    /// Resets the connections between two sets of hosts, for both sides at once.
    pub(crate) fn reset_between(&mut self, between: impl Fn(u32, u32) -> bool) {
        let concerned = self.ends.iter().filter(|(_, end)| between(end.host, end.to));
        let ends: Vec<_> = concerned.map(|(index, end)| (index as u32, end.serial)).collect();
        for (index, serial) in ends {
            let open = |end: &mut super::End| end.state == State::Open;
            if self.end_mut(index, serial).is_some_and(open) {
                self.kill(index, io::ErrorKind::ConnectionReset);
            }
        }
    }
}
