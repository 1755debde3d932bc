//! The workloads, each written once for all contenders.

mod flow;

use crate::{
    bed::Bed,
    contender::{Contender, Tuning},
    measure::Figure,
};
use std::{fmt, io, time::Duration};

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
        }
    }
}

/// How long and how large a run is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The measured part of a run that moves messages.
    pub time: Duration,
}

/// Runs a workload once.
pub fn run<C: Contender>(
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
        }
    })
}
