//! Nodes on several runtimes in one process.

use anypea::{
    AsyncStd, Config, Node, Pea2Pea, Peer, Reading, Side, Smol, Tokio, Writing, bytes::Bytes,
    codec::LengthDelimited, runtime::Runtime,
};
use futures::{executor::block_on, future::join};
use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

/// A node that remembers what it hears, and returns what a dialer says.
#[derive(Clone)]
struct Echo {
    node: Node,
    heard: Arc<Mutex<Vec<Bytes>>>,
}

impl Echo {
    fn new(runtime: &Arc<dyn Runtime>) -> Self {
        let listening_addr = Some("127.0.0.1:0".parse().unwrap());
        let config = Config { listening_addr, ..Config::default() };
        let node = Node::new(Arc::clone(runtime), config).unwrap();
        let echo = Self { node, heard: Arc::default() };
        echo.enable_reading().unwrap();
        echo.enable_writing().unwrap();
        echo
    }

    fn heard(&self) -> Vec<Bytes> {
        self.heard.lock().unwrap().clone()
    }
}

impl Pea2Pea for Echo {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Echo {
    type Codec = LengthDelimited;

    fn codec(&self, _: &Peer) -> LengthDelimited {
        LengthDelimited::new(1024)
    }

    async fn process_message(&self, peer: &Peer, message: Bytes) -> io::Result<()> {
        self.heard.lock().unwrap().push(message.clone());
        if peer.side() == Side::Responder {
            self.send(peer, message).await.map_err(io::Error::from)?;
        }
        Ok(())
    }
}

impl Writing for Echo {
    type Message = Bytes;
    type Codec = LengthDelimited;

    fn codec(&self, _: &Peer) -> LengthDelimited {
        LengthDelimited::new(1024)
    }
}

/// Has a node on one runtime dial a node on another, and talk with it.
async fn talk(one: &Arc<dyn Runtime>, other: &Arc<dyn Runtime>) {
    let (dialer, dialed) = (Echo::new(one), Echo::new(other));
    let peer = dialer.node.connect(dialed.node.start_listening().await.unwrap()).await.unwrap();
    let said: Vec<_> = (0..1000u32).map(|i| Bytes::copy_from_slice(&i.to_be_bytes())).collect();
    for message in &said {
        dialer.send(&peer, message.clone()).await.unwrap();
    }
    while dialer.heard().len() < said.len() {
        dialer.node.sleep(Duration::from_millis(1)).await;
    }
    assert!(dialer.heard() == said && dialed.heard() == said);
    join(dialer.node.shut_down(), dialed.node.shut_down()).await;
}

/// All of them side by side, and all driven from a thread that none of them knows.
#[test]
fn nodes_on_any_two_runtimes_talk() {
    let tokio =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let runtimes: [Arc<dyn Runtime>; 3] = [
        Arc::new(Tokio::from(tokio.handle().clone())),
        Arc::new(AsyncStd),
        Arc::new(Smol::global()),
    ];
    for one in &runtimes {
        for other in &runtimes {
            block_on(talk(one, other));
        }
    }
}
