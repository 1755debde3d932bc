//! What travels between two ends, and how it arrives, late or not at all.

use super::{Carries, Fin, NONE, Segment, State};
use crate::{
    event::{EventKind, NO_HOST, Trace},
    link::Trouble,
    world::{Happening, World},
};
use std::io;

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;
/// How long a segment takes on a host's loopback: between these.
const LOOPBACK: (u64, u64) = (10_000, 40_000);
/// As much as large segments carry on Linux, before the network card splits them (GSO).
const MAX_SEGMENT_BYTES: usize = 64 * 1024;
/// What each segment costs beside its bytes: Ethernet, IP and TCP headers.
const HEADER_BYTES: usize = 66;
/// The first retransmission time-out (RFC 6298 says a second, Linux 200 ms) and the longest.
const RETRANSMISSION: (u64, u64) = (200 * MILLISECOND, 120 * SECOND);
/// How often a segment is sent again, as on Linux (`tcp_retries2`), and the answer to a dial.
const RETRIES: u32 = 15;
const SYN_ACK_RETRIES: u32 = 5;

type Happened = (EventKind, u32, u64);

impl World {
    /// Returns when a segment arrives that is sent now.
    pub(crate) fn transit(&mut self, index: u32, bytes: usize) -> u64 {
        let end = &mut self.ends[index as usize];
        let at = if end.loopback {
            self.now + end.random.between(LOOPBACK.0, LOOPBACK.1)
        } else {
            let bits = (bytes + HEADER_BYTES) as u64 * 8;
            let mut at = self.now;
            if let Some(bandwidth) = self.network.bandwidth {
                let host = &mut self.hosts[end.host as usize];
                host.sending_until = host.sending_until.max(at) + bits * SECOND / bandwidth;
                at = host.sending_until;
            }
            at += end.random.between(self.network.latency.0, self.network.latency.1);
            for rule in self.rules.iter().filter(|rule| rule.applies(end.host, end.to)) {
                match rule.trouble {
                    Trouble::Slow(longer) => at += longer,
                    Trouble::Clog(bandwidth) => {
                        at = at.max(end.out.last_at) + bits * SECOND / bandwidth.max(1);
                    }
                    _ => {}
                }
            }
            at
        };
        // Bytes stay in order, whatever their segments took.
        end.out.last_at = end.out.last_at.max(at);
        end.out.last_at
    }

    pub(crate) fn send(&mut self, index: u32, what: Carries) {
        let bytes = if let Carries::Data(bytes) = what { bytes as usize } else { 0 };
        let at = self.transit(index, bytes);
        let out = &mut self.ends[index as usize].out;
        out.segments.push(Segment { at, what });
        if out.due.is_none() {
            out.due = Some(self.queue.insert(at, Happening::Deliver(index)));
        }
    }

    /// Sends what there is room for in the peer's window, and after that the FIN if it is time.
    pub(crate) fn transmit(&mut self, index: u32) {
        loop {
            let end = &self.ends[index as usize];
            if end.state != State::Open {
                return;
            }
            let unsent = end.unsent();
            if unsent == 0 {
                break;
            }
            let used = end.out.in_flight;
            let room = match self.ends.get(end.peer as usize) {
                Some(peer) => peer.window.saturating_sub(peer.received.len() + used),
                // It finds out that nobody is there.
                None => MAX_SEGMENT_BYTES.saturating_sub(used),
            };
            let bytes = unsent.min(room).min(MAX_SEGMENT_BYTES);
            if bytes == 0 {
                return;
            }
            self.ends[index as usize].out.in_flight += bytes;
            self.send(index, Carries::Data(bytes as u32));
        }
        let end = &mut self.ends[index as usize];
        if end.out.fin == Fin::Queued {
            end.out.fin = Fin::Sent;
            end.out.closed_first = !end.fin_received;
            self.send(index, Carries::Fin);
        }
    }

    /// Tells whether a segment that is on its way gets there.
    pub(crate) fn gets_through(&mut self, index: u32) -> bool {
        let end = &mut self.ends[index as usize];
        if end.loopback {
            return true;
        }
        if end.to == NO_HOST || !self.hosts[end.to as usize].powered {
            return false;
        }
        for rule in &self.rules {
            let stops = match rule.trouble {
                Trouble::Block => rule.applies(end.host, end.to),
                Trouble::Loss(loss) => rule.applies(end.host, end.to) && end.random.chance(loss),
                _ => false,
            };
            if stops {
                return false;
            }
        }
        !end.random.chance(self.network.loss)
    }

