//! Short names for amounts that scenarios are full of.

use std::time::Duration;

/// Returns that many microseconds.
pub const fn us(count: u64) -> Duration {
    Duration::from_micros(count)
}

/// Returns that many milliseconds.
pub const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Returns that many seconds.
pub const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Returns that many minutes.
pub const fn mins(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// Returns that many thousand bits per second, in bits per second.
pub const fn kbit(count: u64) -> u64 {
    count * 1_000
}

/// Returns that many million bits per second, in bits per second.
pub const fn mbit(count: u64) -> u64 {
    count * 1_000_000
}

/// Nanoseconds of a duration; the far future is 292 years away.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(FAR).min(FAR)
}

/// Later than anything that happens.
pub(crate) const FAR: u64 = u64::MAX / 2;
