//! What lies between hosts.

use crate::units::nanos;
use std::{
    ops::{Range, RangeInclusive},
    time::Duration,
};

/// How the network between any two hosts behaves when nothing is wrong with it.
///
/// Each segment takes a time of its own, drawn from the latency range by the connection's own
/// random stream; bytes stay in order, as TCP keeps them. What is lost is sent again after TCP's
/// retransmission time-out, which doubles each time, and after 15 times (or the socket's user
/// time-out) the connection ends with an error.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    pub(crate) latency: (Duration, Duration),
    pub(crate) bandwidth: Option<u64>,
    pub(crate) loss: f64,
}

impl Link {
    /// Describes a link by the time that a segment takes one way: a `Duration`, or a range.
    pub fn latency(latency: impl Into<Latency>) -> Self {
        let Latency(latency) = latency.into();
        Self { latency, bandwidth: None, loss: 0.0 }
    }

    /// Limits what each host can send, on all its connections together, in bits per second.
    pub fn bandwidth(mut self, bits_per_second: u64) -> Self {
        self.bandwidth = Some(bits_per_second);
        self
    }

    /// Has each segment be lost with this probability.
    pub fn loss(mut self, probability: f64) -> Self {
        self.loss = probability;
        self
    }

    /// Returns what makes the link impossible.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (low, high) = self.latency;
        if low > high {
            return Err(format!("an impossible link: its latency ranges from {low:?} to {high:?}"));
        }
        if high > Duration::from_secs(3600) {
            return Err(format!("an impossible link: a latency of {high:?} is over an hour"));
        }
        if self.bandwidth == Some(0) {
            return Err("an impossible link: its bandwidth is zero".into());
        }
        if !(0.0..=1.0).contains(&self.loss) {
            return Err(format!("an impossible link: its loss is {}, not in 0..=1", self.loss));
        }
        Ok(())
    }

    pub(crate) fn latency_nanos(&self) -> (u64, u64) {
        (nanos(self.latency.0), nanos(self.latency.1))
    }
}

/// A good connection across a country: 5 to 30 ms one way, unlimited, without loss.
impl Default for Link {
    fn default() -> Self {
        Self::latency(Duration::from_millis(5)..Duration::from_millis(30))
    }
}

/// A time, or a range of times, that a segment takes one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency((Duration, Duration));

impl From<Duration> for Latency {
    fn from(latency: Duration) -> Self {
        Self((latency, latency))
    }
}

impl From<Range<Duration>> for Latency {
    fn from(Range { start, end }: Range<Duration>) -> Self {
        Self((start, end))
    }
}

impl From<RangeInclusive<Duration>> for Latency {
    fn from(range: RangeInclusive<Duration>) -> Self {
        Self(range.into_inner())
    }
}

/// What is wrong with the network for some while.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Trouble {
    /// Nothing gets through.
    Block,
    /// All takes this much longer.
    Slow(u64),
    /// Each connection gets this few bits per second.
    Clog(u64),
    /// More is lost.
    Loss(f64),
    /// Attempts to connect are refused.
    Refuse,
}

/// Trouble on the way from some hosts to some others.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) number: u64,
    pub(crate) from: HostSet,
    pub(crate) to: HostSet,
    pub(crate) trouble: Trouble,
}

/// Some of the hosts, by their numbers.
///
/// Made from a number, a range of numbers, or a list of them; [`Hosts::range`](crate::Hosts::range)
/// makes one that knows where the hosts end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSet {
    bits: Vec<u64>,
}

impl HostSet {
    /// Tells whether a host is in the set.
    pub fn contains(&self, host: usize) -> bool {
        self.bits.get(host / 64).is_some_and(|word| word & (1 << (host % 64)) != 0)
    }

    /// Adds a host.
    pub fn insert(&mut self, host: usize) {
        if self.bits.len() <= host / 64 {
            self.bits.resize(host / 64 + 1, 0);
        }
        self.bits[host / 64] |= 1 << (host % 64);
    }

    /// Returns the hosts in the set, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.bits.len() * 64).filter(|host| self.contains(*host))
    }
}

impl FromIterator<usize> for HostSet {
    fn from_iter<I: IntoIterator<Item = usize>>(hosts: I) -> Self {
        let mut set = Self::default();
        hosts.into_iter().for_each(|host| set.insert(host));
        set
    }
}

impl From<usize> for HostSet {
    fn from(host: usize) -> Self {
        Self::from_iter([host])
    }
}

impl From<Range<usize>> for HostSet {
    fn from(hosts: Range<usize>) -> Self {
        hosts.collect()
    }
}

impl From<Vec<usize>> for HostSet {
    fn from(hosts: Vec<usize>) -> Self {
        hosts.into_iter().collect()
    }
}

impl<const N: usize> From<[usize; N]> for HostSet {
    fn from(hosts: [usize; N]) -> Self {
        hosts.into_iter().collect()
    }
}

impl Rule {
    pub(crate) fn applies(&self, from: u32, to: u32) -> bool {
        self.from.contains(from as usize) && self.to.contains(to as usize)
    }
}
