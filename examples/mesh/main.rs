//! Many nodes in a random network flood one another with messages, and account for every one.
//!
//! ```text
//! cargo run --release --features tokio --example mesh -- --nodes 50 --seconds 5
//! ```
//!
//! It has four parts: nodes are made and connected, and their memory is measured while they are
//! idle; a thousand messages a second for each node show the latency; a flood shows the
//! throughput; and when all is shut down, what was received is compared with what was sent, for
//! each direction of each connection. The last line is meant for programs.

#[path = "../common/mod.rs"]
mod common;
mod member;
mod memory;
mod packet;
mod report;

use anypea::{BoxError, Pea2Pea, Peer, Topology, Writing, connect_nodes, runtime::Runtime};
use futures::{channel::oneshot, future::join_all};
use indicatif::{ProgressBar, ProgressStyle};
use member::{Member, Mesh};
use packet::{Link, Stamp};
use report::{Flood, Report};
use std::{
    io,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// Connections of a node on average.
const DEGREE: usize = 8;
/// Messages that each node sends in a second while latency is measured, and for how long at most.
const PACE: u64 = 1000;
const PACED_SECONDS: u64 = 2;
/// How long the receivers may take for what is under way when the senders have stopped.
const CATCH_UP: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let (mut nodes, mut seconds) = (50, 5);
    let usage = "[--nodes NUMBER] [--seconds NUMBER]";
    let runtime = common::arguments(usage, |option, value| {
        match option {
            "nodes" => nodes = value.number(2..=10_000)? as usize,
            "seconds" => seconds = value.number(1..=3600)?,
            _ => value.unknown()?,
        }
        Ok(())
    });
    let descriptors = (nodes * (DEGREE + 1) + 100) as u64;
    match rlimit::increase_nofile_limit(descriptors) {
        Ok(allowed) if allowed < descriptors => common::refuse(&format!(
            "{nodes} nodes need up to {descriptors} descriptors, but the system allows {allowed}: \
             see `ulimit -n`"
        )),
        // Not every system has such a limit.
        _ => runtime.run(move |runtime| mesh(runtime, nodes, seconds)),
    }
}

async fn mesh(runtime: Arc<dyn Runtime>, nodes: usize, seconds: u64) -> common::Outcome {
    warm_up(&runtime).await?;
    let mesh = Mesh::new();

    let at_first = memory::resident_bytes();
    let make = |number| Member::new(number as u32, nodes, &runtime, &mesh);
    let members = (0..nodes).map(make).collect::<Result<Vec<_>, _>>()?;
    for member in &members {
        member.node().start_listening().await?;
    }
    let listening = memory::resident_bytes();
    connect_nodes(&members, Topology::Random { degree: DEGREE.min(nodes - 1) }).await?;
    let links = mesh.links();
    common::soon(&runtime, "the last connections", all_stand(&members, links.len())).await?;
    let connected = memory::resident_bytes();
    println!("{nodes} nodes, {} connections", links.len() / 2);

    let paced_seconds = seconds.min(PACED_SECONDS);
    let bar = bar("latency", paced_seconds * PACE * nodes as u64)?;
    let latencies = latencies(&members, &mesh, paced_seconds, &bar).await?;
    bar.finish_and_clear();
    let bar = self::bar("flood", seconds * 1000)?;
    let flood = flood(&members, &mesh, Duration::from_secs(seconds), &bar).await;
    bar.finish_and_clear();
    join_all(members.iter().map(|member| member.node().shut_down())).await;

    let failures = mesh.failures();
    failures.iter().for_each(|failure| eprintln!("{failure}"));
    let report = Report {
        sent: links.iter().map(|link| link.sent.packets()).sum(),
        received: links.iter().map(|link| link.received.packets()).sum(),
        lost: links.iter().map(|link| link.lost()).sum(),
        flood,
        latencies,
        bytes_per_node: memory::growth(at_first, listening, nodes),
        bytes_per_connection: memory::growth(listening, connected, links.len()),
    };
    report.print();
    match report.lost {
        0 if failures.is_empty() => Ok(()),
        0 => Err("connections were lost".into()),
        lost => Err(format!("{lost} messages were lost").into()),
    }
}

/// Has two nodes come and go, so that what the first connection of a process costs once is not
/// mistaken for what each of them costs.
async fn warm_up(runtime: &Arc<dyn Runtime>) -> common::Outcome {
    let mesh = Mesh::new();
    let pair = [Member::new(0, 2, runtime, &mesh)?, Member::new(1, 2, runtime, &mesh)?];
    connect_nodes(&pair, Topology::Line).await?;
    join_all(pair.iter().map(|member| member.node().shut_down())).await;
    Ok(())
}

