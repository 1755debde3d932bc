//! Bad input, of users, peers and runtimes alike: each has an error or a reason that names it, and
//! leaves everything else working.

mod bystander;
mod config;
mod dialing;
mod sending;

use crate::harness::Case;

pub fn cases() -> Vec<Case> {
    [config::cases(), dialing::cases(), sending::cases()].into_iter().flatten().collect()
}
