//! Runs anypea nodes on [smol](https://docs.rs/smol), or on any other executor.
//!
//! ```
//! use anypea_smol::Smol;
//! use std::{sync::Arc, thread};
//!
//! // On smol's global executor,
//! # #[cfg(feature = "global")]
//! let runtime = Smol::global();
//!
//! // on an executor of your own, which you drive as you like,
//! let executor = Arc::new(async_executor::Executor::new());
//! let runtime = Smol::executor(&executor);
//!
//! // or on anything that runs futures.
//! let runtime = Smol::with_spawner(|task| {
//!     thread::spawn(|| async_io::block_on(task));
//! });
//! ```
//!
//! Clock and network are those of [async-io](https://docs.rs/async-io), which drives itself in a
//! thread of its own and works under every executor.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod clock;
mod network;
mod spawner;

use anypea_runtime::{Runtime, Spawner, os_random};
use async_executor::Executor;
use std::{fmt, sync::Arc};

/// async-io with an executor, as anypea uses them.
///
/// Clones share the executor.
#[derive(Clone)]
pub struct Smol {
    spawner: Arc<dyn Spawner>,
}

impl Smol {
    /// Returns a runtime with smol's global executor, which lives as long as the process.
    #[cfg(feature = "global")]
    pub fn global() -> Self {
        Self::with_spawner(spawner::global)
    }

    /// Returns a runtime with an executor of the caller's, who drives it.
    ///
    /// It doesn't keep the executor alive: its tasks hold this runtime, so that would keep both
    /// for ever. Once the executor is gone, tasks are dropped.
    pub fn executor(executor: &Arc<Executor<'static>>) -> Self {
        Self::with_spawner(spawner::Weakly(Arc::downgrade(executor)))
    }

    /// Returns a runtime with any other executor; a closure will do.
    pub fn with_spawner(spawner: impl Spawner) -> Self {
        Self { spawner: Arc::new(spawner) }
    }
}

impl fmt::Debug for Smol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smol").finish_non_exhaustive()
    }
}

impl Runtime for Smol {
    fn random(&self) -> u64 {
        os_random()
    }
}
