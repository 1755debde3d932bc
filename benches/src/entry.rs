//! Who takes part: each contender in each way that it is used.

use crate::{
    bed::{AsyncStd, Bed, Smol, Tokio},
    contender::{Contender, Tuning},
    contenders::{anypea::Anypea, framed, message_io, pea2pea::Peas, tokio_util},
    measure::Figure,
    workloads::{self, Pace, Workload},
};
use std::io;

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
    takes_part: fn(&Workload) -> bool,
}

impl Entry {
    fn of<C: Contender>(takes_part: fn(&Workload) -> bool) -> Self {
        Self {
            runtime: C::Bed::NAME,
            name: C::NAME,
            way: "",
            tunings: C::TUNINGS,
            run: workloads::run::<C>,
            takes_part,
        }
    }

    /// Whether it is anypea.
    pub fn is_ours(&self) -> bool {
        self.name == "anypea"
    }

    /// Whether it can do a workload.
    pub fn takes_part(&self, workload: &Workload) -> bool {
        (self.takes_part)(workload)
    }
}

/// Returns all who take part.
pub fn all() -> Vec<Entry> {
    let any = |_: &Workload| true;
    // A node is a thread there.
    let few = |workload: &Workload| match workload {
        Workload::Stream { .. } => true,
        Workload::FanIn { senders, .. } => *senders <= 20,
        _ => false,
    };
    let by_address = Entry {
        way: "-by-address",
        tunings: &[Tuning::ByAddress],
        ..Entry::of::<Anypea<Tokio>>(|workload| matches!(workload, Workload::Stream { .. }))
    };
    let encoded_once = Entry {
        way: "-encoded-once",
        tunings: &[Tuning::EncodedOnce],
        ..Entry::of::<Anypea<Tokio>>(|workload| matches!(workload, Workload::Broadcast { .. }))
    };
    vec![
        Entry::of::<Anypea<Tokio>>(any),
        by_address,
        encoded_once,
        Entry::of::<Peas>(any),
        Entry::of::<tokio_util::HandWired>(any),
        Entry::of::<Anypea<Smol>>(any),
        Entry::of::<framed::HandWired<Smol>>(any),
        Entry::of::<Anypea<AsyncStd>>(any),
        Entry::of::<framed::HandWired<AsyncStd>>(any),
        Entry::of::<message_io::Framed>(few),
    ]
}
