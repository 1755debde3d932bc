//! Hostile peers: slow ones, many, silent, deaf, and those that leave at the worst moment.

use super::bystander::{Bystander, end_of};
use crate::harness::{Case, Setup, TestNode, TestRuntime, case, frame};
use anypea::{
    ConnectError, DisconnectReason, Disconnected, Peer, Writing, bytes::Bytes,
    codec::LengthDelimited, runtime::Stream,
};
use futures::{AsyncReadExt, AsyncWriteExt, TryStreamExt, future::join_all};
use std::{io, time::Duration};

pub fn cases() -> Vec<Case> {
    vec![
        case(a_handshake_that_trickles_in_times_out),
        case(a_frame_that_trickles_in_is_idle),
        case(a_claim_of_four_gigabytes_in_the_handshake_is_refused),
        case(silent_strangers_are_cleared_away),
        case(callers_that_leave_at_once_leave_nothing),
        case(a_peer_that_never_reads_is_cut),
        case(a_peer_that_never_reads_holds_no_broadcast_up),
        case(a_peer_that_never_closes_is_released),
        case(a_peer_that_never_stops_sending_is_released),
        case(a_reset_during_the_handshake_is_named),
        case(a_reset_during_on_connect_is_named),
        case(a_reset_during_a_handler_is_named),
        case(a_reset_during_on_disconnect_keeps_the_first_reason),
        case(a_reset_during_the_flush_tells_what_was_lost),
        case(a_reset_of_an_idle_connection_is_named),
    ]
}

/// Connects, and returns both ends.
async fn raw_peer(rt: &TestRuntime, node: &TestNode) -> (Stream, Peer) {
    let raw = rt.dial_raw(node.addr()).await;
    let from = raw.socket().local_addr().unwrap();
    rt.until("it is connected", || node.is_connected(from)).await;
    let peer = node.peer(from).unwrap();
    (raw, peer)
}

fn reset(raw: Stream) {
    raw.socket().abort();
    drop(raw);
}

/// Writes byte after byte, until that fails.
async fn trickle(rt: &TestRuntime, raw: &mut Stream) {
    while raw.write_all(&[1]).await.is_ok() {
        rt.sleep(Duration::from_millis(2)).await;
    }
}

/// A node whose handshake is one frame in each direction, of at most 100 bytes.
fn asking(rt: &TestRuntime) -> Setup {
    rt.setup().handshake(|node, mut conn| async move {
        use futures::SinkExt;
        node.note("asks");
        let mut framed = conn.framed(LengthDelimited::new(100));
        framed.send("who are you?".into()).await?;
        framed.try_next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        drop(framed);
        Ok(conn)
    })
}

/// A peer that answers, after which the node knows it.
async fn honest_peer(rt: &TestRuntime, node: &TestNode) -> Stream {
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&frame("it's me")).await.unwrap();
    let from = raw.socket().local_addr().unwrap();
    rt.until("the honest one is connected", || node.is_connected(from)).await;
    raw
}

async fn a_handshake_that_trickles_in_times_out(rt: &TestRuntime) {
    let limit = Duration::from_millis(60);
    let node = asking(rt).knobs(|knobs| knobs.handshake_timeout = limit).start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&[0, 0, 0, 100]).await.unwrap();
    rt.within("the peer notices", trickle(rt, &mut raw)).await;
    assert_eq!(node.heuristics().handshake_timeouts, 1);
    assert_eq!((node.num_connects(), node.num_connecting()), (0, 0));
    honest_peer(rt, &node).await;
}

async fn a_frame_that_trickles_in_is_idle(rt: &TestRuntime) {
    let limit = Duration::from_millis(60);
    let node = rt.setup().knobs(|knobs| knobs.idle_timeout = Some(limit)).start().await;
    let (mut raw, peer) = raw_peer(rt, &node).await;
    // The reset may come at the very first byte.
    let _ = raw.write_all(&[0, 1, 0, 0]).await;
    rt.within("the peer notices", trickle(rt, &mut raw)).await;
    let reason = end_of(rt, &peer).await;
    assert!(matches!(reason, DisconnectReason::Idle), "{reason}");
    assert_eq!(node.heuristics().idle_timeouts, 1);
}

async fn a_claim_of_four_gigabytes_in_the_handshake_is_refused(rt: &TestRuntime) {
    let node = asking(rt).start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&[255; 8]).await.unwrap();
    rt.until("the handshake has failed", || node.heuristics().handshake_errors == 1).await;
    let _ = rt.within("the peer notices", raw.read_to_end(&mut Vec::new())).await;
    rt.until("it is given up", || node.num_connecting() == 0).await;
    assert_eq!(node.num_connects(), 0);
    honest_peer(rt, &node).await;
    // A node that dials is no less careful.
    let mut listener = rt.listen_raw().await;
    let (task, addr) = (node.clone(), listener.addr);
    let dial = rt.spawn(async move { task.connect(addr).await });
    let mut stream = listener.accept().await;
    stream.write_all(&[255; 8]).await.unwrap();
    let error = dial.await.unwrap_err();
    let ConnectError::Handshake { error, .. } = &error else { panic!("{error}") };
    assert!(error.to_string().contains("4294967295"), "{error}");
}

