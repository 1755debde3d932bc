//! The command line.

use crate::{
    entry::{self, Entry},
    race::Rules,
    workloads::Pace,
};
use lexopt::{Arg, Parser, ValueExt};
use std::{process::exit, time::Duration};

/// How much is to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Under a minute.
    Quick,
    /// A few minutes.
    Usual,
    /// For the record.
    Full,
}

/// What the command line says.
pub struct Options {
    /// How much is to be measured.
    pub extent: Extent,
    /// What is to be measured: workloads whose names contain one of these, or all if there are
    /// none.
    pub only: Vec<String>,
    /// Who takes part: contenders whose names contain one of these, or all if there are none.
    pub contenders: Vec<String>,
    /// Whether to fail where a figure is missed.
    pub check: bool,
}

impl Options {
    /// Parses the command line. Ends the process if it makes no sense.
    pub fn parse() -> Self {
        parse().unwrap_or_else(|error| {
            eprintln!("{error}\nusage: [--quick | --full] [--check] [--only NAME]... [--contender NAME]...");
            exit(2)
        })
    }

    /// Whether a workload is to be measured.
    pub fn wants(&self, workload: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| workload.contains(only.as_str()))
    }

    /// Returns those who take part.
    pub fn entries(&self) -> &'static [Entry] {
        let mut entries = entry::all();
        let named = |entry: &Entry| {
            let name = entry.to_string();
            self.contenders.iter().any(|wanted| name.contains(wanted.as_str()))
        };
        entries.retain(|entry| self.contenders.is_empty() || named(entry));
        entries.leak()
    }

    /// Returns how to race.
    pub fn rules(&self) -> Rules {
        let (rounds, trials, time, idle) = match self.extent {
            Extent::Quick => (3, 1, 15, 200),
            Extent::Usual => (3, 1, 100, 2_000),
            Extent::Full => (7, 2, 400, 10_000),
        };
        let (time, idle) = (Duration::from_millis(time), Duration::from_millis(idle));
        Rules { rounds, trials, pace: Pace { time, idle } }
    }
}

fn parse() -> Result<Options, lexopt::Error> {
    let mut options =
        Options { extent: Extent::Usual, only: Vec::new(), contenders: Vec::new(), check: false };
    let mut parser = Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("quick") => options.extent = Extent::Quick,
            Arg::Long("full") => options.extent = Extent::Full,
            Arg::Long("check") => options.check = true,
            Arg::Long("only") => options.only.push(parser.value()?.string()?),
            Arg::Long("contender") => options.contenders.push(parser.value()?.string()?),
            // Cargo says so.
            Arg::Long("bench") => {}
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}
