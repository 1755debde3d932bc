//! A panic in any hook or codec ends one connection, and nothing else.

use crate::harness::{Case, ON_PURPOSE, Setup, TestRuntime, case, frame, meet};
use anypea::{
    ConnectError, DisconnectReason, Hook, Peer, Writing, bytes::BytesMut, runtime::ConnectOptions,
};
use futures::{AsyncReadExt, AsyncWriteExt};
use std::panic::panic_any;

pub fn cases() -> Vec<Case> {
    vec![
        case(a_panic_in_admit_rejects_the_connection),
        case(a_panic_in_a_handshake_rejects_the_connection),
        case(a_panic_in_on_connect_ends_the_connection),
        case(a_panic_in_process_message_ends_the_connection),
        case(a_panic_in_on_disconnect_is_survived),
        case(a_panic_in_a_decoder_ends_the_connection),
        case(a_panic_in_making_a_decoder_ends_the_connection),
        case(a_panic_in_making_an_encoder_rejects_the_connection),
        case(a_panic_in_a_spawned_task_is_survived),
    ]
}

fn panic() -> ! {
    panic_any(ON_PURPOSE)
}

/// Whether it is the connection on which something is to go wrong.
fn is_first(peer: &Peer) -> bool {
    peer.id() == 1
}

/// Starts a node on whose first connection something panics, makes that and a second connection,
/// and checks that the second works. Returns why the first ended.
async fn survives(rt: &TestRuntime, node: Setup, expected: u64) -> Option<DisconnectReason> {
    rt.expect_hook_panics(expected);
    let node = node.start().await;
    let mut victim = rt.dial_raw(node.addr()).await;
    // The node may have hung up already.
    let _ = victim.write_all(&frame("go")).await;
    let _ = victim.close().await;
    let _ = rt.within("the end", victim.read_to_end(&mut Vec::new())).await;
    rt.until("it is noticed", || node.heuristics().hook_panics == expected).await;
    rt.until("it is over", || node.num_connected() + node.num_connecting() == 0).await;
    let reasons = node.reasons();
    assert!(reasons.len() <= 1);
    let other = rt.start().await;
    let (peer, back) = meet(rt, &other, &node).await;
    other.unicast(&peer, "works".into()).unwrap();
    rt.until("the other is heard", || node.messages().iter().any(|m| m == "works")).await;
    node.unicast(&back, "works".into()).unwrap();
    rt.until("the other hears", || other.messages() == ["works"]).await;
    reasons.into_iter().next()
}

async fn a_panic_in_admit_rejects_the_connection(rt: &TestRuntime) {
    let node = rt.setup().admit(|node, _, _| {
        if node.heuristics().hook_panics == 0 {
            panic()
        }
        true
    });
    assert!(survives(rt, node, 1).await.is_none());
}

async fn a_panic_in_a_handshake_rejects_the_connection(rt: &TestRuntime) {
    let node = rt.setup().handshake(|_, conn| async move {
        if is_first(conn.peer()) {
            panic()
        }
        Ok(conn)
    });
    assert!(survives(rt, node, 1).await.is_none());
    // And a dial.
    rt.expect_hook_panics(2);
    let node = rt.setup().handshake(|_, _| async move { panic() }).start().await;
    let other = rt.start().await;
    let dialed = node.connect(other.addr()).await;
    assert!(matches!(dialed, Err(ConnectError::Panicked(_))), "{dialed:?}");
}

async fn a_panic_in_on_connect_ends_the_connection(rt: &TestRuntime) {
    let node = rt.setup().on_connect(|_, peer| async move {
        if is_first(&peer) {
            panic()
        }
    });
    let reason = survives(rt, node, 1).await;
    assert!(matches!(reason, Some(DisconnectReason::Panicked(Hook::OnConnect))), "{reason:?}");
}

async fn a_panic_in_process_message_ends_the_connection(rt: &TestRuntime) {
    let node = rt.setup().on_message(|node, peer, _| async move {
        if is_first(&peer) {
            node.sleep(std::time::Duration::from_millis(1)).await;
            panic()
        }
        Ok(())
    });
    let reason = survives(rt, node, 1).await;
    let expected = matches!(reason, Some(DisconnectReason::Panicked(Hook::ProcessMessage)));
    assert!(expected, "{reason:?}");
}

async fn a_panic_in_on_disconnect_is_survived(rt: &TestRuntime) {
    let node = rt.setup().on_disconnect(|_, peer, _| async move {
        if is_first(&peer) {
            panic()
        }
    });
    let reason = survives(rt, node, 1).await;
    assert!(matches!(reason, Some(DisconnectReason::PeerClosed)), "{reason:?}");
}

async fn a_panic_in_a_decoder_ends_the_connection(rt: &TestRuntime) {
    let node = rt.setup().decoder(|_, peer| {
        let mut frames = anypea::codec::LengthDelimited::new(100);
        move |src: &mut BytesMut| {
            if is_first(&peer) && !src.is_empty() {
                panic()
            }
            anypea::asynchronous_codec::Decoder::decode(&mut frames, src)
        }
    });
    let reason = survives(rt, node, 1).await;
    assert!(matches!(reason, Some(DisconnectReason::Panicked(Hook::Decoder))), "{reason:?}");
}

async fn a_panic_in_making_a_decoder_ends_the_connection(rt: &TestRuntime) {
    let node = rt.setup().without_writing().decoder(|_, peer| {
        if is_first(&peer) {
            panic()
        }
        |_: &mut BytesMut| Ok(None)
    });
    rt.expect_hook_panics(1);
    let node = node.start().await;
    // The node may reset it before the dial has looked at it.
    let _raw = rt.try_dial_raw(node.addr(), &ConnectOptions::default()).await;
    rt.until("the connection has ended", || node.reasons().len() == 1).await;
    let reasons = node.reasons();
    assert!(matches!(reasons[0], DisconnectReason::Panicked(Hook::Decoder)), "{reasons:?}");
}

async fn a_panic_in_making_an_encoder_rejects_the_connection(rt: &TestRuntime) {
    let node = rt.setup().without_reading().encoder(|_, peer| {
        if is_first(&peer) {
            panic()
        }
        |_, _: &mut BytesMut| Ok(())
    });
    rt.expect_hook_panics(1);
    let node = node.start().await;
    let other = rt.start().await;
    let dialed = node.connect(other.addr()).await;
    assert!(matches!(dialed, Err(ConnectError::Panicked(_))), "{dialed:?}");
    assert_eq!((node.num_connected(), node.num_connecting(), node.seen().len()), (0, 0, 0));
    node.connect(other.addr()).await.unwrap();
}

async fn a_panic_in_a_spawned_task_is_survived(rt: &TestRuntime) {
    rt.expect_hook_panics(1);
    let node = rt.start().await;
    let task = node.spawn(async { panic() });
    assert!(rt.within("the task", task).await.is_err());
    rt.until("it is counted", || node.heuristics().hook_panics == 1).await;
    assert_eq!(node.spawn(async { 42 }).await.unwrap(), 42);
}
