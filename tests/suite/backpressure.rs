//! Queues are bounded, each for itself, and a peer that doesn't read is cut off.

use crate::harness::{Case, Setup, TestNode, TestRuntime, case, frame, meet};
use anypea::{
    DisconnectReason, Peer, SendError, Writing,
    bytes::Bytes,
    runtime::{Clock, ConnectOptions, Stream},
};
use futures::AsyncReadExt;
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        case(a_full_queue_gives_the_message_back),
        case(a_queue_is_exceeded_by_one_message_at_most),
        case(a_message_larger_than_the_queue_is_taken),
        case(a_send_waits_for_room),
        case(nobody_pushes_in_before_those_who_wait),
        case(a_send_gives_up_when_the_connection_ends),
        case(a_slow_handler_slows_its_peer_down),
        case(a_full_peer_slows_no_other),
        case(a_broadcast_answers_for_a_full_peer),
        case(a_stalled_reader_is_cut_at_the_write_deadline),
        case(a_trickling_reader_is_cut_at_the_write_deadline),
        case(a_slow_honest_reader_is_not_cut),
        case(a_peer_with_nothing_to_read_is_not_cut),
    ]
}

/// More than the sockets below can hold.
const PLUG_BYTES: usize = 4 * 1024 * 1024;

/// A node with small sockets, and a queue of this size.
fn tight(rt: &TestRuntime, queue_bytes: usize) -> Setup {
    rt.setup()
        .knobs(|knobs| knobs.queue_bytes = queue_bytes)
        .config(|config| config.socket.send_buffer_bytes = Some(32 * 1024))
}

/// Connects a peer that is no node, and sends it a message so big that it stays in the queue.
async fn plugged(rt: &TestRuntime, node: &TestNode) -> (Stream, Peer) {
    let raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    node.unicast(&peer, vec![7; PLUG_BYTES].into()).unwrap();
    (raw, peer)
}

/// Reads the message of [`plugged`].
async fn unplug(rt: &TestRuntime, raw: &mut Stream) {
    let mut plug = vec![0; 4 + PLUG_BYTES];
    rt.within("the big message", raw.read_exact(&mut plug)).await.unwrap();
}

async fn read_frame(rt: &TestRuntime, raw: &mut Stream, payload: &[u8]) {
    let expected = frame(payload);
    let mut read = vec![0; expected.len()];
    rt.within("a frame", raw.read_exact(&mut read)).await.unwrap();
    assert_eq!(read, expected);
}

async fn a_full_queue_gives_the_message_back(rt: &TestRuntime) {
    let node = tight(rt, 1).start().await;
    let (mut raw, peer) = plugged(rt, &node).await;
    let back = node.unicast(&peer, "back".into());
    assert!(matches!(&back, Err(SendError::Full(message)) if message == "back"), "{back:?}");
    let ready = Bytes::from(frame("ready"));
    let back = node.send_encoded(&peer, ready.clone());
    assert!(matches!(&back, Err(SendError::Full(bytes)) if *bytes == ready), "{back:?}");
    unplug(rt, &mut raw).await;
    rt.until("the queue is empty", || peer.stats().queued_bytes == 0).await;
    node.unicast(&peer, "taken".into()).unwrap();
    read_frame(rt, &mut raw, b"taken").await;
}

async fn a_queue_is_exceeded_by_one_message_at_most(rt: &TestRuntime) {
    const QUEUE_BYTES: usize = 100_000;
    const MESSAGE_BYTES: usize = 1_000;
    let node = tight(rt, QUEUE_BYTES).start().await;
    let _raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    let message = Bytes::from(vec![7; MESSAGE_BYTES]);
    rt.until("the socket is full, and then the queue", || {
        while node.unicast(&peer, message.clone()).is_ok() {
            assert!(peer.stats().queued_bytes < QUEUE_BYTES + 4 + MESSAGE_BYTES);
        }
        peer.stats().max_queued_bytes >= QUEUE_BYTES
    })
    .await;
    assert!(peer.stats().max_queued_bytes < QUEUE_BYTES + 4 + MESSAGE_BYTES);
}