    /// The first segment that an end has sent arrives.
    pub(crate) fn deliver(&mut self, index: u32, trace: &Trace) -> Happened {
        let end = &mut self.ends[index as usize];
        end.out.due = None;
        if !self.gets_through(index) {
            return self.lost(index);
        }
        let end = &mut self.ends[index as usize];
        end.out.losses = 0;
        let (from, to, peer, serial) = (end.host, end.to, end.peer, end.serial);
        let segment = end.out.segments.pop();
        let Some(Segment { what, .. }) = segment else { return (EventKind::Upkeep, from, 0) };
        if peer == NONE {
            self.answer_with_reset(index);
            return (EventKind::Lost, to, u64::from(from));
        }
        self.ends[peer as usize].heard_at = self.now;
        let happened = match what {
            Carries::SynAck => {
                if self.ends[peer as usize].state == State::SynSent {
                    self.open(peer);
                    self.send(peer, Carries::Ack);
                }
                (EventKind::SynAck, to, u64::from(from))
            }
            Carries::Ack => {
                self.established(peer);
                (EventKind::Established, to, u64::from(from))
            }
            Carries::Data(bytes) => {
                self.receive(index, peer, bytes as usize, trace);
                (EventKind::Data, to, u64::from(bytes))
            }
            Carries::Fin => {
                self.ends[index as usize].out.fin = Fin::Arrived;
                let end = &mut self.ends[peer as usize];
                end.fin_received = true;
                self.woken.extend(end.reader.take());
                self.finish(peer);
                if self.end_mut(index, serial).is_some() {
                    self.finish(index);
                }
                (EventKind::Fin, to, u64::from(from))
            }
            Carries::Reset => {
                self.kill(peer, io::ErrorKind::ConnectionReset);
                if self.end_mut(index, serial).is_some() {
                    self.free(index);
                }
                (EventKind::Reset, to, u64::from(from))
            }
        };
        if let Some(end) = self.end_mut(index, serial)
            && end.out.due.is_none()
            && let Some(next) = end.out.segments.first()
        {
            let at = next.at.max(self.now);
            let due = self.queue.insert(at, Happening::Deliver(index));
            self.ends[index as usize].out.due = Some(due);
        }
        happened
    }

    fn receive(&mut self, index: u32, peer: u32, bytes: usize, trace: &Trace) {
        if self.ends[peer as usize].is_deaf() {
            // Data for a socket that nobody has any more (RFC 9293, 3.10.7.1; RFC 1122, 4.2.2.13).
            self.answer_with_reset(index);
            let end = &mut self.ends[peer as usize];
            if end.orphan && end.state != State::Resetting {
                self.free(peer);
            }
            return;
        }
        let Some((end, peer)) = self.ends.get2_mut(index as usize, peer as usize) else { return };
        end.out.in_flight -= bytes;
        if self.network.hash_payloads {
            end.out.bytes.iter().take(bytes).for_each(|byte| trace.absorb(u64::from(*byte)));
        }
        if bytes == end.out.bytes.len() && peer.received.is_empty() {
            std::mem::swap(&mut end.out.bytes, &mut peer.received);
        } else {
            let (front, back) = end.out.bytes.as_slices();
            let (front, back) =
                (&front[..bytes.min(front.len())], &back[..bytes.saturating_sub(front.len())]);
            peer.received.extend(front);
            peer.received.extend(back);
            end.out.bytes.drain(..bytes);
        }
        self.woken.extend(peer.reader.take());
        let emptied = if end.out.bytes.is_empty() {
            std::mem::take(&mut end.out.bytes)
        } else {
            Default::default()
        };
        let waits = end.writer.is_some();
        self.recycle(emptied);
        if waits {
            self.tell_of_room(index);
        }
    }

    /// Lets a sender know that there is room, after the time that the message takes.
    pub(crate) fn tell_of_room(&mut self, index: u32) {
        let end = &mut self.ends[index as usize];
        if end.out.window_due.is_none() {
            let (low, high) = if end.loopback { LOOPBACK } else { self.network.latency };
            let at = self.now + end.random.between(low, high);
            end.out.window_due = Some(self.queue.insert(at, Happening::Window(index)));
        }
    }

    pub(crate) fn window_opened(&mut self, index: u32) -> Happened {
        self.ends[index as usize].out.window_due = None;
        self.transmit(index);
        let end = &mut self.ends[index as usize];
        // As on Linux, a writer isn't woken for little (`sk_stream_is_writeable`).
        if end.out.bytes.len() * 3 <= end.out.capacity * 2 {
            self.woken.extend(end.writer.take());
        }
        (EventKind::Window, end.host, u64::from(end.to))
    }

    /// The first segment is lost: it is sent again later, or the connection is given up.
    fn lost(&mut self, index: u32) -> Happened {
        let end = &mut self.ends[index as usize];
        if end.out.losses == 0 {
            end.cold.lost_since = self.now;
        }
        end.out.losses += 1;
        let happened = (EventKind::Lost, end.host, u64::from(end.out.losses));
        let retries = match end.state {
            State::SynReceived { .. } => SYN_ACK_RETRIES,
            _ => RETRIES,
        };
        let round_trip = 2 * self.network.latency.1;
        let first = RETRANSMISSION.0.max(round_trip);
        let pause = (first << (end.out.losses - 1).min(20)).min(RETRANSMISSION.1);
        let mut at = self.now + pause;
        // After the last try there is still the wait for its answer.
        let mut give_up = end.out.losses > retries + 1 || end.state == State::Resetting;
        if let Some(timeout) = end.cold.user_timeout {
            at = at.min((end.cold.lost_since + timeout).max(self.now + 1));
            give_up |= self.now - end.cold.lost_since >= timeout;
        }
        if give_up {
            self.time_out(index);
        } else {
            end.out.due = Some(self.queue.insert(at, Happening::Deliver(index)));
        }
        happened
    }
}
