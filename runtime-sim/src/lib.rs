//! Runs anypea nodes, thousands of them, in a deterministic simulation.
//!
//! ```
//! use anypea_sim::{Crash, Faults, Link, Sim, ms, secs};
//! # use anypea_runtime::Runtime;
//! # #[derive(Clone)] struct Node;
//! # async fn my_node(runtime: impl Runtime, i: usize) -> Node { Node }
//! # fn converged(_: &anypea_sim::Hosts<Node>) -> bool { true }
//!
//! Sim::check(0..20)
//!     .link(Link::latency(ms(5)..ms(80)).loss(0.001))
//!     .faults(Faults::all().at_most(6))
//!     .deadline(secs(120))
//!     .run(|sim| async move {
//!         let hosts = sim.hosts(10, |host, i| my_node(host, i)).await;
//!         sim.partition(hosts.range(..5), hosts.range(5..)).lasting(secs(20)).await;
//!         hosts.crash(7, Crash::PowerLoss);
//!         hosts.restart_after(7, secs(5));
//!         sim.heal();
//!         sim.eventually(secs(30), || converged(&hosts)).await;
//!     });
//! ```
//!
//! Each [`Host`] is an ordinary [`Runtime`](anypea_runtime::Runtime), so what runs in production
//! runs here, unchanged. One seed decides all that is left to chance: which task runs next, how
//! long a segment takes, what gets lost, what goes wrong when, and every random number. Time is
//! virtual and jumps to the next event. So a run can be repeated from its seed, and a failure
//! that happens once in a million runs happens again in the next.
//!
//! # What the network does
//!
//! Hosts have addresses, ports and a loopback of their own, and connections behave as a program
//! sees TCP on Linux: backlogs, ephemeral ports, refused and repeated attempts to connect,
//! windows on both sides, bytes in order, FIN in each direction, resets with all that causes
//! them, retransmission with its time-outs, `TIME_WAIT`. A dial to an address that no host has
//! gets no answer, and times out after 127 seconds.
//!
//! # What ends a run
//!
//! A panic in the scenario or in any task (unless [`contain_panics`](Options::contain_panics)
//! says otherwise), the deadline, a stall (nothing is ready and nothing will ever be), a task that
//! is polled without end at one instant, a task that blocks its thread, the use of a host from
//! another thread, an unknown host, a duplicate address, an impossible link. The report names the
//! host, the task and the virtual time, lists the tasks where that helps, and says how to replay
//! the run.
//!
//! # What makes a run differ from the last
//!
//! The order of a `HashMap`, `Instant::now`, `rand::rng()`, statics, threads. [`Sim::check`] runs
//! some of the seeds twice, and names the first event that differs.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod check;
mod clock;
mod crash;
mod driver;
mod event;
mod faults;
mod host;
mod hosts;
mod link;
mod network;
mod options;
mod queue;
mod random;
mod report;
mod shared;
mod shrink;
mod sim;
mod simulation;
mod tasks;
mod tcp;
mod trouble;
mod units;
mod world;

pub use check::{Check, Summary};
pub use event::{Event, EventKind};
pub use faults::{FaultKind, Faults};
pub use host::{Disk, Host};
pub use hosts::Hosts;
pub use link::{HostSet, Latency, Link};
pub use options::Options;
pub use report::Failure;
pub use sim::Sim;
pub use simulation::Simulation;
pub use trouble::{Crash, Fault, Skew};
pub use units::{kbit, mbit, mins, ms, secs, us};
