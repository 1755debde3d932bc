//! One node holds ten thousand clients, answers each, and lets them go.
//!
//! Each client is a node of its own. They live in a second process, this program started again,
//! so that neither has more descriptors than a process usually may.

mod common;

use anypea::{
    BoxError, Config, ConnectOptions, DisconnectReason, Node, OnDisconnect, Pea2Pea, Peer, Reading,
    Writing, bytes::Bytes, codec::LengthDelimited, runtime::Runtime,
};
use futures::{StreamExt, TryStreamExt, channel::mpsc, stream};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    env,
    io::{self, BufRead, Write},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

const USAGE: &str = "[--clients N]";
const GREETING: &str = "one of ten thousand";
/// Clients of one source address: a fraction of the ports that it has.
const CLIENTS_PER_SOURCE: usize = 2_500;
/// Clients that dial at one time.
const DIALS: usize = 64;
/// How often the progress bar moves, and for how long it may stand still.
const TICK: Duration = Duration::from_millis(20);
const TICKS: usize = 1_000;

fn main() -> ExitCode {
    let mut clients = 10_000;
    let mut server: Option<SocketAddr> = None;
    let chosen = common::arguments(USAGE, |option, value| {
        match option {
            "clients" => clients = value.number(1..=60_000)? as usize,
            // For the second process alone.
            "dial" => server = Some(value.parsed(|text| text.parse().ok(), "an address")?),
            _ => value.unknown()?,
        }
        Ok(())
    });
    chosen.run(async |runtime| {
        rlimit::increase_nofile_limit(u64::MAX)?;
        match server {
            Some(server) => visit(runtime, server, clients).await,
            None => receive(runtime, clients).await,
        }
    })
}

/// The node that all visit.
#[derive(Clone)]
struct Server {
    node: Node,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    answered: AtomicUsize,
    left: AtomicUsize,
    /// Clients that have not left as they should.
    lost: AtomicUsize,
}

impl Pea2Pea for Server {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Server {
    type Codec = LengthDelimited;

    fn codec(&self, _peer: &Peer) -> LengthDelimited {
        LengthDelimited::new(1024)
    }

    async fn process_message(&self, peer: &Peer, message: Bytes) -> io::Result<()> {
        self.unicast(peer, message)?;
        self.seen.answered.fetch_add(1, Relaxed);
        Ok(())
    }
}

impl Writing for Server {
    type Message = Bytes;
    type Codec = LengthDelimited;

    fn codec(&self, _peer: &Peer) -> LengthDelimited {
        LengthDelimited::new(1024)
    }
}

impl OnDisconnect for Server {
    async fn on_disconnect(&self, _peer: &Peer, reason: DisconnectReason) {
        let clean = matches!(reason, DisconnectReason::PeerClosed);
        let counter = if clean { &self.seen.left } else { &self.seen.lost };
        counter.fetch_add(1, Relaxed);
    }
}

async fn receive(runtime: Arc<dyn Runtime>, clients: usize) -> common::Outcome {
    let config = Config {
        listening_addr: Some((Ipv4Addr::LOCALHOST, 0).into()),
        backlog: 4096,
        max_connections: clients + 1,
        max_inbound: clients,
        ..Config::default()
    };
    let server = Server { node: Node::new(runtime, config)?, seen: Arc::default() };
    server.enable_reading()?;
    server.enable_writing()?;
    server.enable_on_disconnect()?;
    let addr = server.node.start_listening().await?;
    println!("listening on {addr}");

    let mut visitors = Command::new(env::current_exe()?)
        .args(env::args().skip(1))
        .args(["--dial", &addr.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let outcome = watch(&server, clients, &mut visitors).await;
    if outcome.is_err() {
        // It may have ended by itself.
        let _ = visitors.kill();
    }
    let status = visitors.wait()?;
    outcome?;
    server.node.shut_down().await;
    match server.seen.lost.load(Relaxed) {
        0 if status.success() => Ok(()),
        0 => Err(format!("the clients failed: {status}").into()),
        lost => Err(format!("{lost} clients have not left as they should").into()),
    }
}

/// Sees all clients come, be answered, and leave.
async fn watch(server: &Server, clients: usize, visitors: &mut Child) -> common::Outcome {
    let Server { node, seen } = server;
    progress(node, "connected", clients, || node.num_connected(), visitors).await?;
    // They hold on until they are told that all are there.
    let told = visitors.stdin.take().map(|mut line| writeln!(line, "all are there"));
    told.ok_or("the clients don't listen")??;
    progress(node, "answered", clients, || seen.answered.load(Relaxed), visitors).await?;
    let gone = || clients - node.num_connected();
    progress(node, "let go", clients, gone, visitors).await
}

/// Shows progress until all is done; an error if there is none for too long.
async fn progress(
    node: &Node,
    what: &'static str,
    all: usize,
    done: impl Fn() -> usize,
    visitors: &mut Child,
) -> common::Outcome {
    let style = ProgressStyle::with_template("{msg:>10} {wide_bar} {pos}/{len} in {elapsed}")?;
    let bar = ProgressBar::new(all as u64).with_style(style).with_message(what);
    let (mut last, mut ticks) = (0, 0);
    loop {
        let now = done();
        bar.set_position(now as u64);
        if now >= all {
            bar.finish();
            println!("{now} {what}");
            return Ok(());
        }
        ticks = if now == last { ticks + 1 } else { 0 };
        last = now;
        let ended = visitors.try_wait()?.is_some_and(|status| !status.success());
        if ended || ticks > TICKS {
            return Err(format!("only {now} of {all} clients {what}").into());
        }
        node.sleep(TICK).await;
    }
}

/// One of many.
#[derive(Clone)]
struct Client {
    node: Node,
    answers: mpsc::UnboundedSender<Bytes>,
}

impl Pea2Pea for Client {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Client {
    type Codec = LengthDelimited;

    fn codec(&self, _peer: &Peer) -> LengthDelimited {
        LengthDelimited::new(1024)
    }

    async fn process_message(&self, _peer: &Peer, message: Bytes) -> io::Result<()> {
        self.answers.unbounded_send(message).map_err(io::Error::other)
    }
}

impl Writing for Client {
    type Message = Bytes;
    type Codec = LengthDelimited;

    fn codec(&self, _peer: &Peer) -> LengthDelimited {
        LengthDelimited::new(1024)
    }
}

async fn visit(runtime: Arc<dyn Runtime>, server: SocketAddr, clients: usize) -> common::Outcome {
    let (answers, mut answered) = mpsc::unbounded();
    let dial = async |number: usize| {
        let node = Node::new(runtime.clone(), Config::default())?;
        let client = Client { node, answers: answers.clone() };
        client.enable_reading()?;
        client.enable_writing()?;
        let source = Ipv4Addr::new(127, 0, 1, 1 + (number / CLIENTS_PER_SOURCE) as u8);
        let options =
            ConnectOptions { local: Some((source, 0).into()), ..ConnectOptions::default() };
        let peer = client.node.connect_with(server, options).await?;
        Ok::<_, BoxError>((client, peer))
    };
    let dialing = stream::iter(0..clients).map(dial).buffer_unordered(DIALS);
    let visitors: Vec<_> = dialing.try_collect().await?;

    io::stdin().lock().read_line(&mut String::new())?;
    for (client, peer) in &visitors {
        client.unicast(peer, GREETING.into())?;
    }
    for _ in 0..clients {
        if answered.next().await.is_none_or(|answer| answer != GREETING) {
            return Err("not the answer that was expected".into());
        }
    }
    for (client, _) in &visitors {
        client.node.shut_down().await;
    }
    Ok(())
}
