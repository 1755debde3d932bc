//! Faults that are drawn from the seed.

use crate::{
    Crash, HostSet, Sim, Skew,
    random::{Purpose, Random},
    units::{nanos, secs},
};
use std::{fmt, sync::atomic::Ordering::Relaxed, time::Duration};

/// Which faults a seed may draw, how many, and when.
///
/// Each seed draws its own number of them, their kinds, times and places, from a random stream
/// that serves nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    kinds: Vec<FaultKind>,
    at_most: usize,
    within: Option<Duration>,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FaultKind {
    /// The hosts fall apart into two sets that can't reach each other.
    Partition,
    /// Nothing gets through from one set of hosts to the rest; the other way stays open.
    OneWay,
    /// A host is cut off from all others.
    Isolation,
    /// What one host sends and gets takes much longer.
    Slow,
    /// A host's connections get hardly anything through.
    Clog,
    /// Much of what is sent between any hosts gets lost.
    LossBurst,
    /// All connections of a host are reset.
    Reset,
    /// A host refuses attempts to connect.
    Refusal,
    /// A host's program crashes, and is started again later.
    Crash,
    /// A host loses its power, and gets it again later.
    PowerLoss,
    /// A host's program is stopped for a while.
    Pause,
    /// A host's clocks are wrong.
    Skew,
}

impl FaultKind {
    const ALL: [Self; 12] = [
        Self::Partition,
        Self::OneWay,
        Self::Isolation,
        Self::Slow,
        Self::Clog,
        Self::LossBurst,
        Self::Reset,
        Self::Refusal,
        Self::Crash,
        Self::PowerLoss,
        Self::Pause,
        Self::Skew,
    ];
}

impl Faults {
    /// No faults at all.
    pub fn none() -> Self {
        Self::only([])
    }

    /// All kinds of faults, at most eight of them.
    pub fn all() -> Self {
        Self::only(FaultKind::ALL)
    }

    /// Some kinds of faults, at most eight of them.
    pub fn only(kinds: impl IntoIterator<Item = FaultKind>) -> Self {
        Self { kinds: kinds.into_iter().collect(), at_most: 8, within: None }
    }

    /// Leaves out a kind.
    pub fn without(mut self, kind: FaultKind) -> Self {
        self.kinds.retain(|other| *other != kind);
        self
    }

    /// Sets how many faults a seed draws at most.
    pub fn at_most(mut self, count: usize) -> Self {
        self.at_most = count;
        self
    }

    /// Sets the virtual time within which faults begin: half of the deadline by default, a minute
    /// if there is none.
    pub fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// Draws the faults of a seed.
    fn plan(&self, seed: u64, deadline: u64) -> Vec<Planned> {
        if self.kinds.is_empty() {
            return Vec::new();
        }
        let by_deadline = if deadline == u64::MAX { nanos(secs(60)) } else { deadline / 2 };
        let within = self.within.map_or(by_deadline, nanos);
        let longest = (within / 2).clamp(1, nanos(secs(30)));
        let count = Random::new(seed, Purpose::Faults, &[]).below(self.at_most as u64 + 1);
        let plan = (0..count).map(|number| {
            // A stream for each, so that a change to one shifts no other.
            let mut random = Random::new(seed, Purpose::Faults, &[number]);
            Planned {
                number: number as usize,
                kind: self.kinds[random.below(self.kinds.len() as u64) as usize],
                at: random.below(within),
                lasting: random.between(longest / 100, longest),
                dice: random.next(),
            }
        });
        plan.collect()
    }

    /// Has the faults of the simulation's seed happen, or some of them, and describes these.
    pub(crate) fn begin(&self, sim: &Sim, keep: Option<&[usize]>) -> Vec<String> {
        let mut plan = self.plan(sim.seed(), sim.shared.options.deadline);
        if let Some(keep) = keep {
            plan.retain(|planned| keep.contains(&planned.number));
        }
        for planned in plan.clone() {
            let sim = sim.clone();
            let task = sim.clone();
            sim.spawn(async move { planned.happen(&task).await });
        }
        plan.iter().map(Planned::to_string).collect()
    }

    /// Returns how many faults a seed draws.
    pub(crate) fn count(&self, seed: u64) -> usize {
        self.plan(seed, u64::MAX).len()
    }
}

/// A fault that a seed has drawn. Its hosts are known only when it happens.
#[derive(Clone, Debug)]
struct Planned {
    number: usize,
    kind: FaultKind,
    at: u64,
    lasting: u64,
    dice: u64,
}

impl Planned {
    async fn happen(&self, sim: &Sim) {
        let lasting = Duration::from_nanos(self.lasting);
        sim.sleep(Duration::from_nanos(self.at)).await;
        let count = sim.num_hosts();
        if count == 0 || sim.shared.healed.load(Relaxed) {
            return;
        }
        let mut random = Random::new(self.dice, Purpose::Faults, &[]);
        let host = random.below(count as u64) as usize;
        let all: HostSet = (0..count).collect();
        let half: HostSet = (0..count).filter(|_| random.chance(0.5)).collect();
        let rest = || (0..count).filter(|host| !half.contains(*host)).collect::<HostSet>();
        match self.kind {
            FaultKind::Partition => sim.partition(half.clone(), rest()).lasting(lasting).await,
            FaultKind::OneWay => sim.partition_one_way(half.clone(), rest()).lasting(lasting).await,
            FaultKind::Isolation => sim.isolate(host).lasting(lasting).await,
            FaultKind::Slow => {
                let longer = Duration::from_millis(random.between(100, 3_000));
                sim.slow(host, all, longer).lasting(lasting).await;
            }
            FaultKind::Clog => {
                sim.clog(host, all, random.between(1_000, 50_000)).lasting(lasting).await;
            }
            FaultKind::LossBurst => {
                let probability = random.between(50, 600) as f64 / 1_000.0;
                sim.lose(all.clone(), all, probability).lasting(lasting).await;
            }
            FaultKind::Reset => sim.reset(host, all),
            FaultKind::Refusal => sim.refuse(host).lasting(lasting).await,
            FaultKind::Crash => {
                sim.crash(host, Crash::Process);
                sim.restart_after(host, lasting);
            }
            FaultKind::PowerLoss => {
                sim.crash(host, Crash::PowerLoss);
                sim.restart_after(host, lasting);
            }
            FaultKind::Pause => {
                sim.pause(host);
                sim.sleep(lasting).await;
                sim.resume(host);
            }
            FaultKind::Skew => {
                let skew = Skew {
                    wall_secs: random.between(0, 7_200) as i64 - 3_600,
                    drift_ppm: random.between(0, 400_000) as i64 - 200_000,
                };
                sim.skew(host, skew);
                sim.sleep(lasting).await;
                if !sim.shared.healed.load(Relaxed) {
                    sim.skew(host, Skew::default());
                }
            }
        }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [at, lasting] = [self.at, self.lasting].map(Duration::from_nanos);
        write!(f, "{}: {:?} at {at:?}", self.number, self.kind)?;
        match self.kind {
            FaultKind::Reset => Ok(()),
            _ => write!(f, ", for {lasting:?}"),
        }
    }
}
