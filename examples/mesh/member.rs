//! A node of the mesh.

use crate::packet::{Incoming, Link, Outgoing, Packet, Stamp};
use anypea::{
    Config, Connection, DisconnectReason, Handshake, Node, OnDisconnect, Pea2Pea, Peer, Reading,
    SendError, Writing, runtime::Runtime,
};
use futures::{AsyncReadExt, AsyncWriteExt};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What all members share, for the account at the end.
pub struct Mesh {
    /// Time stamps count from here.
    pub start: Instant,
    /// Both directions of every connection.
    links: Mutex<BTreeMap<(u32, u32), Arc<Link>>>,
    /// Connections that ended as they should not have.
    failures: Mutex<Vec<String>>,
}

impl Mesh {
    pub fn new() -> Arc<Self> {
        let (links, failures) = Default::default();
        Arc::new(Self { start: Instant::now(), links, failures })
    }

    fn link(&self, from: u32, to: u32) -> Arc<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.entry((from, to)).or_insert_with(|| Arc::new(Link::new(from, to))).clone()
    }

    pub fn links(&self) -> Vec<Arc<Link>> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.values().cloned().collect()
    }

    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Clone)]
pub struct Member {
    node: Node,
    number: u32,
    mesh: Arc<Mesh>,
    latencies: Arc<Mutex<Vec<Duration>>>,
}

/// The two directions of a connection; kept with the peer.
struct Links {
    outgoing: Arc<Link>,
    incoming: Arc<Link>,
}

impl Member {
    /// Makes a node that takes up to `max_connections`.
    pub fn new(
        number: u32,
        max_connections: usize,
        runtime: &Arc<dyn Runtime>,
        mesh: &Arc<Mesh>,
    ) -> io::Result<Self> {
        let config = Config {
            name: Some(number.to_string()),
            listening_addr: Some(([127, 0, 0, 1], 0).into()),
            max_connections: max_connections + 1,
            max_inbound: max_connections,
            ..Config::default()
        };
        let node = Node::new(runtime.clone(), config)?;
        let member = Self { node, number, mesh: mesh.clone(), latencies: Arc::default() };
        member.enable_handshake()?;
        member.enable_reading()?;
        member.enable_writing()?;
        member.enable_on_disconnect()?;
        Ok(member)
    }

    /// Sends one packet after the other, as fast as the peer takes them, until it is to stop.
    pub async fn flood(self, peer: Peer, stop: impl Fn() -> bool) -> Result<(), SendError<Stamp>> {
        while !stop() {
            self.send(&peer, Stamp(0)).await?;
        }
        Ok(())
    }

    /// Returns how long each stamped packet took to get here.
    pub fn take_latencies(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.latencies.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn links(peer: &Peer) -> Arc<Links> {
    peer.get().expect("the handshake has put them there")
}

impl Pea2Pea for Member {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Handshake for Member {
    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        conn.write_all(&self.number.to_be_bytes()).await?;
        let mut theirs = [0; 4];
        conn.read_exact(&mut theirs).await?;
        let theirs = u32::from_be_bytes(theirs);
        conn.peer().insert(Links {
            outgoing: self.mesh.link(self.number, theirs),
            incoming: self.mesh.link(theirs, self.number),
        });
        Ok(conn)
    }
}

impl Reading for Member {
    type Codec = Incoming;

    fn codec(&self, peer: &Peer) -> Incoming {
        Incoming::new(links(peer).incoming.clone())
    }

    async fn process_message(&self, peer: &Peer, packet: Packet) -> io::Result<()> {
        if packet.stamp > 0 {
            let latency = self.mesh.start.elapsed() - Duration::from_nanos(packet.stamp);
            self.latencies.lock().unwrap_or_else(PoisonError::into_inner).push(latency);
        }
        links(peer).incoming.receive(&packet);
        Ok(())
    }
}

impl Writing for Member {
    type Message = Stamp;
    type Codec = Outgoing;

    fn codec(&self, peer: &Peer) -> Outgoing {
        Outgoing::new(links(peer).outgoing.clone())
    }

    /// Less than by default: there are many connections.
    fn queue_bytes(&self) -> usize {
        64 * 1024
    }

    /// More than by default: they share a few processors.
    fn write_timeout(&self) -> Duration {
        Duration::from_secs(60)
    }
}

impl OnDisconnect for Member {
    async fn on_disconnect(&self, peer: &Peer, reason: DisconnectReason) {
        if !matches!(reason, DisconnectReason::Shutdown | DisconnectReason::PeerClosed) {
            let (from, to) = links(peer).incoming.ends;
            let failure = format!("{to} has lost its connection with {from}: {reason}");
            self.mesh.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
        }
    }
}
