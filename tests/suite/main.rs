//! The integration tests: one body each, run on every runtime.
//!
//! `cargo test --all-features --test suite` runs all of them; add a name, or a part of one, to
//! run some: `-- tokio::` or `-- fin`. Without a runtime's feature, its tests are left out.

#![cfg_attr(
    not(all(feature = "tokio", feature = "async-std", feature = "smol")),
    allow(dead_code, unused_imports, reason = "some runtimes, or all, are left out")
)]

mod accept;
mod adopt;
mod backpressure;
mod bad;
mod cancellation;
mod codec;
mod connecting;
mod delivery;
mod endings;
mod handshake;
mod harness;
mod limits;
mod order;
mod panics;
mod peers;
mod shutdown;
mod stats;
mod timeouts;
mod topology;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Most tests wait for most of their time.
    harness::run(
        8,
        [
            topology::cases(),
            stats::cases(),
            peers::cases(),
            connecting::cases(),
            adopt::cases(),
            accept::cases(),
            timeouts::cases(),
            panics::cases(),
            handshake::cases(),
            codec::cases(),
            cancellation::cases(),
            backpressure::cases(),
            bad::cases(),
            delivery::cases(),
            endings::cases(),
            limits::cases(),
            order::cases(),
            shutdown::cases(),
        ],
    )
}
