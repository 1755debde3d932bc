//! The workloads, each written once for all contenders.

mod apart;
mod comings;
mod flow;
mod talk;

use crate::{
    bed::Bed,
    contender::{Contender, Tuning},
    entry::Entry,
    measure::Figure,
};
use std::{
    fmt, io, thread,
    time::{Duration, Instant},
};

/// What there is to do.
// The fields say what they are.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// One sends to one.
    Stream { bytes: usize },
    /// Many send to one.
    FanIn { senders: usize, bytes: usize },
    /// One sends the same to many.
    Broadcast { peers: usize, bytes: usize },
    /// One asks, the other answers.
    Request { bytes: usize },
    /// The same, while the first sends in bulk to a third.
    RequestBesideBulk { bytes: usize },
    /// Connections are made and ended.
    Connect,
    /// Many connections come at once.
    Accept { connections: usize },
    /// Connections do nothing.
    Idle { connections: usize },
    /// Nodes are started and shut down.
    Nodes { nodes: usize },
}

impl Workload {
    /// Whether buffers are worth tuning for it.
    pub fn is_tuned(&self) -> bool {
        matches!(self, Self::Stream { .. } | Self::FanIn { .. } | Self::Broadcast { .. })
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream { bytes } => write!(f, "stream-{bytes}"),
            Self::FanIn { senders, bytes } => write!(f, "fan-in-{senders}-{bytes}"),
            Self::Broadcast { peers, bytes } => write!(f, "broadcast-{peers}-{bytes}"),
            Self::Request { bytes } => write!(f, "request-{bytes}"),
            Self::RequestBesideBulk { bytes } => write!(f, "request-beside-bulk-{bytes}"),
            Self::Connect => f.write_str("connect"),
            Self::Accept { connections } => write!(f, "accept-{connections}"),
            Self::Idle { connections } => write!(f, "idle-{connections}"),
            Self::Nodes { nodes } => write!(f, "nodes-{nodes}"),
        }
    }
}

/// How long a run is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The measured part of a run that moves messages.
    pub time: Duration,
    /// How long idle connections are watched.
    pub idle: Duration,
}

/// Runs a workload once.
pub fn run(
    workload: &Workload,
    entry: &Entry,
    tuning: Tuning,
    pace: &Pace,
) -> io::Result<Vec<Figure>> {
    match *workload {
        Workload::Idle { connections } => apart::idle(connections, entry, pace),
        Workload::Nodes { nodes } => apart::nodes(nodes, entry),
        _ => (entry.run)(workload, tuning, pace),
    }
}

/// Runs a workload once that needs no process of its own.
pub fn run_here<C: Contender>(
    workload: &Workload,
    tuning: Tuning,
    pace: &Pace,
) -> io::Result<Vec<Figure>> {
    C::Bed::run(async {
        match *workload {
            Workload::Stream { bytes } => flow::inward::<C>(1, bytes, tuning, pace).await,
            Workload::FanIn { senders, bytes } => {
                flow::inward::<C>(senders, bytes, tuning, pace).await
            }
            Workload::Broadcast { peers, bytes } => {
                flow::outward::<C>(peers, bytes, tuning, pace).await
            }
            Workload::Request { bytes } => talk::request::<C>(bytes, tuning, pace).await,
            Workload::RequestBesideBulk { bytes } => {
                talk::beside_bulk::<C>(bytes, tuning, pace).await
            }
            Workload::Connect => comings::connect::<C>(tuning, pace).await,
            Workload::Accept { connections } => comings::accept::<C>(connections, tuning).await,
            Workload::Idle { .. } | Workload::Nodes { .. } => {
                Err(io::Error::other("this needs a process of its own"))
            }
        }
    })
}

/// Waits, in a thread that isn't a runtime's own, until something is so.
///
/// # Errors
/// If it takes too long.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> io::Result<()> {
    const POLL: Duration = Duration::from_micros(200);
    const PATIENCE: Duration = Duration::from_secs(30);
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() > PATIENCE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("waiting until {what}")));
        }
        thread::sleep(POLL);
    }
    Ok(())
}