async fn a_message_larger_than_the_queue_is_taken(rt: &TestRuntime) {
    let node = tight(rt, 1).start().await;
    let (mut raw, peer) = plugged(rt, &node).await;
    assert!(peer.stats().max_queued_bytes >= PLUG_BYTES);
    unplug(rt, &mut raw).await;
}

async fn a_send_waits_for_room(rt: &TestRuntime) {
    let node = tight(rt, 1).start().await;
    let (mut raw, peer) = plugged(rt, &node).await;
    let mut send = Box::pin(node.send(&peer, "patient".into()));
    assert!(futures::poll!(&mut send).is_pending());
    unplug(rt, &mut raw).await;
    rt.within("there is room", send).await.unwrap();
    read_frame(rt, &mut raw, b"patient").await;
}

async fn nobody_pushes_in_before_those_who_wait(rt: &TestRuntime) {
    let node = tight(rt, 1).start().await;
    let (mut raw, peer) = plugged(rt, &node).await;
    let mut waiting = Box::pin(node.send(&peer, "waits".into()));
    assert!(futures::poll!(&mut waiting).is_pending());
    unplug(rt, &mut raw).await;
    rt.until("the queue is empty", || peer.stats().queued_bytes == 0).await;
    // There is room, but somebody has waited for it.
    let pushy = node.unicast(&peer, "pushy".into());
    assert!(matches!(pushy, Err(SendError::Full(_))), "{pushy:?}");
    drop(waiting);
    node.unicast(&peer, "nobody waits".into()).unwrap();
    read_frame(rt, &mut raw, b"nobody waits").await;
}

async fn a_send_gives_up_when_the_connection_ends(rt: &TestRuntime) {
    let node = tight(rt, 1).start().await;
    let (_raw, peer) = plugged(rt, &node).await;
    let mut send = Box::pin(node.send(&peer, "too late".into()));
    assert!(futures::poll!(&mut send).is_pending());
    peer.disconnect_now();
    let sent = rt.within("the send gives up", send).await;
    assert!(matches!(&sent, Err(SendError::NotConnected(m)) if m == "too late"), "{sent:?}");
}

