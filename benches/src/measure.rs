//! What is measured, and what becomes of it.

use procfs::Current;
use std::{io, time::Duration};

/// One measured value.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What follows the workload's name, `p99` for example; nothing if the workload has one
    /// figure only.
    pub metric: &'static str,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: Unit,
}

/// A unit, which also tells whether more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Messages, connections or the like per second.
    PerSecond,
    /// Bytes per second.
    BytesPerSecond,
    /// Seconds.
    Seconds,
    /// Bytes of memory.
    Bytes,
}

impl Figure {
    /// Returns the only figure of a workload.
    pub fn only(value: f64, unit: Unit) -> Vec<Self> {
        vec![Self { metric: "", value, unit }]
    }
}

impl Unit {
    /// Returns how many times better `ours` is than `theirs`.
    pub fn ratio(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Self::PerSecond | Self::BytesPerSecond => ours / theirs,
            Self::Seconds | Self::Bytes => theirs / ours,
        }
    }

    /// Whether `a` is better than `b`.
    pub fn better(self, a: f64, b: f64) -> bool {
        self.ratio(a, b) > 1.0
    }

    /// Writes a value with three digits.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond => format!("{}/s", scaled(value)),
            Self::BytesPerSecond => format!("{}B/s", scaled(value)),
            Self::Bytes => format!("{}B", scaled(value)),
            Self::Seconds if value < 1e-3 => format!("{} µs", digits(value * 1e6)),
            Self::Seconds if value < 1.0 => format!("{} ms", digits(value * 1e3)),
            Self::Seconds => format!("{} s", digits(value)),
        }
    }
}

fn scaled(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{} G", digits(v / 1e9)),
        v if v >= 1e6 => format!("{} M", digits(v / 1e6)),
        v if v >= 1e3 => format!("{} k", digits(v / 1e3)),
        v => format!("{} ", digits(v)),
    }
}

fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The middle of several values, and how far they lie apart.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Returns the spread of values; `None` if there are none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median: (low + high) / 2.0, min, max })
    }

    /// Writes the extremes as parts of the median.
    pub fn show(&self) -> String {
        let part = |value: f64| 100.0 * (value / self.median - 1.0);
        format!("{:+.0}% {:+.0}%", part(self.min), part(self.max))
    }
}

/// Returns a percentile of sorted times, in seconds.
pub fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).map_or(f64::NAN, Duration::as_secs_f64)
}

/// Returns the memory of this process that is resident, in bytes.
pub fn resident_bytes() -> io::Result<u64> {
    let process = procfs::process::Process::myself().map_err(io::Error::other)?;
    let pages = process.statm().map_err(io::Error::other)?.resident;
    Ok(pages * procfs::page_size())
}

/// Describes this machine: what the kernel says of its processor, and how many threads it has.
pub fn machine() -> String {
    let name = procfs::CpuInfo::current()
        .ok()
        .and_then(|cpu| cpu.model_name(0).map(str::to_owned))
        .unwrap_or_else(|| "an unknown processor".into());
    format!("{name}, {} threads, loopback", crate::bed::cores())
}
