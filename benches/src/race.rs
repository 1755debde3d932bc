//! One workload, run by all in turn.

use crate::{
    contender::Tuning,
    entry::Entry,
    measure::{Figure, Spread, Unit},
    workloads::{self, Pace, Workload},
};
use std::{collections::BTreeMap, io, sync::mpsc, thread, time::Duration};

/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a race is run.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How often each takes its turn.
    pub rounds: usize,
    /// How often each tuning is tried before.
    pub trials: usize,
    /// How long a run is.
    pub pace: Pace,
}

/// What one entry has achieved in one figure.
pub struct Row {
    /// The workload with the figure's name, and the way in which anypea is used.
    pub workload: String,
    /// The entry.
    pub runtime: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The tuning that was best.
    pub tuning: Tuning,
    /// The values, one a round.
    pub values: Vec<f64>,
    /// Their unit.
    pub unit: Unit,
}

/// How much better anypea was than one of its peers.
pub struct Ratio {
    /// The workload with the figure's name, and the way in which anypea is used.
    pub workload: String,
    /// The runtime of anypea.
    pub runtime: &'static str,
    /// The peer.
    pub peer: &'static str,
    /// Above 1 where anypea is better.
    pub spread: Spread,
}

/// The outcome of a race.
#[derive(Default)]
pub struct Outcome {
    /// Who has achieved what.
    pub rows: Vec<Row>,
    /// What that means.
    pub ratios: Vec<Ratio>,
}

/// Runs a race.
pub fn race(workload: &Workload, entries: &'static [Entry], rules: &Rules) -> io::Result<Outcome> {
    let mut racers = Vec::new();
    for entry in entries.iter().filter(|entry| entry.takes_part(workload)) {
        racers.push((entry, best_tuning(workload, entry, rules)?));
    }
    // By racer and figure.
    let mut figures: BTreeMap<(usize, usize), (Figure, Vec<f64>)> = BTreeMap::new();
    for _ in 0..rules.rounds {
        for (number, (entry, tuning)) in racers.iter().enumerate() {
            let achieved = run(workload, entry, *tuning, rules)?;
            for (metric, figure) in achieved.into_iter().enumerate() {
                let slot = figures.entry((number, metric));
                let (_, values) = slot.or_insert_with(|| (figure.clone(), Vec::new()));
                values.push(figure.value);
            }
        }
    }
    let mut outcome = Outcome::default();
    for ((number, metric), (figure, values)) in &figures {
        let (entry, tuning) = racers[*number];
        let name = match figure.metric {
            "" => format!("{workload}{}", entry.way),
            metric => format!("{workload}-{metric}{}", entry.way),
        };
        if entry.is_ours() {
            for (other, (peer, _)) in racers.iter().enumerate() {
                let Some((_, theirs)) = figures.get(&(other, *metric)) else { continue };
                if peer.is_ours() || !meets(entry.runtime, peer.runtime) {
                    continue;
                }
                let pairs = values.iter().zip(theirs);
                let ratios = pairs.map(|(ours, theirs)| figure.unit.ratio(*ours, *theirs));
                let Some(spread) = Spread::of(ratios.collect()) else { continue };
                outcome.ratios.push(Ratio {
                    workload: name.clone(),
                    runtime: entry.runtime,
                    peer: peer.name,
                    spread,
                });
            }
        }
        outcome.rows.push(Row {
            workload: name,
            runtime: entry.runtime,
            name: entry.name,
            tuning,
            values: values.clone(),
            unit: figure.unit,
        });
    }
    Ok(outcome)
}

/// Runs a workload once, in a thread of its own, so that one that never ends doesn't hold up
/// everything.
fn run(
    workload: &Workload,
    entry: &'static Entry,
    tuning: Tuning,
    rules: &Rules,
) -> io::Result<Vec<Figure>> {
    let (done, outcome) = mpsc::channel();
    let (workload, pace) = (*workload, rules.pace);
    thread::spawn(move || {
        // Somebody waits for it, unless it took too long.
        let _ = done.send(workloads::run(&workload, entry, tuning, &pace));
    });
    let told = |error| io::Error::other(format!("{workload}, {entry} ({tuning}): {error}"));
    match outcome.recv_timeout(PATIENCE) {
        Ok(outcome) => outcome.map_err(|error| told(error.to_string())),
        Err(error) => Err(told(error.to_string())),
    }
}

/// Whether anypea on a runtime is compared with a peer on another: only with what has none.
fn meets(ours: &str, theirs: &str) -> bool {
    ours == theirs || (theirs == "threads" && ours == "tokio")
}

/// Tries all tunings, and returns the one whose first figure is best.
fn best_tuning(workload: &Workload, entry: &'static Entry, rules: &Rules) -> io::Result<Tuning> {
    let mut best: Option<(Tuning, f64)> = None;
    let tunings = if workload.is_tuned() { entry.tunings } else { &entry.tunings[..1] };
    for tuning in tunings.iter().filter(|_| tunings.len() > 1) {
        let mut values = Vec::new();
        let mut unit = Unit::Seconds;
        for _ in 0..rules.trials {
            if let Some(figure) = run(workload, entry, *tuning, rules)?.first() {
                values.push(figure.value);
                unit = figure.unit;
            }
        }
        let Some(spread) = Spread::of(values) else { continue };
        if best.is_none_or(|(_, best)| unit.better(spread.median, best)) {
            best = Some((*tuning, spread.median));
        }
    }
    Ok(best.map_or(tunings[0], |(tuning, _)| tuning))
}
