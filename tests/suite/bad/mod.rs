//! Bad input, of users, peers and runtimes alike: each has an error or a reason that names it, and
//! leaves everything else working.

mod bystander;
mod codecs;
mod config;
mod dialing;
mod hooks;
mod peers;
mod sending;

use crate::harness::Case;

pub fn cases() -> Vec<Case> {
    [
        codecs::cases(),
        config::cases(),
        dialing::cases(),
        hooks::cases(),
        peers::cases(),
        sending::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
