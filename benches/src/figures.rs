//! The figures that anypea has to reach: how many times better than each peer it must be. They
//! stand here and nowhere else.

use crate::race::Ratio;

const PEA2PEA: &str = "pea2pea";
const HAND_WIRED: &str = "hand-wired";

/// How much of a figure a run on a busy machine may miss.
pub const TOLERANCE: f64 = 0.7;

/// The beginning and the end of a workload's name, the peer, and the figure. The first that
/// matches counts.
const FIGURES: &[(&str, &str, &str, f64)] = &[
    ("stream-16-by-address", "", PEA2PEA, 4.0),
    ("stream-16", "", PEA2PEA, 6.0),
    ("stream-16", "", HAND_WIRED, 1.2),
    ("stream-64", "", PEA2PEA, 4.0),
    ("stream-64", "", HAND_WIRED, 1.2),
    ("stream-256", "", PEA2PEA, 2.5),
    ("stream-256", "", HAND_WIRED, 1.3),
    ("stream-4096", "", PEA2PEA, 1.4),
    ("stream-4096", "", HAND_WIRED, 1.2),
    ("stream-32768", "", PEA2PEA, 1.6),
    ("stream-32768", "", HAND_WIRED, 1.1),
    ("stream-262144", "", PEA2PEA, 1.3),
    ("stream-262144", "", HAND_WIRED, 0.95),
    ("stream-1048576", "", PEA2PEA, 1.3),
    ("stream-1048576", "", HAND_WIRED, 0.95),
    ("fan-in-", "", PEA2PEA, 1.5),
    ("fan-in-", "", HAND_WIRED, 0.95),
    ("broadcast-100-32768", "", PEA2PEA, 3.0),
    ("broadcast-100-256", "", PEA2PEA, 2.0),
    ("broadcast-100-", "", HAND_WIRED, 0.95),
    ("request-64-p", "", PEA2PEA, 1.05),
    ("request-64-p", "", HAND_WIRED, 0.95),
    ("connect", "", PEA2PEA, 1.3),
    ("connect", "", HAND_WIRED, 0.8),
    ("accept-", "", PEA2PEA, 1.3),
    ("accept-", "", HAND_WIRED, 0.8),
    ("idle-", "-memory", PEA2PEA, 10.0),
    ("idle-", "-cpu", PEA2PEA, 1.0),
    ("nodes-", "", PEA2PEA, 1.0),
];

/// Returns the figure that a ratio has to reach, if there is one.
pub fn figure(ratio: &Ratio) -> Option<f64> {
    // Special ways to use anypea have figures only where one is named.
    let special =
        ["-by-address", "-encoded-once"].into_iter().find(|way| ratio.workload.ends_with(way));
    let matching = FIGURES.iter().find(|(start, end, peer, _)| {
        ratio.peer == *peer
            && stands_at(start, &ratio.workload)
            && ratio.workload.ends_with(end)
            && special.is_none_or(|way| start.ends_with(way))
    });
    matching.map(|(.., figure)| *figure)
}

/// Whether a name begins with a part of a name: `stream-16`, but not `stream-1` of `stream-16`.
fn stands_at(start: &str, workload: &str) -> bool {
    let digit = |c: char| c.is_ascii_digit();
    workload
        .strip_prefix(start)
        .is_some_and(|rest| !(start.ends_with(digit) && rest.starts_with(digit)))
}

/// Whether a ratio is as good as its figure, within a tolerance.
pub fn holds(ratio: &Ratio, tolerance: f64) -> bool {
    figure(ratio).is_none_or(|figure| ratio.spread.median >= tolerance * figure)
}
