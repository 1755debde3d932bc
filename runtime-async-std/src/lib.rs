//! Runs anypea nodes on [async-std](https://docs.rs/async-std).
//!
//! ```
//! use anypea_async_std::AsyncStd;
//!
//! async_std::task::block_on(async {
//!     let runtime = AsyncStd;
//!     // let node = Node::new(runtime, Config::default())?;
//! });
//! ```
//!
//! async-std is no longer maintained
//! ([RUSTSEC-2025-0052](https://rustsec.org/advisories/RUSTSEC-2025-0052)) and its authors advise
//! smol: this adapter is for applications that are still on it, `anypea-smol` for new ones.
//!
//! Tasks run on async-std. Clock and network are those of [async-io](https://docs.rs/async-io), on
//! which async-std itself is built, because async-std's sockets don't pass on vectored writes.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod clock;
mod network;
mod spawner;

use anypea_runtime::{Runtime, os_random};

/// The async-std runtime, as anypea uses it. There is one, which lives as long as the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AsyncStd;

impl Runtime for AsyncStd {
    fn random(&self) -> u64 {
        os_random()
    }
}
