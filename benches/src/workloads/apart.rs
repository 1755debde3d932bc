//! What is measured in a process of its own: what connections and nodes cost that do nothing.

use super::Pace;
use crate::{
    child::Child,
    clients,
    entry::Entry,
    inbox::payload,
    measure::{Figure, Unit},
};
use std::{io, thread, time::Duration};

/// The message that each client exchanges.
const MESSAGE_BYTES: usize = 64;
/// Clients that exchange one at the same time.
const AT_ONCE: usize = 100;
/// CPU time below which all are alike: nearly nothing must not be called many times nothing.
const CPU_FLOOR: f64 = 10e-3;
/// How long memory is given to settle.
const REST: Duration = Duration::from_millis(100);

/// Memory and CPU time of connections that do nothing, and memory after they did something.
pub fn idle(connections: usize, entry: &Entry, pace: &Pace) -> io::Result<Vec<Figure>> {
    let mut server = Child::serve(entry, connections)?;
    let addr = server.addr();
    // What the first connection brings with it isn't counted.
    clients::exchange(&mut [clients::dial(addr, 0)?], &payload(0, MESSAGE_BYTES))?;
    server.wait_for(0)?;
    let before = server.memory()?;
    let mut idle = Vec::with_capacity(connections);
    for number in 0..connections {
        idle.push(clients::dial(addr, number)?);
        if number % AT_ONCE == 0 {
            server.wait_for(number + 1)?;
        }
    }
    server.wait_for(connections)?;
    thread::sleep(REST);
    let after = server.memory()?;
    let start = server.cpu()?;
    thread::sleep(pace.idle);
    let cpu = server.cpu()? - start;
    for some in idle.chunks_mut(AT_ONCE) {
        clients::exchange(some, &payload(0, MESSAGE_BYTES))?;
    }
    thread::sleep(REST);
    let used = server.memory()?;
    drop(idle);
    server.quit()?;
    let each = |now: f64| ((now - before) / connections as f64).max(1.0);
    Ok(vec![
        Figure { metric: "memory", value: each(after), unit: Unit::Bytes },
        Figure { metric: "memory-after-message", value: each(used), unit: Unit::Bytes },
        Figure { metric: "cpu", value: cpu.max(CPU_FLOOR), unit: Unit::Seconds },
    ])
}

/// Memory of nodes, and how long it takes to start and to shut them down.
pub fn nodes(nodes: usize, entry: &Entry) -> io::Result<Vec<Figure>> {
    let [memory, start, shut_down] = Child::nodes(entry, nodes)?;
    Ok(vec![
        Figure { metric: "memory", value: memory, unit: Unit::Bytes },
        Figure { metric: "start", value: start, unit: Unit::Seconds },
        Figure { metric: "shut-down", value: shut_down, unit: Unit::Seconds },
    ])
}
