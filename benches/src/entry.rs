//! Who takes part: each contender in each way that it is used.

use crate::{
    bed::{AsyncStd, Bed, Smol, Threads, Tokio},
    child::Parts,
    contender::{Contender, Tuning},
    contenders::{anypea::Anypea, framed, message_io, pea2pea::Peas, raw, tokio_util},
    measure::Figure,
    workloads::{self, Pace, Workload},
};
use std::{fmt, io};

/// The name of anypea.
const OURS: &str = "anypea";

/// A contender in one way that it is used.
pub struct Entry {
    /// Its runtime.
    pub runtime: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What is added to a workload's name, where anypea is used in a special way.
    pub way: &'static str,
    /// The tunings that are tried; the best takes part.
    pub tunings: &'static [Tuning],
    /// Runs a workload once.
    pub run: fn(&Workload, Tuning, &Pace) -> io::Result<Vec<Figure>>,
    /// What it can do in a process of its own.
    pub parts: Option<Parts>,
    takes_part: fn(&Workload) -> bool,
}

impl Entry {
    fn of<C: Contender>(takes_part: fn(&Workload) -> bool) -> Self {
        Self {
            runtime: C::Bed::NAME,
            name: C::NAME,
            way: "",
            tunings: C::TUNINGS,
            run: workloads::run_here::<C>,
            parts: Some(Parts::of::<C>()),
            takes_part,
        }
    }

    /// Whether it is anypea.
    pub fn is_ours(&self) -> bool {
        self.name == OURS
    }

    /// Whether it stands in the bench that shows growth.
    pub fn grows(&self) -> bool {
        self.way.is_empty() && (self.is_ours() || self.name == "hand-wired")
    }

    /// Whether it can do a workload.
    pub fn takes_part(&self, workload: &Workload) -> bool {
        (self.takes_part)(workload)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{} on {}", self.name, self.way, self.runtime)
    }
}

/// Returns all who take part.
pub fn all() -> Vec<Entry> {
    use Workload::*;
    let any = |_: &Workload| true;
    let no_nodes = |workload: &Workload| !matches!(workload, Nodes { .. });
    // A node is a thread there, and connections are closed without waiting for the other end.
    let few = |workload: &Workload| match workload {
        Stream { .. } | Request { .. } => true,
        FanIn { senders, .. } => *senders <= 20,
        _ => false,
    };
    let streams = |workload: &Workload| matches!(workload, Stream { .. });
    let broadcasts = |workload: &Workload| matches!(workload, Broadcast { .. });
    vec![
        Entry::of::<Anypea<Tokio>>(any),
        Entry {
            way: "-by-address",
            tunings: &[Tuning::ByAddress],
            ..Entry::of::<Anypea<Tokio>>(streams)
        },
        Entry {
            way: "-encoded-once",
            tunings: &[Tuning::EncodedOnce],
            ..Entry::of::<Anypea<Tokio>>(broadcasts)
        },
        Entry::of::<Peas>(any),
        Entry::of::<tokio_util::HandWired>(no_nodes),
        Entry::of::<Anypea<Smol>>(no_nodes),
        Entry::of::<framed::HandWired<Smol>>(no_nodes),
        Entry::of::<Anypea<AsyncStd>>(no_nodes),
        Entry::of::<framed::HandWired<AsyncStd>>(no_nodes),
        Entry::of::<message_io::Framed>(few),
        Entry {
            runtime: Threads::NAME,
            name: raw::NAME,
            way: "",
            tunings: raw::TUNINGS,
            run: raw::run,
            parts: None,
            takes_part: streams,
        },
    ]
}