/// Waits until all nodes together count so many ends of connections: the dialed end may stand a
/// little later than the dialing one.
async fn all_stand(members: &[Member], ends: usize) {
    let connected = || members.iter().map(|member| member.node().num_connected()).sum::<usize>();
    while connected() < ends {
        members[0].node().sleep(Duration::from_millis(1)).await;
    }
}

fn bar(message: &'static str, length: u64) -> Result<ProgressBar, BoxError> {
    let style = ProgressStyle::with_template("{msg:8} [{wide_bar}] {percent:>3} %")?;
    let bar = ProgressBar::new(length).with_style(style.progress_chars("=> "));
    bar.set_message(message);
    Ok(bar)
}

/// Has each node send a thousand messages a second, one peer after the other, and returns how
/// long each took: from the time when it should have been sent to the time when the receiver's
/// hook was called.
async fn latencies(
    members: &[Member],
    mesh: &Arc<Mesh>,
    seconds: u64,
    bar: &ProgressBar,
) -> Result<Vec<Duration>, BoxError> {
    let (sender, outcome) = oneshot::channel();
    let (pacers, mesh_, bar) = (members.to_vec(), mesh.clone(), bar.clone());
    // A thread, because the timers of some runtimes are only good to a millisecond.
    thread::spawn(move || sender.send(pace(&pacers, mesh_.start, seconds, &bar)));
    outcome.await??;
    caught_up(members, mesh).await;
    let mut latencies: Vec<_> = members.iter().flat_map(Member::take_latencies).collect();
    latencies.sort_unstable();
    Ok(latencies)
}

fn pace(
    members: &[Member],
    start: Instant,
    seconds: u64,
    bar: &ProgressBar,
) -> Result<(), io::Error> {
    let peers: Vec<Vec<Peer>> = members.iter().map(|member| member.node().peers()).collect();
    let rounds = seconds * PACE;
    let interval = Duration::from_secs(1) / (PACE as u32 * members.len() as u32);
    let mut due = start.elapsed();
    for round in 0..rounds {
        for (member, peers) in members.iter().zip(&peers) {
            due += interval;
            while let Some(early) = due.checked_sub(start.elapsed()) {
                thread::sleep(early);
            }
            let peer = &peers[round as usize % peers.len()];
            member.unicast(peer, Stamp(due.as_nanos() as u64))?;
        }
        bar.inc(members.len() as u64);
    }
    Ok(())
}

/// Has each node send to all of its peers as fast as they take it.
async fn flood(members: &[Member], mesh: &Mesh, time: Duration, bar: &ProgressBar) -> Flood {
    let links = mesh.links();
    let received = || {
        let received = links.iter().map(|link| &link.received);
        received.fold((0, 0), |sum, tally| (sum.0 + tally.packets(), sum.1 + tally.bytes()))
    };
    let stop = Arc::new(AtomicBool::new(false));
    let before = received();
    let begin = Instant::now();
    let mut senders = Vec::new();
    for member in members {
        for peer in member.node().peers() {
            let (stop, sender) = (stop.clone(), member.clone());
            let sender = sender.flood(peer, move || stop.load(Relaxed));
            senders.push(member.node().spawn(sender));
        }
    }
    while begin.elapsed() < time {
        members[0].node().sleep(TICK.min(time.saturating_sub(begin.elapsed()))).await;
        bar.set_position(begin.elapsed().as_millis() as u64);
    }
    stop.store(true, Relaxed);
    // A sender fails only where a connection was lost, and that is told elsewhere.
    join_all(senders).await;
    // What comes in after a node has begun to shut down is discarded, so it must not be early.
    caught_up(members, mesh).await;
    let (time, after) = (begin.elapsed(), received());
    Flood { messages: after.0 - before.0, bytes: after.1 - before.1, time }
}

/// Waits until all that was sent has been received, or until it won't be.
async fn caught_up(members: &[Member], mesh: &Mesh) {
    let (begin, links) = (Instant::now(), mesh.links());
    let missing = |link: &Arc<Link>| link.received.packets() < link.sent.packets();
    let hope = || mesh.failures().is_empty() && begin.elapsed() < CATCH_UP;
    while links.iter().any(missing) && hope() {
        members[0].node().sleep(Duration::from_millis(1)).await;
    }
}
