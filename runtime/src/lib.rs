//! What an async runtime must offer so that an anypea node can run on it.
//!
//! Four small, object-safe traits, one for each role, and their sum:
//!
//! | trait | role |
//! |---|---|
//! | [`Spawner`] | runs tasks |
//! | [`Clock`] | tells the time and makes [`Timer`]s |
//! | [`Network`] | listens and connects; hands out [`Listener`]s and [`Stream`]s |
//! | [`Runtime`] | all of these, and randomness |
//!
//! Why traits of our own? Because there is no common one: tokio, async-std and smol agree on
//! [`Future`] and [`Waker`](std::task::Waker) and on little else. Bytes do have a common pair of
//! traits outside tokio, [`AsyncRead`](futures_io::AsyncRead) and
//! [`AsyncWrite`](futures_io::AsyncWrite) of `futures-io`, so those are used as they are.
//!
//! Each trait states the contract that an implementation must keep, where the implementer reads
//! it. The module `kit` (feature `kit`) checks the contract: an adapter runs all of it in about
//! ten lines.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(feature = "kit")]
pub mod kit;
mod network;
mod options;
pub mod socket;
mod spawner;
mod stream;
mod time;

pub use futures_io;
pub use network::{Listener, Network};
pub use options::{ConnectOptions, Keepalive, ListenOptions, SocketOptions};
pub use socket::Socket;
pub use socket2;
pub use spawner::Spawner;
pub use stream::{ReadHalf, Stream, WriteHalf};
pub use time::{Clock, Timer};

use std::{future::Future, pin::Pin, sync::Arc};

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Everything a node needs from the outside world: tasks, time, network and randomness.
///
/// A node asks its runtime, and nothing else, for each of these. That is what lets the same node
/// run on tokio, on smol, and inside a deterministic simulation.
pub trait Runtime: Spawner + Clock + Network {
    /// Returns 64 random bits.
    ///
    /// They need not be fit for cryptography. Real runtimes return [`os_random`], a simulator a
    /// number that its seed determines.
    fn random(&self) -> u64;
}

/// What a node can be told its runtime with: a [`Runtime`], or an [`Arc`] of one that is shared.
pub trait IntoRuntime {
    /// Returns the runtime behind an [`Arc`].
    fn into_runtime(self) -> Arc<dyn Runtime>;
}

impl<R: Runtime> IntoRuntime for R {
    fn into_runtime(self) -> Arc<dyn Runtime> {
        Arc::new(self)
    }
}

impl IntoRuntime for Arc<dyn Runtime> {
    fn into_runtime(self) -> Arc<dyn Runtime> {
        self
    }
}

/// Returns 64 bits that differ from call to call and from process to process.
///
/// They come from the keys that the standard library draws from the operating system for its
/// hash maps: good enough for names and jitter, not for cryptography.
pub fn os_random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(())
}
