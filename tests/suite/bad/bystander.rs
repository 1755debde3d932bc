//! Another connection of a node that is mistreated: whatever happens, it must not notice.

use crate::harness::{TestNode, TestRuntime, meet};
use anypea::{DisconnectReason, Peer, Writing, bytes::Bytes};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

/// A node of its own, connected with the one under test.
pub struct Bystander {
    node: TestNode,
    there: Peer,
    back: Peer,
    said: AtomicUsize,
}

impl Bystander {
    /// Connects a new node with `node`.
    pub async fn of(rt: &TestRuntime, node: &TestNode) -> Self {
        let other = rt.setup().not_listening().start().await;
        let (there, back) = meet(rt, &other, node).await;
        let bystander = Self { node: other, there, back, said: AtomicUsize::new(0) };
        bystander.is_unharmed(rt, node).await;
        bystander
    }

    /// Checks that messages still pass in both directions, on the same connection, and that a new
    /// one can be made.
    pub async fn is_unharmed(&self, rt: &TestRuntime, node: &TestNode) {
        self.talks(rt, node).await;
        let newcomer = rt.setup().not_listening().start().await;
        let there = newcomer.connect(node.addr()).await.expect("connect");
        let number = self.said.fetch_add(1, SeqCst);
        let hello = Bytes::from(format!("newcomer {number}"));
        newcomer.unicast(&there, hello.clone()).expect("queue a message");
        rt.until("a newcomer's message has come", || node.messages().contains(&hello)).await;
        newcomer.shut_down().await;
        let from = there.local_addr().expect("a local address");
        rt.until("the newcomer is gone", || !node.is_connected(from)).await;
    }

    /// Checks that messages still pass in both directions, on the same connection.
    pub async fn talks(&self, rt: &TestRuntime, node: &TestNode) {
        let number = self.said.fetch_add(2, SeqCst);
        let [to, from] = [number, number + 1].map(|i| Bytes::from(format!("bystander {i}")));
        self.node.unicast(&self.there, to.clone()).expect("queue a message");
        node.unicast(&self.back, from.clone()).expect("queue a message");
        rt.until("the bystander's message has come", || node.messages().contains(&to)).await;
        rt.until("the bystander has its message", || self.node.messages().contains(&from)).await;
        assert!(self.there.is_connected() && self.back.is_connected());
    }

    /// Returns the bystander's connection, as the node under test sees it.
    pub fn peer(&self) -> &Peer {
        &self.back
    }

    /// Returns the bystander itself.
    pub fn node(&self) -> &TestNode {
        &self.node
    }
}

/// Something that happens once, after it has been armed.
#[derive(Clone, Default)]
pub struct Once(Arc<AtomicBool>);

impl Once {
    pub fn arm(&self) {
        self.0.store(true, SeqCst);
    }

    pub fn fires(&self) -> bool {
        self.0.swap(false, SeqCst)
    }

    /// Panics, once.
    pub fn panics(&self) {
        if self.fires() {
            std::panic::panic_any(crate::harness::ON_PURPOSE);
        }
    }
}

/// Waits for the end of a connection of `node`, and returns its reason.
pub async fn end_of(rt: &TestRuntime, peer: &Peer) -> DisconnectReason {
    match rt.within("the end of the connection", peer.closed()).await {
        anypea::Disconnected::Ended(reason) => reason,
        other => panic!("{other:?}"),
    }
}
