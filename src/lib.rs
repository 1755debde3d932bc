//! A small TCP peer-to-peer node that runs on any async runtime.
//!
//! You bring message types and codecs; anypea brings connections: dialing, accepting, limits,
//! framing, queues, backpressure, hooks, clean endings. It is a library, not a framework: every
//! connection and every byte is under your control.
//!
//! Put a [`Node`] in a clonable struct, implement the protocols that you want, enable them:
//!
//! | protocol | what it does |
//! |---|---|
//! | [`Handshake`] | decides who may connect, and what is said before the first message |
//! | [`OnConnect`] | greets each new connection |
//! | [`Reading`] | receives messages |
//! | [`Writing`] | sends messages |
//! | [`OnDisconnect`] | sees each connection off |
//!
//! A node is told its runtime once, when it is made. There is no default runtime and no guessing;
//! the features `tokio`, `async-std` and `smol` each add a re-export of an adapter and nothing
//! else, and `sim` one of the simulator, in which a seed decides all that happens. Any other
//! executor will do as well: see [`choosing_a_runtime`] and [`runtime`].

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod admission;
pub mod codec;
mod config;
mod context;
mod deadline;
mod ending;
mod error;
mod event;
mod frames;
mod life;
mod listener;
mod node;
mod outbox;
mod peer;
mod protocols;
mod reason;
mod setup;
mod stats;
mod tasks;
mod topology;
mod writer;

pub use config::Config;
pub use error::{
    BoxError, ConfigError, ConnectError, EnableError, ListenError, NotDelivered, SendError,
    TaskEnded,
};
pub use node::{ConnectOptions, Disconnect, Disconnected, Node, ShutDown, ShutDownState};
pub use peer::Peer;
pub use protocols::{
    Connection, Delivery, Framed, Handshake, OnConnect, OnDisconnect, Pea2Pea, Queued, Reading,
    Side, Target, Writing,
};
pub use reason::{DisconnectReason, Hook};
pub use stats::{Heuristics, NodeStats, PeerStats};
pub use tasks::Task;
pub use topology::{Topology, TopologyError, connect_nodes};

#[cfg(feature = "async-std")]
pub use anypea_async_std::AsyncStd;
#[doc(inline)]
pub use anypea_runtime as runtime;
pub use anypea_runtime::futures_io;
#[cfg(feature = "sim")]
#[doc(inline)]
pub use anypea_sim as sim;
#[cfg(feature = "smol")]
pub use anypea_smol::Smol;
#[cfg(feature = "tokio")]
pub use anypea_tokio::Tokio;
pub use asynchronous_codec;
pub use bytes;

#[cfg(doc)]
#[doc = include_str!("../docs/runtimes.md")]
pub mod choosing_a_runtime {}

/// The quick start is a test.
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../README.md")]
struct Readme;
