//! Runs anypea nodes on [tokio](https://docs.rs/tokio).
//!
//! ```
//! use anypea_tokio::Tokio;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), anypea_tokio::NoTokio> {
//!     let runtime = Tokio::current()?;
//!     // let node = Node::new(runtime, Config::default())?;
//! #   drop(runtime);
//!     Ok(())
//! }
//! ```
//!
//! A [`Tokio`] keeps a [`Handle`] to its runtime and enters it wherever tokio asks for it, so a
//! node that was built inside tokio can be driven from any other thread. The runtime needs its
//! I/O and time drivers (`enable_all`).

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod clock;
mod network;
mod spawner;

use anypea_runtime::{Runtime, os_random};
use std::{error::Error, fmt, io, sync::Arc};
use tokio::runtime::Handle;

/// A tokio runtime, as anypea uses it.
///
/// Clones share the runtime. It doesn't keep the runtime alive: once that has shut down, tasks
/// are dropped, sockets return errors and timers fire at once.
///
/// # Panics
/// Listening, connecting and making timers panic if the runtime was built without its I/O or
/// time driver.
#[derive(Clone, Debug)]
pub struct Tokio {
    handle: Handle,
    life: Arc<clock::Life>,
}

impl Tokio {
    /// Returns the runtime that the caller runs in.
    ///
    /// # Errors
    /// [`NoTokio`] if there is none.
    pub fn current() -> Result<Self, NoTokio> {
        Handle::try_current().map(Self::from).map_err(|_| NoTokio(()))
    }
}

impl From<Handle> for Tokio {
    fn from(handle: Handle) -> Self {
        let life = Arc::new(clock::Life::of(&handle));
        Self { handle, life }
    }
}

impl Runtime for Tokio {
    fn random(&self) -> u64 {
        os_random()
    }
}

/// [`Tokio::current`] was called outside any tokio runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoTokio(());

impl fmt::Display for NoTokio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "there is no tokio runtime on this thread; \
             call `Tokio::current()` inside one, or use `Tokio::from(handle)`",
        )
    }
}

impl Error for NoTokio {}

impl From<NoTokio> for io::Error {
    fn from(error: NoTokio) -> Self {
        Self::new(io::ErrorKind::NotFound, error)
    }
}
