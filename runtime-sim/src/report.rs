//! What went wrong, and how to see it again.

use crate::{
    Event,
    check::Run,
    driver::message,
    event::{HostName, NO_HOST},
    shared::{Shared, Violation},
};
use std::{
    any::Any,
    cell::{Cell, RefCell},
    error::Error,
    fmt, panic,
    sync::Once,
    thread,
    time::Duration,
};

/// A seed for which a scenario doesn't hold; its message says all that is known.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What went wrong, where and when.
    pub message: String,
    /// The virtual time at which it was noticed.
    pub at: Duration,
    /// The number of events until then.
    pub events: u64,
    /// The hash of these events.
    pub hash: u64,
    /// The faults that happened, after shrinking.
    pub faults: Vec<String>,
    /// Where in the code it was, if it was a panic.
    pub place: Option<String>,
    /// How often the seed was run again to find out which faults matter.
    pub replays: u32,
    pub(crate) kept: Option<Vec<usize>>,
    pub(crate) blocked: bool,
    pub(crate) diverged: bool,
}

impl Failure {
    pub(crate) fn new(shared: &Shared, violation: Violation, place: Option<String>) -> Self {
        Self {
            message: violation.to_string(),
            at: Duration::from_nanos(violation.at),
            events: shared.trace.count(),
            hash: shared.trace.hash(),
            place,
            ..Self::unstarted(shared.options.seed, violation)
        }
    }

    pub(crate) fn unstarted(seed: u64, violation: Violation) -> Self {
        Self {
            seed,
            message: violation.message,
            at: Duration::ZERO,
            events: 0,
            hash: 0,
            faults: Vec::new(),
            place: None,
            replays: 0,
            kept: None,
            blocked: false,
            diverged: false,
        }
    }

    /// Two runs of the same seed have differed.
    pub(crate) fn diverged(
        seed: u64,
        one: &[Event],
        two: &[Event],
        first: Result<Run, Box<Self>>,
        second: Result<Run, Box<Self>>,
    ) -> Self {
        let which = one.iter().zip(two).take_while(|(one, two)| one == two).count();
        let of = |events: &[Event]| match events.get(which) {
            Some(event) => event.to_string(),
            None => "no event any more".to_owned(),
        };
        let outcome = |run: &Result<Run, Box<Self>>| match run {
            Ok(_) => String::new(),
            Err(failure) => format!("\none of the runs has failed: {}", failure.message),
        };
        let message = format!(
            "two runs of the same seed differ, so something in it doesn't come from the seed \
             (the order of a HashMap, real time, randomness of its own, a static)\n\
             the first difference is event {which}: {}, then {}{}{}",
            of(one),
            of(two),
            outcome(&first),
            outcome(&second),
        );
        let at = one.get(which).map_or(Duration::ZERO, Event::at);
        let violation = Violation { message, host: NO_HOST, task: None, at: 0 };
        let events = which as u64;
        Self { at, events, diverged: true, ..Self::unstarted(seed, violation) }
    }

    /// Tells whether both seem to have the same cause.
    pub(crate) fn resembles(&self, other: &Self) -> bool {
        match (&self.place, &other.place) {
            (Some(one), Some(two)) => one == two,
            (None, None) => {
                // Times, tasks and hosts may differ.
                let words = |failure: &Self| {
                    let line = failure.message.lines().next().unwrap_or_default();
                    let words = line.split(|c: char| !c.is_alphabetic());
                    words.filter(|word| word.len() > 3).map(str::to_owned).collect::<Vec<_>>()
                };
                words(self) == words(other)
            }
            _ => false,
        }
    }

    /// Returns the line that runs the same again.
    pub fn replay(&self) -> String {
        let faults = match &self.kept {
            None => String::new(),
            Some(kept) if kept.is_empty() => " SIM_FAULTS=none".into(),
            Some(kept) => {
                let kept: Vec<_> = kept.iter().map(usize::to_string).collect();
                format!(" SIM_FAULTS={}", kept.join(","))
            }
        };
        let thread = thread::current();
        let command = match thread.name() {
            Some(name) if name != "main" => format!("cargo test {name}"),
            _ => "<the same command>".into(),
        };
        format!("SIM_SEED={}{faults} {command}", self.seed)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the scenario fails for seed {}", self.seed)?;
        writeln!(f, "{}", self.message)?;
        if let Some(place) = &self.place {
            writeln!(f, "in the code: {place}")?;
        }
        writeln!(
            f,
            "at virtual time {:?}, after {} events with hash {:016x}",
            self.at, self.events, self.hash
        )?;
        match (self.faults.len(), self.replays) {
            (0, _) => writeln!(f, "no faults are needed for it")?,
            (_, 0) => writeln!(f, "faults:")?,
            (_, replays) => writeln!(f, "faults, after {replays} replays to shrink them:")?,
        }
        for fault in &self.faults {
            writeln!(f, "  {fault}")?;
        }
        write!(f, "to replay it: {}", self.replay())
    }
}

impl Error for Failure {}

impl Violation {
    pub(crate) fn of_panic(shared: &Shared, panic: &(dyn Any + Send)) -> Self {
        Self { message: message(panic), host: NO_HOST, task: Some(0), at: shared.now() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = Duration::from_nanos(self.at);
        match self.task {
            Some(0) => write!(f, "in the body of the simulation, at {at:?}: {}", self.message),
            Some(task) => {
                write!(f, "in task {task} of {}, at {at:?}: {}", HostName(self.host), self.message)
            }
            None if self.host == NO_HOST => write!(f, "at {at:?}: {}", self.message),
            None => write!(f, "on {}, at {at:?}: {}", HostName(self.host), self.message),
        }
    }
}

thread_local! {
    static KEEPS: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Where the last panic on a thread was. Threads that ask for it print nothing: they report.
pub(crate) struct LastPanic;

impl LastPanic {
    pub(crate) fn install() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                if !KEEPS.get() {
                    return before(info);
                }
                let place = info.location().map(ToString::to_string);
                // The first is the cause; what panics while tasks are dropped is not.
                PLACE.with_borrow_mut(|known| {
                    if known.is_none() {
                        *known = place;
                    }
                });
            }));
        });
    }

    pub(crate) fn keep() {
        KEEPS.set(true);
    }

    pub(crate) fn place() -> Option<String> {
        PLACE.take()
    }
}