async fn silent_strangers_are_cleared_away(rt: &TestRuntime) {
    let node = asking(rt)
        .config(|config| config.max_inbound_setups = 4)
        .knobs(|knobs| knobs.handshake_timeout = Duration::from_millis(30));
    let node = node.start().await;
    let strangers = join_all((0..20).map(|_| rt.dial_raw(node.addr()))).await;
    // They fill the budget again and again; whoever answers gets through all the same.
    let mut honest = honest_peer(rt, &node).await;
    rt.until("all are cleared away", || {
        assert!(node.num_connecting() <= 4);
        node.heuristics().handshake_timeouts == 20
    })
    .await;
    assert!(node.heuristics().rejected_budget > 0);
    honest.write_all(&frame("hello")).await.unwrap();
    rt.until("the message has come", || node.messages() == ["hello"]).await;
    drop(strangers);
}

async fn callers_that_leave_at_once_leave_nothing(rt: &TestRuntime) {
    let node = rt.setup().config(|config| config.max_connections = 1_000);
    let node = node.config(|config| config.max_inbound = 900).start().await;
    let bystander = Bystander::of(rt, &node).await;
    for i in 0..300 {
        let mut raw = rt.dial_raw(node.addr()).await;
        match i % 3 {
            0 => drop(raw),
            1 => reset(raw),
            _ => raw.close().await.unwrap(),
        }
    }
    rt.until("they are gone", || node.num_connected() == 1 && node.num_connecting() == 0).await;
    // Not all have come far enough to be greeted, but whoever was is seen off.
    assert_eq!(node.num_connects(), node.reasons().len() + 1);
    bystander.is_unharmed(rt, &node).await;
}

/// A node that has queued more than the kernel takes for a peer that doesn't read.
async fn full_of(rt: &TestRuntime, setup: Setup) -> (TestNode, Bystander, Stream, Peer) {
    let node = setup.start().await;
    let bystander = Bystander::of(rt, &node).await;
    let (raw, peer) = raw_peer(rt, &node).await;
    node.send_encoded(&peer, Bytes::from_static(&[0; 32 * 1024 * 1024])).unwrap();
    rt.until("it is being sent", || peer.stats().bytes_sent > 0).await;
    (node, bystander, raw, peer)
}

async fn a_peer_that_never_reads_is_cut(rt: &TestRuntime) {
    let limit = Duration::from_millis(100);
    let setup = rt.setup().knobs(|knobs| knobs.write_timeout = limit);
    let (node, bystander, raw, peer) = full_of(rt, setup).await;
    let reason = end_of(rt, &peer).await;
    assert!(matches!(reason, DisconnectReason::WriteTimedOut), "{reason}");
    assert_eq!(node.heuristics().write_timeouts, 1);
    drop(raw);
    bystander.is_unharmed(rt, &node).await;
}

async fn a_peer_that_never_reads_holds_no_broadcast_up(rt: &TestRuntime) {
    let setup = rt.setup().knobs(|knobs| knobs.queue_bytes = 1024 * 1024);
    let (node, bystander, raw, peer) = full_of(rt, setup).await;
    for i in 0..100 {
        let message = Bytes::from(format!("to all: {i}"));
        let answers = node.broadcast(message.clone());
        for (to, answer) in answers {
            assert_eq!(to == peer, answer.is_err());
        }
        rt.until("the others have it", || bystander.node().messages().contains(&message)).await;
    }
    reset(raw);
    bystander.is_unharmed(rt, &node).await;
}

async fn a_peer_that_never_closes_is_released(rt: &TestRuntime) {
    let quiet = Duration::from_millis(50);
    let node = rt.setup().config(|config| config.linger_quiet = quiet).start().await;
    let bystander = Bystander::of(rt, &node).await;
    let (mut raw, peer) = raw_peer(rt, &node).await;
    node.unicast(&peer, "farewell".into()).unwrap();
    let ended = rt.within("the end", peer.disconnect()).await;
    assert!(matches!(ended, Disconnected::Ended(DisconnectReason::User)), "{ended:?}");
    let mut received = Vec::new();
    raw.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, frame("farewell"));
    bystander.is_unharmed(rt, &node).await;
}

