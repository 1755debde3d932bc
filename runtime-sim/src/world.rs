//! All that is outside the programs: hosts, connections, the network, and what is due when.

use crate::{
    event::{EventKind, NO_HOST, Trace},
    host::{Disk, Life},
    link::{Rule, Trouble},
    options::Options,
    queue::{Key, Queue},
    random::{Purpose, Random},
    tcp::{End, Listening, Ports, Tuple},
};
use slab::Slab;
use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    task::Waker,
    time::Duration,
};

/// Buffers that are kept for the next connection that needs one.
const SPARE_BUFFERS: usize = 256;
/// A buffer bigger than this isn't kept.
const SPARE_BYTES: usize = 256 * 1024;

pub(crate) struct World {
    pub(crate) now: u64,
    /// The task that is polled; 0 is the body of the simulation.
    pub(crate) task: u64,
    pub(crate) queue: Queue<Happening>,
    alarms: Slab<Armed>,
    pub(crate) hosts: Vec<HostState>,
    ips: BTreeMap<IpAddr, u32>,
    pub(crate) ends: Slab<End>,
    pub(crate) listeners: Slab<Listening>,
    pub(crate) time_waits: Slab<(u32, Tuple)>,
    pub(crate) rules: Vec<Rule>,
    next_rule: u64,
    pub(crate) seed: u64,
    pub(crate) network: Network,
    pub(crate) next_serial: u32,
    buffers: Vec<VecDeque<u8>>,
    /// Wakers to be woken, and to be dropped, when the lock is released.
    pub(crate) woken: Vec<Waiter>,
    pub(crate) dropped: Vec<Waiter>,
    over: bool,
}

/// What the options say about the network, in the units that are reckoned with.
pub(crate) struct Network {
    pub(crate) latency: (u64, u64),
    pub(crate) bandwidth: Option<u64>,
    pub(crate) loss: f64,
    pub(crate) short_io: f64,
    pub(crate) hash_payloads: bool,
}

/// A timer that somebody waits for.
struct Armed {
    at: u64,
    host: u32,
    /// Where it is in the queue, until it fires.
    key: Option<Key>,
    waiter: Option<Waiter>,
}

/// What can be due. Those that name an end, but for the reset, are cancelled with it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Happening {
    Alarm(u32),
    /// An attempt to connect arrives.
    Syn(u32),
    /// The first segment that the end has sent arrives.
    Deliver(u32),
    /// The sender learns that there is room again.
    Window(u32),
    /// A reset arrives, from somebody who knows nothing of the connection.
    Reset {
        end: u32,
        serial: u32,
    },
    Upkeep(u32),
    TimeWaitOver(u32),
}

/// A host as the network sees it.
pub(crate) struct HostState {
    pub(crate) life: Arc<Life>,
    pub(crate) lives: u64,
    pub(crate) ips: Arc<[IpAddr]>,
    pub(crate) disk: Disk,
    /// Whether the system answers, be it with a reset.
    pub(crate) powered: bool,
    pub(crate) ports: Ports,
    /// When the last byte that is to be sent has left.
    pub(crate) sending_until: u64,
    pub(crate) dials: u64,
    pub(crate) random: Random,
}

