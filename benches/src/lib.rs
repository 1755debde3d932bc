//! How fast anypea is, beside its peers.
//!
//! `cargo bench -p anypea-bench --bench versus` runs each workload on all contenders in turn, round
//! after round, and prints medians and how far they spread; `--bench scale` shows how cost grows
//! with connections. `-- --quick` takes under a minute, `-- --full` is for the record, `-- --only
//! NAME` and `-- --contender NAME` pick, and `-- --check` fails where a [figure](figures) is missed
//! by much. Lines that begin with `ratio` are for machines; above 1, anypea is better, whatever
//! the unit.
//!
//! # What is alike
//! - The loops that send, the count of what arrives, and the way to wait for the end: they are
//!   written once, over the traits in [`contender`], and so are the payloads.
//! - What may be under way between a sender and its receiver, in queues, buffers and the kernel:
//!   256 KiB for one connection, 4 MiB divided among many, and four messages at least. Senders
//!   wait for the [`inbox`] to tell them that half of it has arrived. At 1 MiB everybody is
//!   slower, since it falls out of the cache.
//! - The frames, a length of four bytes and the payload, and the code that encodes and decodes
//!   them; message-io alone has its own, a varint.
//! - `TCP_NODELAY`, but for message-io, which has no way to set it. Kernel buffers are the system's
//!   own choice.
//! - Both ends in one process, senders on tasks of their own, runtimes with as many threads as
//!   there are cores, the system's allocator, loopback. A run warms up first, over the same
//!   connection, and the number of messages follows from how many that took, so that each
//!   contender runs for about the same time.
//! - Raw clients, the same for all, where connections are accepted or lie idle; and a process for
//!   the server alone, where memory and CPU time are measured. It is told to answer, so it has
//!   readers and writers.
//!
//! # What is not
//! - anypea runs as it comes, but for limits on connections and frame lengths, and a queue as long
//!   as what may be under way. Everybody else is tried with several tunings before each workload
//!   that moves many messages, and takes part with the best: what is hand-wired with default
//!   buffers and with 8 to 128 KiB, pea2pea with queues of 64, 1,024 and 65,536 messages. A tuned
//!   decoder makes room for a whole frame at once; anypea's trusts no length that a peer claims.
//! - What is hand-wired sends from the task that makes the messages, straight into the buffer of
//!   its sink, without queue or lock, and has no limits, timeouts, statistics or hooks: it is a
//!   bound for a library rather than a peer. anypea and pea2pea hand messages to a task that writes.
//! - A connection of a hand-wired client that asks and is answered belongs to one task; anypea and
//!   pea2pea ask again from within their handlers.
//! - In the workload `connect`, eight clients connect and disconnect, again and again, and the
//!   clock stops when both ends of all connections are released. Hand-wired, each side reads to
//!   the end, shuts down and drops. pea2pea waits for its own end alone; the other is in the time,
//!   but not in each client's way.
//! - pea2pea needs a handshake to set `TCP_NODELAY` on what it accepts, so it has one where it
//!   answers. message-io is left out where its nodes would be a thread each in great number, or
//!   where its connections close without waiting for each other.
//! - `-by-address` sends to a socket address, `-encoded-once` broadcasts bytes that were encoded
//!   once; otherwise anypea sends to a `Peer`, and broadcasts messages.
//! - The physical limit has no frames and no messages, only two threads and the socket, with
//!   128 KiB in the kernel on either side. It has no window, so it is no limit where that makes
//!   for a warmer cache.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod bed;
pub mod child;
pub mod clients;
pub mod contender;
pub mod contenders;
pub mod entry;
pub mod figures;
pub mod framing;
pub mod inbox;
pub mod measure;
pub mod options;
pub mod plot;
pub mod race;
pub mod table;
pub mod volley;
pub mod workloads;

use std::{env, fs, io, path::PathBuf};

/// Returns cargo's target directory, in which this program lies, and makes sure that it exists.
pub fn target_dir() -> io::Result<PathBuf> {
    // target/release/deps/versus-...
    let program = env::current_exe()?;
    let found = program.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists());
    let dir = found.map_or_else(|| PathBuf::from("target"), PathBuf::from);
    fs::create_dir_all(&dir)?;
    Ok(dir)
}
