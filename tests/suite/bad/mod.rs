//! Bad input, of users, peers and runtimes alike: each has an error or a reason that names it, and
//! leaves everything else working.

mod bystander;
mod config;

use crate::harness::Case;

pub fn cases() -> Vec<Case> {
    [config::cases()].into_iter().flatten().collect()
}
