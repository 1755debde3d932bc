//! Many seeds, on several threads, until one fails.

use crate::{
    Event, Faults, Link, Options, Sim, Simulation,
    driver::Stop,
    report::{Failure, LastPanic},
    shared::{Shared, Violation},
    shrink,
};
use std::{
    env,
    future::Future,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

/// Of as many seeds one is run twice, to see whether both runs are the same.
const SAMPLE: u64 = 50;
/// As many events of a run are kept, to say which was the first that differed.
const KEPT_EVENTS: usize = 1 << 20;
/// How often the watchdog looks.
const WATCH: Duration = Duration::from_millis(100);

/// A scenario that is to hold for many seeds; see [`Sim::check`].
#[derive(Clone, Debug)]
pub struct Check {
    pub(crate) seeds: Range<u64>,
    pub(crate) options: Options,
    pub(crate) faults: Faults,
    /// Faults to keep of those that the seed draws; all if `None`.
    keep: Option<Vec<usize>>,
    jobs: usize,
    seconds: Option<u64>,
}

/// What came of a [`Check`] that has found nothing wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// How many seeds were run.
    pub seeds: u64,
    /// How many events there were in all of them.
    pub events: u64,
    /// The hashes of all runs, put together without regard to their order.
    pub hash: u64,
}

impl Sim {
    /// Starts to describe a scenario that is to hold for each of these seeds.
    ///
    /// The environment has the last word: `SIM_SEED` names the one seed to run, `SIM_FAULTS` which
    /// of its faults to keep (numbers parted by commas, or `none`), `SIM_JOBS` the number of
    /// threads, and with `SIM_SECONDS` more and more seeds are run for as many seconds.
    pub fn check(seeds: Range<u64>) -> Check {
        let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let seeds = number("SIM_SEED").map_or(seeds, |seed| seed..seed + 1);
        let numbers =
            |list: String| list.split(',').filter_map(|n| n.trim().parse().ok()).collect();
        let jobs = number("SIM_JOBS").map(|jobs| jobs as usize);
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        Check {
            seeds,
            options: Options::seed(0).short_io(1.0 / 16.0),
            faults: Faults::none(),
            keep: env::var("SIM_FAULTS").ok().map(numbers),
            jobs: jobs.unwrap_or_else(cores).max(1),
            seconds: number("SIM_SECONDS"),
        }
    }
}

impl Check {
    /// Sets what lies between any two hosts.
    pub fn link(mut self, link: Link) -> Self {
        self.options = self.options.link(link);
        self
    }

    /// Sets which faults each seed draws; none by default.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Sets the virtual time by which a run must have ended; none by default.
    pub fn deadline(mut self, time: Duration) -> Self {
        self.options = self.options.deadline(time);
        self
    }

    /// Changes the other settings of each run.
    pub fn options(mut self, change: impl FnOnce(Options) -> Options) -> Self {
        self.options = change(self.options);
        self
    }

    /// Sets how many seeds are run at once, each on a thread of its own; as many as there are
    /// cores by default.
    pub fn jobs(mut self, jobs: usize) -> Self {
        self.jobs = jobs.max(1);
        self
    }