impl World {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            now: 0,
            task: 0,
            queue: Queue::new(),
            alarms: Slab::new(),
            hosts: Vec::new(),
            ips: BTreeMap::new(),
            ends: Slab::new(),
            listeners: Slab::new(),
            time_waits: Slab::new(),
            rules: Vec::new(),
            next_rule: 0,
            seed: options.seed,
            network: Network {
                latency: options.link.latency_nanos(),
                bandwidth: options.link.bandwidth,
                loss: options.link.loss,
                short_io: options.short_io,
                hash_payloads: options.hash_payloads,
            },
            next_serial: 1,
            buffers: Vec::new(),
            woken: Vec::new(),
            dropped: Vec::new(),
            over: false,
        }
    }

    /// Adds a host with these addresses, or with an IPv4 and an IPv6 address of its own if there
    /// are none.
    pub(crate) fn add_host(&mut self, ips: Vec<IpAddr>) -> Result<u32, String> {
        let host = u32::try_from(self.hosts.len()).expect("fewer than 2^32 hosts");
        let ips = if ips.is_empty() { self.free_ips(host) } else { ips };
        for ip in &ips {
            if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
                return Err(format!("{ip} can't be the address of host {host}"));
            }
            if let Some(other) = self.ips.insert(ip.to_canonical(), host) {
                return Err(format!("a duplicate address: host {other} has {ip} already"));
            }
        }
        self.hosts.push(HostState {
            life: Arc::new(self.new_life(host, 0)),
            lives: 1,
            ips: ips.into_iter().map(|ip| ip.to_canonical()).collect(),
            disk: Disk::default(),
            powered: true,
            ports: Ports::default(),
            sending_until: 0,
            dials: 0,
            random: Random::new(self.seed, Purpose::Ports, &[u64::from(host)]),
        });
        Ok(host)
    }

    pub(crate) fn new_life(&self, host: u32, number: u64) -> Life {
        let random = Random::new(self.seed, Purpose::Host, &[u64::from(host), number]);
        Life::new(host, random.state())
    }

    fn free_ips(&self, host: u32) -> Vec<IpAddr> {
        let mut number = host + 1;
        loop {
            let [_, a, b, c] = number.to_be_bytes();
            let v4 = IpAddr::from(Ipv4Addr::new(10, a, b, c));
            let v6 = Ipv6Addr::from(0xfd00 << 112 | u128::from(number));
            let v6 = IpAddr::from(v6);
            if !self.ips.contains_key(&v4) && !self.ips.contains_key(&v6) {
                return vec![v4, v6];
            }
            number += 1;
        }
    }

    pub(crate) fn host_of(&self, ip: IpAddr) -> u32 {
        self.ips.get(&ip).copied().unwrap_or(NO_HOST)
    }

    pub(crate) fn add_rule(
        &mut self,
        from: crate::HostSet,
        to: crate::HostSet,
        trouble: Trouble,
    ) -> u64 {
        let number = self.next_rule;
        self.next_rule += 1;
        self.rules.push(Rule { number, from, to, trouble });
        number
    }

    pub(crate) fn serial(&mut self) -> u32 {
        let serial = self.next_serial;
        self.next_serial = self.next_serial.wrapping_add(1);
        serial
    }

    pub(crate) fn insert_alarm(&mut self, at: u64, host: u32, waker: &Waker) -> Option<u32> {
        if self.over {
            return None;
        }
        let entry = self.alarms.vacant_entry();
        let slot = entry.key() as u32;
        let key = Some(self.queue.insert(at, Happening::Alarm(slot)));
        let waiter = Some(Waiter { waker: waker.clone(), task: self.task });
        entry.insert(Armed { at, host, key, waiter });
        Some(slot)
    }

    /// Returns whether it will fire.
    pub(crate) fn rearm_alarm(&mut self, slot: u32, at: u64, waker: &Waker) -> bool {
        let Some(armed) = self.alarms.get_mut(slot as usize) else { return false };
        if armed.key.is_none() || armed.at != at {
            if let Some(key) = armed.key {
                self.queue.cancel(key);
            }
            armed.at = at;
            armed.key = Some(self.queue.insert(at, Happening::Alarm(slot)));
        }
        register(&mut armed.waiter, waker, self.task, &mut self.dropped);
        true
    }

    pub(crate) fn cancel_alarm(&mut self, slot: u32) {
        if let Some(armed) = self.alarms.try_remove(slot as usize) {
            if let Some(key) = armed.key {
                self.queue.cancel(key);
            }
            self.dropped.extend(armed.waiter);
        }
    }

    /// Wakes those who wait for timers of a host that has crashed.
    pub(crate) fn wake_alarms(&mut self, host: u32) {
        for (_, armed) in &mut self.alarms {
            if armed.host == host {
                self.woken.extend(armed.waiter.take());
            }
        }
    }

    /// Lets happen what is due, and records it.
    pub(crate) fn happen(&mut self, what: Happening, trace: &Trace) {
        let (kind, host, detail) = match what {
            Happening::Alarm(slot) => {
                let armed = &mut self.alarms[slot as usize];
                armed.key = None;
                self.woken.extend(armed.waiter.take());
                (EventKind::Timer, armed.host, self.now - armed.at)
            }
            Happening::Syn(end) => self.syn(end),
            Happening::Deliver(end) => self.deliver(end, trace),
            Happening::Window(end) => self.window_opened(end),
            Happening::Reset { end, serial } => self.reset_arrived(end, serial),
            Happening::Upkeep(end) => self.upkeep(end),
            Happening::TimeWaitOver(slot) => self.time_wait_over(slot),
        };
        trace.record(crate::Event { at: self.now, kind, host, detail });
    }

    /// Returns a buffer without content, be it an old one.
    pub(crate) fn buffer(&mut self) -> VecDeque<u8> {
        self.buffers.pop().unwrap_or_default()
    }

    pub(crate) fn recycle(&mut self, mut buffer: VecDeque<u8>) {
        let capacity = buffer.capacity();
        if 0 < capacity && capacity <= SPARE_BYTES && self.buffers.len() < SPARE_BUFFERS {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }

    pub(crate) fn take_woken(&mut self) -> Vec<Waiter> {
        mem::take(&mut self.woken)
    }

    /// Describes what each task waits for.
    pub(crate) fn waits(&self) -> BTreeMap<u64, String> {
        let mut waits = BTreeMap::<u64, String>::new();
        let mut note = |waiter: &Option<Waiter>, what: String| {
            let Some(waiter) = waiter else { return };
            let known = waits.entry(waiter.task).or_default();
            if !known.is_empty() {
                known.push_str(" and ");
            }
            known.push_str(&what);
        };
        for (_, armed) in &self.alarms {
            note(&armed.waiter, format!("{:?}", Duration::from_nanos(armed.at)));
        }
        for (_, end) in &self.ends {
            note(&end.reader, format!("bytes from {}", end.cold.remote));
            note(&end.writer, format!("room to send to {}", end.cold.remote));
        }
        for (_, listening) in &self.listeners {
            note(&listening.acceptor, format!("connections to {}", listening.addr));
        }
        waits
    }

    /// Ends everything. Returns who is to be woken, and what to drop.
    pub(crate) fn end(&mut self) -> (Vec<Waiter>, Vec<Waiter>) {
        self.over = true;
        let mut woken = mem::take(&mut self.woken);
        woken.extend(self.alarms.drain().filter_map(|armed| armed.waiter));
        for mut end in self.ends.drain() {
            woken.extend(end.reader.take());
            woken.extend(end.writer.take());
        }
        woken.extend(self.listeners.drain().filter_map(|listening| listening.acceptor));
        self.queue = Queue::new();
        self.time_waits.clear();
        self.hosts.iter().for_each(|host| host.life.end());
        self.buffers.clear();
        (woken, mem::take(&mut self.dropped))
    }
}

/// Who waits for something.
pub(crate) struct Waiter {
    pub(crate) waker: Waker,
    /// Which task that is, to be told if it waits for ever.
    pub(crate) task: u64,
}

/// Puts a waiter where the last one was; that is to be dropped when no lock is held.
pub(crate) fn register(
    slot: &mut Option<Waiter>,
    waker: &Waker,
    task: u64,
    dropped: &mut Vec<Waiter>,
) {
    match slot {
        Some(known) if known.waker.will_wake(waker) => known.task = task,
        _ => dropped.extend(slot.replace(Waiter { waker: waker.clone(), task })),
    }
}
