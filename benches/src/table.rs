//! The outcome in words.

use crate::{
    figures::{TOLERANCE, figure},
    measure::Spread,
    race::{Outcome, Ratio},
};
use std::fmt;

/// The outcome of one race, as rows of a table.
pub struct Rows<'a>(pub &'a Outcome);

/// Writes the names of the columns.
pub fn head() -> String {
    format!(
        "{:34} {:10} {:15} {:>11}  {:14} {}",
        "workload", "runtime", "contender", "median", "spread", "tuning"
    )
}

impl fmt::Display for Rows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.0.rows {
            let Some(spread) = Spread::of(row.values.clone()) else { continue };
            let median = row.unit.show(spread.median);
            let (name, tuning) = (row.name, row.tuning.to_string());
            writeln!(
                f,
                "{:34} {:10} {name:15} {median:>11}  {:14} {tuning}",
                row.workload,
                row.runtime,
                spread.show(),
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Ratio {
    /// Writes the line for machines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, runtime, peer, spread: Spread { median, min, max } } = self;
        write!(f, "ratio {workload} {runtime} anypea/{peer} {median:.3} {min:.3} {max:.3}")
    }
}

/// Writes how a ratio stands to its figure; nothing if it has none or reaches it.
pub fn complaint(ratio: &Ratio) -> Option<String> {
    let figure = figure(ratio)?;
    let median = ratio.spread.median;
    let Ratio { workload, runtime, peer, .. } = ratio;
    let how = match median / figure {
        part if part >= 1.0 => return None,
        part if part >= TOLERANCE => "short of",
        _ => "FAR BELOW",
    };
    Some(format!("{workload} on {runtime}: {median:.2} times {peer}, {how} {figure:.2}"))
}