async fn a_slow_handler_slows_its_peer_down(rt: &TestRuntime) {
    const MESSAGE_BYTES: usize = 64 * 1024;
    let alice = tight(rt, 128 * 1024).start().await;
    let bob = rt.setup().on_message(|node, _, _| async move {
        while !node.has_noted("open") {
            node.sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    });
    let bob = bob.config(|config| config.socket.recv_buffer_bytes = Some(64 * 1024)).start().await;
    let (peer, back) = meet(rt, &alice, &bob).await;
    let message = Bytes::from(vec![7; MESSAGE_BYTES]);
    // Neither the sockets nor the queue have room for as many.
    let all = 100;
    let sender = rt.spawn(async move {
        for _ in 0..all {
            alice.send(&peer, message.clone()).await.unwrap();
        }
        peer
    });
    rt.until("bob holds it up", || back.stats().messages_received == 1).await;
    // All that he reads while his handler runs is what had come together with its message.
    assert!(back.stats().bytes_received < 8 * MESSAGE_BYTES as u64);
    bob.note("open");
    let peer = rt.within("all were sent", sender).await;
    rt.until("all have arrived", || bob.num_messages() == all).await;
    assert!(peer.stats().max_queued_bytes < 128 * 1024 + 4 + MESSAGE_BYTES);
}

async fn a_full_peer_slows_no_other(rt: &TestRuntime) {
    let node = tight(rt, 1).start().await;
    let (_raw, stuck) = plugged(rt, &node).await;
    let mut waiting = Box::pin(node.send(&stuck, "waits".into()));
    assert!(futures::poll!(&mut waiting).is_pending());
    let other = rt.start().await;
    let (free, _) = meet(rt, &node, &other).await;
    for i in 0..500u32 {
        let sent = node.send(&free, Bytes::copy_from_slice(&i.to_be_bytes()));
        rt.within("the other peer has room", sent).await.unwrap();
    }
    rt.until("all have arrived", || other.num_messages() == 500).await;
    assert!(futures::poll!(&mut waiting).is_pending());
    assert!(stuck.stats().queued_bytes > 0);
}

async fn a_broadcast_answers_for_a_full_peer(rt: &TestRuntime) {
    let node = tight(rt, 1).start().await;
    let (_raw, stuck) = plugged(rt, &node).await;
    let other = rt.start().await;
    meet(rt, &node, &other).await;
    let answers = node.broadcast("to all".into());
    assert_eq!(answers.len(), 2);
    for (peer, answer) in answers {
        assert_eq!(matches!(answer, Err(SendError::Full(_))), peer == stuck);
    }
    rt.until("the other has it", || other.num_messages() == 1).await;
}

/// Waits until the node has cut its only peer off.
async fn until_cut(rt: &TestRuntime, node: &TestNode) {
    rt.until("the peer is cut", || node.num_connected() == 0).await;
    let reasons = node.reasons();
    assert!(matches!(reasons[..], [DisconnectReason::WriteTimedOut]), "{reasons:?}");
    assert_eq!(node.heuristics().write_timeouts, 1);
}

async fn a_stalled_reader_is_cut_at_the_write_deadline(rt: &TestRuntime) {
    let limit = Duration::from_millis(100);
    let node = tight(rt, 1).knobs(|knobs| knobs.write_timeout = limit).start().await;
    let start = rt.now();
    let (_raw, _) = plugged(rt, &node).await;
    until_cut(rt, &node).await;
    assert!(rt.now() - start >= limit);
}

async fn a_trickling_reader_is_cut_at_the_write_deadline(rt: &TestRuntime) {
    let limit = Duration::from_millis(300);
    let node = tight(rt, 1).knobs(|knobs| knobs.write_timeout = limit).start().await;
    // A small window, so that some bytes are written within the limit, again and again.
    let mut options = ConnectOptions::default();
    options.socket.recv_buffer_bytes = Some(4 * 1024);
    let mut raw = rt.try_dial_raw(node.addr(), &options).await.unwrap();
    let peer = node.only_peer(rt).await;
    node.unicast(&peer, vec![7; PLUG_BYTES].into()).unwrap();
    let trickle = rt.spawn({
        let rt = rt.clone();
        async move {
            // Some 30 KB within the limit; 256 KiB are asked for.
            let mut sip = [0; 1024];
            while matches!(raw.read(&mut sip).await, Ok(1..)) {
                rt.sleep(Duration::from_millis(10)).await;
            }
        }
    });
    until_cut(rt, &node).await;
    rt.within("the reader sees the reset", trickle).await;
}

async fn a_slow_honest_reader_is_not_cut(rt: &TestRuntime) {
    let limit = Duration::from_secs(2);
    let node = tight(rt, 1).knobs(|knobs| knobs.write_timeout = limit).start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    // 64 KiB each 25 ms: a tenth of a second for what may take two.
    let message = Bytes::from(vec![7; 6 * 1024 * 1024]);
    let start = rt.now();
    node.unicast(&peer, message.clone()).unwrap();
    let mut left = 4 + message.len();
    let mut gulp = vec![0; 64 * 1024];
    while left > 0 {
        let most = left.min(gulp.len());
        rt.within("a gulp", raw.read_exact(&mut gulp[..most])).await.unwrap();
        left -= most;
        rt.sleep(Duration::from_millis(25)).await;
    }
    assert!(rt.now() - start > limit, "it takes longer than the limit, all in all");
    assert!(peer.is_connected());
    assert_eq!(node.heuristics().write_timeouts, 0);
}

async fn a_peer_with_nothing_to_read_is_not_cut(rt: &TestRuntime) {
    let limit = Duration::from_millis(50);
    let node = rt.setup().knobs(|knobs| knobs.write_timeout = limit).start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    let first = node.unicast(&peer, "first".into()).unwrap();
    rt.within("the first is out", first).await.unwrap();
    rt.sleep(limit * 4).await;
    node.unicast(&peer, "second".into()).unwrap();
    read_frame(rt, &mut raw, b"first").await;
    read_frame(rt, &mut raw, b"second").await;
}
