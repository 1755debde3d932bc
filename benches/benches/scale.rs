//! How anypea grows with the number of its connections: what a message costs, a connection's
//! memory, a broadcast, and how fast connections are accepted.
//!
//! The node stands in a process of its own. The clients are raw ones, of which as many exchange a
//! message at one time, however many there are; so the pattern of work is the same, and what
//! differs is the number. Once they are the same few, among others that are silent, and once all
//! have their turn, so that neither sockets nor connections are found in the cache: what is
//! hand-wired stands beside it, to tell what of that is the kernel's.

use anypea_bench::{
    child::{self, Child},
    clients,
    entry::Entry,
    inbox::payload,
    measure::{Unit, machine},
    options::{Extent, Options},
    plot, target_dir,
};
use std::{
    error::Error,
    io::{self, Read},
    net::TcpStream,
    process::ExitCode,
    time::Instant,
};

const MESSAGE_BYTES: usize = 64;
/// Clients that exchange a message at one time.
const AT_ONCE: usize = 100;
/// How much more a message may cost with the most connections than with the fewest.
const MOST_GROWTH: f64 = 1.25;

/// What was measured with one number of connections.
struct Stage {
    connections: usize,
    /// Connections accepted per second since the last stage.
    accepted: f64,
    /// Bytes of memory per connection.
    memory: f64,
    /// CPU seconds of the node per message received and answered, from all clients in turn.
    message: f64,
    /// The same, where only a few of the clients say something.
    same_few: f64,
    /// Seconds per peer until a broadcast is queued, where there is one.
    broadcast: Option<f64>,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    if child::is_child()? {
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::parse();
    rlimit::increase_nofile_limit(u64::MAX)?;
    let sizes: &[usize] = match options.extent {
        Extent::Quick => &[100, 1_000, 2_000],
        _ => &[100, 300, 1_000, 3_000, 10_000],
    };
    let messages = if options.extent == Extent::Full { 200_000 } else { 40_000 };
    println!("on {}\n", machine());
    println!(
        "{:>11} {:24} {:>12} {:>12} {:>14} {:>14} {:>14}",
        "connections",
        "contender",
        "accepted",
        "memory each",
        "CPU, same few",
        "CPU, in turn",
        "broadcast each"
    );
    let (mut lines, mut grown) = (Vec::new(), false);
    for entry in options.entries().iter().filter(|entry| entry.grows()) {
        let stages = grow(entry, sizes, messages)?;
        for stage in &stages {
            println!(
                "{:>11} {:24} {:>12} {:>12} {:>14} {:>14} {:>14}",
                stage.connections,
                entry.to_string(),
                Unit::PerSecond.show(stage.accepted),
                Unit::Bytes.show(stage.memory),
                Unit::Seconds.show(stage.same_few),
                Unit::Seconds.show(stage.message),
                stage.broadcast.map_or_else(String::new, |time| Unit::Seconds.show(time)),
            );
        }
        if let (Some(few), Some(many)) = (stages.first(), stages.last()) {
            let growth = many.same_few / few.same_few;
            let (runtime, name) = (entry.runtime, entry.name);
            println!("growth same-few {runtime} {name} {growth:.3}");
            println!("growth in-turn {runtime} {name} {:.3}\n", many.message / few.message);
            grown |= entry.is_ours() && growth > MOST_GROWTH;
        }
        let points = |value: fn(&Stage) -> Option<f64>| {
            let point = |stage: &Stage| Some((stage.connections as f64, value(stage)?));
            stages.iter().filter_map(point).collect::<Vec<_>>()
        };
        lines.push(plot::Growth {
            name: entry.to_string(),
            is_ours: entry.is_ours(),
            runtime: entry.runtime,
            panels: [
                points(|stage| Some(stage.same_few * 1e6)),
                points(|stage| Some(stage.message * 1e6)),
                points(|stage| Some(stage.memory / 1e3)),
                points(|stage| stage.broadcast.map(|time| time * 1e6)),
            ],
        });
    }
    let path = target_dir()?.join("scale.svg");
    plot::draw_growth(&lines, &path)?;
    println!("drawn in {}", path.display());
    Ok(if options.check && grown { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn grow(entry: &Entry, sizes: &[usize], messages: usize) -> io::Result<Vec<Stage>> {
    let most = sizes.last().copied().unwrap_or_default();
    let mut node = Child::serve(entry, most)?;
    let mut peers: Vec<TcpStream> = Vec::with_capacity(most);
    // What the first connection brings with it isn't counted.
    clients::exchange(&mut [clients::dial(node.addr(), 0)?], &payload(0, MESSAGE_BYTES))?;
    node.wait_for(0)?;
    let before = node.memory()?;
    let mut stages = Vec::new();
    for &connections in sizes {
        let (start, had) = (Instant::now(), peers.len());
        while peers.len() < connections {
            peers.push(clients::dial(node.addr(), peers.len())?);
            if peers.len().is_multiple_of(1_000) {
                node.wait_for(peers.len())?;
            }
        }
        node.wait_for(connections)?;
        let accepted = (connections - had) as f64 / start.elapsed().as_secs_f64();
        let memory = (node.memory()? - before) / connections as f64;
        // Once without measuring: then each connection has been in use.
        exchange_in_turn(&mut peers, connections)?;
        let cpu = node.cpu()?;
        exchange_in_turn(&mut peers, messages)?;
        let message = (node.cpu()? - cpu) / messages as f64;
        // The same few again and again: only their number of neighbours has changed.
        let cpu = node.cpu()?;
        exchange_in_turn(&mut peers[..AT_ONCE], messages)?;
        let same_few = (node.cpu()? - cpu) / messages as f64;
        let broadcast =
            if entry.is_ours() { Some(broadcast(&mut node, &mut peers)?) } else { None };
        stages.push(Stage { connections, accepted, memory, message, same_few, broadcast });
    }
    drop(peers);
    node.quit()?;
    Ok(stages)
}

/// Has so many messages exchanged, by as many clients at a time, all in turn.
fn exchange_in_turn(peers: &mut [TcpStream], messages: usize) -> io::Result<()> {
    let payload = payload(0, MESSAGE_BYTES);
    let mut left = messages;
    while left > 0 {
        for some in peers.chunks_mut(AT_ONCE) {
            clients::exchange(some, &payload)?;
            left = left.saturating_sub(some.len());
            if left == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// Returns the time per peer that it takes to queue a broadcast, the median of several.
fn broadcast(node: &mut Child, peers: &mut [TcpStream]) -> io::Result<f64> {
    const TIMES: usize = 9;
    let mut frame = [0; 4 + MESSAGE_BYTES];
    let mut times = Vec::new();
    for _ in 0..TIMES {
        times.push(node.broadcast(MESSAGE_BYTES)?);
        for peer in &mut *peers {
            peer.read_exact(&mut frame)?;
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[TIMES / 2] / peers.len() as f64)
}
