//! anypea beside its peers.

use anypea_bench::{
    entry,
    measure::Spread,
    race::{Rules, race},
    workloads::{Pace, Workload},
};
use std::{io, time::Duration};

fn main() -> io::Result<()> {
    let entries = entry::all();
    let rules = Rules { rounds: 3, trials: 1, pace: Pace { time: Duration::from_millis(60) } };

    for bytes in [16, 64, 256, 4096, 32768, 262144, 1048576] {
        let outcome = race(&Workload::Stream { bytes }, &entries, &rules)?;
        for row in outcome.rows {
            let Some(spread) = Spread::of(row.values) else { continue };
            println!(
                "{:30} {:10} {:12} {:12} {:12} {}",
                row.workload,
                row.runtime,
                row.name,
                row.tuning.to_string(),
                row.unit.show(spread.median),
                spread.show()
            );
        }
        for ratio in outcome.ratios {
            println!(
                "ratio {} {} anypea/{} {:.3} {:.3} {:.3}",
                ratio.workload,
                ratio.runtime,
                ratio.peer,
                ratio.spread.median,
                ratio.spread.min,
                ratio.spread.max
            );
        }
    }
    Ok(())
}