async fn a_peer_that_never_stops_sending_is_released(rt: &TestRuntime) {
    let limit = Duration::from_millis(100);
    let node = rt.setup().config(|config| config.close_timeout = limit).start().await;
    let bystander = Bystander::of(rt, &node).await;
    let (mut raw, peer) = raw_peer(rt, &node).await;
    let sends = rt.spawn(async move { while raw.write_all(&frame([0; 1_000])).await.is_ok() {} });
    rt.until("it is sending", || peer.stats().bytes_received > 0).await;
    let ended = rt.within("the end", peer.disconnect()).await;
    assert!(matches!(ended, Disconnected::Ended(DisconnectReason::User)), "{ended:?}");
    rt.within("the peer notices", sends).await;
    bystander.is_unharmed(rt, &node).await;
}

async fn a_reset_during_the_handshake_is_named(rt: &TestRuntime) {
    let node = asking(rt).start().await;
    let raw = rt.dial_raw(node.addr()).await;
    rt.until("the handshake has begun", || node.has_noted("asks")).await;
    reset(raw);
    rt.until("the handshake has failed", || node.heuristics().handshake_errors == 1).await;
    rt.until("it is given up", || node.num_connecting() == 0).await;
    assert!(node.num_connects() == 0 && node.reasons().is_empty());
    honest_peer(rt, &node).await;
}

/// Goes on when the test has noted "go on".
async fn wait(node: &TestNode, what: &'static str) {
    node.note(what);
    while !node.has_noted("go on") {
        node.sleep(Duration::from_millis(1)).await;
    }
}

async fn a_reset_during_on_connect_is_named(rt: &TestRuntime) {
    let node = rt.setup().on_connect(|node, _| async move { wait(&node, "greets").await });
    let node = node.start().await;
    let (raw, peer) = raw_peer(rt, &node).await;
    rt.until("on_connect runs", || node.has_noted("greets")).await;
    reset(raw);
    node.note("go on");
    let reason = end_of(rt, &peer).await;
    assert!(matches!(reason, DisconnectReason::PeerReset), "{reason}");
    Bystander::of(rt, &node).await;
}

async fn a_reset_during_a_handler_is_named(rt: &TestRuntime) {
    let node = rt.setup().on_message(|node, _, _| async move {
        wait(&node, "handles").await;
        Ok(())
    });
    let node = node.start().await;
    let (mut raw, peer) = raw_peer(rt, &node).await;
    raw.write_all(&frame("one")).await.unwrap();
    rt.until("the handler runs", || node.has_noted("handles")).await;
    reset(raw);
    // What is sent meanwhile is refused or lost, but nothing else.
    let _ = node.unicast(&peer, "into the void".into());
    node.note("go on");
    let reason = end_of(rt, &peer).await;
    assert!(matches!(reason, DisconnectReason::PeerReset), "{reason}");
    assert_eq!(node.messages(), ["one"], "a handler that runs is not interrupted");
    Bystander::of(rt, &node).await;
}

async fn a_reset_during_on_disconnect_keeps_the_first_reason(rt: &TestRuntime) {
    let node = rt.setup().on_disconnect(|node, peer, _| async move {
        wait(&node, "sees off").await;
        let _ = node.unicast(&peer, "last words".into());
    });
    let node = node.start().await;
    let (mut raw, peer) = raw_peer(rt, &node).await;
    raw.close().await.unwrap();
    rt.until("on_disconnect runs", || node.has_noted("sees off")).await;
    reset(raw);
    node.note("go on");
    match end_of(rt, &peer).await {
        DisconnectReason::PeerClosed => {}
        // The last words didn't get there.
        DisconnectReason::LingerExpired { undelivered_bytes } => {
            assert_eq!(undelivered_bytes, frame("last words").len());
        }
        reason => panic!("{reason}"),
    }
    assert!(matches!(node.reasons()[..], [DisconnectReason::PeerClosed]));
    Bystander::of(rt, &node).await;
}

async fn a_reset_during_the_flush_tells_what_was_lost(rt: &TestRuntime) {
    let (node, bystander, raw, peer) = full_of(rt, rt.setup()).await;
    let end = peer.disconnect();
    rt.until("on_disconnect is over", || node.unicast(&peer, "late".into()).is_err()).await;
    reset(raw);
    match rt.within("the end", end).await {
        Disconnected::Ended(DisconnectReason::LingerExpired { undelivered_bytes }) => {
            assert!(undelivered_bytes > 0);
        }
        ended => panic!("{ended:?}"),
    }
    assert_eq!(node.heuristics().lingers_expired, 1);
    bystander.is_unharmed(rt, &node).await;
}

async fn a_reset_of_an_idle_connection_is_named(rt: &TestRuntime) {
    let node = rt.start().await;
    let bystander = Bystander::of(rt, &node).await;
    let (raw, peer) = raw_peer(rt, &node).await;
    reset(raw);
    let reason = end_of(rt, &peer).await;
    assert!(matches!(reason, DisconnectReason::PeerReset), "{reason}");
    bystander.is_unharmed(rt, &node).await;
}