    /// Runs `scenario` for each seed, until one fails.
    ///
    /// # Panics
    /// If one fails: with the seed, what went wrong where and when, and how to replay it.
    pub fn run<F>(self, scenario: impl Fn(Sim) -> F + Send + Sync + 'static) -> Summary
    where
        F: Future<Output = ()> + 'static,
    {
        self.try_run(scenario).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// As [`run`](Self::run), but returns the failure.
    ///
    /// # Errors
    /// The failure of the lowest of the seeds that have failed, its faults shrunk.
    pub fn try_run<F>(
        self,
        scenario: impl Fn(Sim) -> F + Send + Sync + 'static,
    ) -> Result<Summary, Box<Failure>>
    where
        F: Future<Output = ()> + 'static,
    {
        LastPanic::install();
        let scenario: Arc<Scenario> = Arc::new(move |simulation: &Simulation| {
            simulation.try_block_on(scenario(simulation.sim().clone()))
        });
        let found = self.explore(&scenario)?;
        Ok(found)
    }

    fn explore(&self, scenario: &Arc<Scenario>) -> Result<Summary, Box<Failure>> {
        let start = Instant::now();
        let more = || self.seconds.is_some_and(|time| start.elapsed().as_secs() < time);
        let next = AtomicU64::new(self.seeds.start);
        let failed_at = AtomicU64::new(u64::MAX);
        let found = Mutex::new((Summary::default(), None::<Box<Failure>>));
        let work = || loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed > failed_at.load(Relaxed) || (seed >= self.seeds.end && !more()) {
                return;
            }
            let run = self.run_seed(seed, scenario);
            let mut found = crate::shared::lock(&found);
            match run {
                Ok(run) => {
                    found.0.seeds += 1;
                    found.0.events += run.events;
                    found.0.hash ^= run.hash;
                }
                Err(failure) => {
                    failed_at.fetch_min(seed, Relaxed);
                    if found.1.as_ref().is_none_or(|known| seed < known.seed) {
                        found.1 = Some(failure);
                    }
                }
            }
        };
        thread::scope(|scope| {
            // The caller waits, so it may as well work.
            let others: Vec<_> = (1..self.jobs).map(|_| scope.spawn(work)).collect();
            work();
            others.into_iter().for_each(|other| drop(other.join()));
        });
        let (summary, failure) = found.into_inner().unwrap_or_else(|error| error.into_inner());
        match failure {
            None => Ok(summary),
            Some(failure) => Err(self.shrink(failure, scenario)),
        }
    }

    /// Runs one seed; twice if it is one of the sample.
    fn run_seed(&self, seed: u64, scenario: &Arc<Scenario>) -> Result<Run, Box<Failure>> {
        let keep = self.keep.as_deref();
        if !(seed - self.seeds.start.min(seed)).is_multiple_of(SAMPLE) {
            return self.run_once(seed, keep, scenario, None);
        }
        let recorded = [(); 2].map(|()| Arc::new(Mutex::new(Vec::new())));
        let [first, second] =
            [0, 1].map(|which| self.run_once(seed, keep, scenario, Some(&recorded[which])));
        let [hash, again] = [&first, &second].map(|run| match run {
            Ok(run) => run.hash,
            Err(failure) => failure.hash,
        });
        // One that blocks is stopped wherever it is.
        let blocked = |run: &Result<Run, Box<Failure>>| {
            run.as_ref().err().is_some_and(|failure| failure.blocked)
        };
        if hash == again || blocked(&first) || blocked(&second) {
            return first;
        }
        let [one, two] = recorded.map(|events| std::mem::take(&mut *crate::shared::lock(&events)));
        Err(Box::new(Failure::diverged(seed, &one, &two, first, second)))
    }

    /// Runs one seed on a thread of its own, and watches over it.
    pub(crate) fn run_once(
        &self,
        seed: u64,
        keep: Option<&[usize]>,
        scenario: &Arc<Scenario>,
        record: Option<&Arc<Mutex<Vec<Event>>>>,
    ) -> Result<Run, Box<Failure>> {
        let options = Options { seed, ..self.options.clone() };
        if let Err(message) = options.check() {
            let violation = Violation { message, host: crate::event::NO_HOST, task: None, at: 0 };
            return Err(Box::new(Failure::unstarted(seed, violation)));
        }
        let simulation = options.start();
        if let Some(record) = record.cloned() {
            simulation.observe(move |event| {
                let mut events = crate::shared::lock(&record);
                if events.len() < KEPT_EVENTS {
                    events.push(*event);
                }
            });
        }
        let faults = simulation.plan(&self.faults, keep);
        let shared = simulation.sim().shared.clone();
        let (report, outcome) = mpsc::channel();
        let scenario = scenario.clone();
        let run = move || {
            LastPanic::keep();
            let run = catch_unwind(AssertUnwindSafe(|| scenario(&simulation)));
            let place = LastPanic::place();
            let shared = simulation.sim().shared.clone();
            let ended = match run.unwrap_or_else(|panic| Err(Stop::Panic(panic))) {
                Ok(()) => Ok(Run { hash: shared.trace.hash(), events: shared.trace.count() }),
                Err(Stop::Violation(violation)) => Err((violation, place)),
                Err(Stop::Panic(panic)) => Err((Violation::of_panic(&shared, &*panic), place)),
            };
            let ended = ended
                .map_err(|(violation, place)| Box::new(Failure::new(&shared, violation, place)));
            // Tasks that are dropped may panic, too.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(simulation)));
            let _ = report.send(ended);
        };
        let thread = thread::Builder::new().name(format!("simulation of seed {seed}"));
        if let Err(error) = thread.spawn(run) {
            let message = format!("the system has no thread for it: {error}");
            let violation = Violation { message, host: crate::event::NO_HOST, task: None, at: 0 };
            return Err(Box::new(Failure::unstarted(seed, violation)));
        }
        let ended = watch(&shared, &outcome);
        ended.map_err(|failure| Box::new(Failure { faults, ..*failure }))
    }

    fn shrink(&self, failure: Box<Failure>, scenario: &Arc<Scenario>) -> Box<Failure> {
        let seed = failure.seed;
        let all: Vec<usize> = match &self.keep {
            Some(keep) => keep.clone(),
            None => (0..self.faults.count(seed)).collect(),
        };
        if all.is_empty() || failure.blocked || failure.diverged {
            return failure;
        }
        let mut smallest = failure;
        let mut replays = 0;
        let kept = shrink::shrink(all.clone(), |faults| {
            replays += 1;
            match self.run_once(seed, Some(faults), scenario, None) {
                // Another failure may have another cause.
                Err(failure) if failure.resembles(&smallest) => {
                    smallest = failure;
                    true
                }
                _ => false,
            }
        });
        smallest.kept = (kept.len() < all.len() || self.keep.is_some()).then_some(kept);
        smallest.replays = replays;
        smallest
    }
}

/// Waits for a run to end, unless it blocks its thread.
fn watch(
    shared: &Shared,
    outcome: &mpsc::Receiver<Result<Run, Box<Failure>>>,
) -> Result<Run, Box<Failure>> {
    let current = &shared.current;
    let (mut polls, mut since) = (0, Instant::now());
    loop {
        match outcome.recv_timeout(WATCH) {
            Ok(ended) => return ended,
            Err(RecvTimeoutError::Disconnected) => {
                let violation = shared.violation("its thread has ended without a word".into());
                return Err(Box::new(Failure::new(shared, violation, None)));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = current.polls.load(Relaxed);
        if now != polls {
            (polls, since) = (now, Instant::now());
        } else if since.elapsed() >= shared.options.watchdog {
            let time = since.elapsed();
            let violation = shared.violation(format!(
                "it has blocked its thread for {time:.1?} of real time: it sleeps, waits for \
                 something outside of the simulation, or never ends"
            ));
            let failure = Failure::new(shared, violation, None);
            return Err(Box::new(Failure { blocked: true, ..failure }));
        }
    }
}

pub(crate) type Scenario = dyn Fn(&Simulation) -> Result<(), Stop> + Send + Sync;

/// What came of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) hash: u64,
    pub(crate) events: u64,
}
