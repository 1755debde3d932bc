//! anypea beside its peers: see the docs of the package for what is alike and what is not.

use anypea_bench::{
    child,
    figures::{TOLERANCE, holds},
    measure::machine,
    options::{Extent, Options},
    plot,
    race::{Ratio, race},
    table::{Rows, complaint, head},
    target_dir,
    workloads::Workload,
};
use std::{error::Error, process::ExitCode, time::Instant};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    if child::is_child()? {
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::parse();
    rlimit::increase_nofile_limit(u64::MAX)?;
    let start = Instant::now();
    let entries = options.entries();
    let mut ratios = Vec::new();
    println!("on {}\n\n{}", machine(), head());
    for workload in workloads(options.extent) {
        if !options.wants(&workload.to_string()) {
            continue;
        }
        let outcome = race(&workload, entries, &options.rules())?;
        print!("{}", Rows(&outcome));
        ratios.extend(outcome.ratios);
    }
    println!("\nmeasured within {:.0} s\n", start.elapsed().as_secs_f64());
    for ratio in &ratios {
        println!("{ratio}");
    }
    println!();
    for complaint in ratios.iter().filter_map(complaint) {
        println!("{complaint}");
    }
    let path = target_dir()?.join("versus.svg");
    plot::draw(&ratios, &path, &machine())?;
    println!("drawn in {}", path.display());
    let far_below = |ratio: &&Ratio| !holds(ratio, TOLERANCE);
    if options.check && ratios.iter().any(|ratio| far_below(&ratio)) {
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn workloads(extent: Extent) -> Vec<Workload> {
    use Workload::*;
    let quick = extent == Extent::Quick;
    let mut workloads = Vec::new();
    for bytes in [16, 64, 256, 4 * 1024, 32 * 1024, 256 * 1024, 1024 * 1024] {
        workloads.push(Stream { bytes });
    }
    for senders in [20, 100] {
        for bytes in [256, 32 * 1024] {
            workloads.push(FanIn { senders, bytes });
        }
    }
    for bytes in [256, 32 * 1024] {
        workloads.push(Broadcast { peers: 100, bytes });
    }
    workloads.extend([Request { bytes: 64 }, RequestBesideBulk { bytes: 64 }, Connect]);
    workloads.push(Accept { connections: if quick { 500 } else { 5_000 } });
    workloads.push(Idle { connections: if quick { 500 } else { 10_000 } });
    workloads.push(Nodes { nodes: 200 });
    workloads
}
