//! An anypea node and a pea2pea node talk, in both directions, byte for byte.

use anypea::{
    Config, Node, Pea2Pea, Peer, Reading, Tokio, Writing, bytes::Bytes, codec::LengthDelimited,
};
use pea2pea::{
    ConnectionSide,
    protocols::{Reading as _, Writing as _},
};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{sleep, timeout};
use tokio_util::{bytes::BytesMut, codec::LengthDelimitedCodec};

const MESSAGES: u64 = 10_000;
const MAX_FRAME_BYTES: usize = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(120);

type Received = Arc<Mutex<Vec<Bytes>>>;

#[derive(Clone)]
struct Ours {
    node: Node,
    received: Received,
}

impl Ours {
    fn new() -> Self {
        let listening_addr = Some("127.0.0.1:0".parse().unwrap());
        let config = Config { listening_addr, ..Config::default() };
        let node = Node::new(Tokio::current().unwrap(), config).unwrap();
        let ours = Self { node, received: Received::default() };
        ours.enable_reading().unwrap();
        ours.enable_writing().unwrap();
        ours
    }
}

impl Pea2Pea for Ours {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Ours {
    type Codec = LengthDelimited;

    fn codec(&self, _: &Peer) -> LengthDelimited {
        LengthDelimited::new(MAX_FRAME_BYTES)
    }

    fn max_buffered_bytes(&self) -> usize {
        2 * MAX_FRAME_BYTES
    }

    async fn process_message(&self, _: &Peer, message: Bytes) -> io::Result<()> {
        self.received.lock().unwrap().push(message);
        Ok(())
    }
}

impl Writing for Ours {
    type Message = Bytes;
    type Codec = LengthDelimited;

    fn codec(&self, _: &Peer) -> LengthDelimited {
        LengthDelimited::new(MAX_FRAME_BYTES)
    }
}

#[derive(Clone)]
struct Theirs {
    node: pea2pea::Node,
    received: Received,
}

impl Theirs {
    async fn new() -> Self {
        let config = pea2pea::Config {
            listener_addr: Some("127.0.0.1:0".parse().unwrap()),
            ..Default::default()
        };
        let theirs = Self { node: pea2pea::Node::new(config), received: Received::default() };
        theirs.enable_reading().await;
        theirs.enable_writing().await;
        theirs
    }
}

impl pea2pea::Pea2Pea for Theirs {
    fn node(&self) -> &pea2pea::Node {
        &self.node
    }
}

fn their_codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME_BYTES).new_codec()
}

impl pea2pea::protocols::Reading for Theirs {
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> LengthDelimitedCodec {
        their_codec()
    }

    async fn process_message(&self, _: SocketAddr, message: BytesMut) {
        self.received.lock().unwrap().push(message.freeze());
    }
}

impl pea2pea::protocols::Writing for Theirs {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> LengthDelimitedCodec {
        their_codec()
    }
}

/// Messages of mixed sizes, from nothing to more than a socket's buffer, the same for a seed.
fn messages(seed: u64) -> impl Iterator<Item = Bytes> {
    (0..MESSAGES).map(move |i| {
        let mut state = (seed << 32) + i;
        let mut random = move || {
            // SplitMix64 (Steele, Lea, Flood 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let most = if i.is_multiple_of(1_000) { 400_000 } else { 1 << (i % 12) };
        let length = random() % most;
        let words = (0..length / 8 + 1).flat_map(|_| random().to_le_bytes());
        words.take(length as usize).collect()
    })
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

fn assert_same(received: &Received, seed: u64) {
    let received = received.lock().unwrap();
    assert_eq!(received.len() as u64, MESSAGES);
    for (i, (received, sent)) in received.iter().zip(messages(seed)).enumerate() {
        assert!(*received == sent, "message {i} differs");
    }
}

/// Has both send all their messages at once, and compares what arrives.
async fn talk(ours: &Ours, theirs: &Theirs) {
    until("both are connected", || {
        ours.node.num_connected() == 1 && theirs.node.num_connected() == 1
    })
    .await;
    let peer = ours.node.peers().remove(0);
    let their_peer = theirs.node.connected_addrs()[0];
    let we_send = async {
        for message in messages(1) {
            ours.send(&peer, message).await.unwrap();
        }
    };
    let they_send = async {
        for message in messages(2) {
            let written = theirs.unicast(their_peer, message).unwrap();
            written.await.unwrap().unwrap();
        }
    };
    let both = async { tokio::join!(we_send, they_send) };
    timeout(PATIENCE, both).await.expect("all is sent");
    until("all has arrived", || {
        let count = |received: &Received| received.lock().unwrap().len() as u64;
        count(&ours.received) == MESSAGES && count(&theirs.received) == MESSAGES
    })
    .await;
    assert_same(&theirs.received, 1);
    assert_same(&ours.received, 2);
    ours.node.shut_down().await;
    theirs.node.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pea2pea_node_that_we_dial_understands_us_and_we_it() {
    let (ours, theirs) = (Ours::new(), Theirs::new().await);
    let addr = theirs.node.toggle_listener().await.unwrap().unwrap();
    ours.node.connect(addr).await.unwrap();
    talk(&ours, &theirs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pea2pea_node_that_dials_us_understands_us_and_we_it() {
    let (ours, theirs) = (Ours::new(), Theirs::new().await);
    let addr = ours.node.start_listening().await.unwrap();
    theirs.node.connect(addr).await.unwrap();
    talk(&ours, &theirs).await;
}
