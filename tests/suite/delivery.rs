//! What was received, or queued, is not lost.

use crate::harness::{Case, Seen, TestNode, TestRuntime, case, frame, meet};
use anypea::{DisconnectReason, Disconnected, Writing, bytes::Bytes, runtime::Clock};
use futures::{
    AsyncReadExt, AsyncWriteExt,
    future::{join, pending},
};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        case(frames_before_the_fin_are_processed),
        case(frames_before_the_fin_are_processed_while_replying_to_a_closed_peer),
        case(queued_messages_are_received_after_a_disconnect),
        case(queued_messages_are_received_after_a_disconnect_while_the_peer_sends),
        case(queued_messages_are_received_after_a_shut_down),
        case(queued_messages_are_received_by_a_slow_handler),
        case(two_nodes_that_disconnect_at_once_lose_nothing),
        case(what_a_dead_peer_does_not_take_in_time_is_named_in_the_reason),
        case(a_slow_reader_gets_all_though_it_takes_longer_than_the_quiet_time),
        case(a_peer_that_never_stops_sending_is_released_at_the_close_timeout),
        case(a_delivery_tells_that_the_bytes_are_out),
        case(a_delivery_tells_that_the_bytes_will_never_be_out),
    ]
}

/// As many messages as other libraries were seen to lose.
const MANY: u32 = 3_000;

/// Message number `i`: 12 bytes, so that all of them fit into the buffers of a socket.
fn message(i: u32) -> Bytes {
    Bytes::copy_from_slice(format!("message {i:04}").as_bytes())
}

fn assert_has_all(node: &TestNode, count: u32) {
    let messages = node.messages();
    assert_eq!(messages.len(), count as usize);
    assert!(messages.iter().zip(0..).all(|(got, i)| *got == message(i)), "another order");
}

/// Ends without taking what is processed at the end as a proof: `on_disconnect` must come last.
fn assert_ended_last(node: &TestNode) {
    assert!(matches!(node.seen().last(), Some(Seen::Disconnected(..))));
    assert_eq!(node.reasons().len(), 1);
}

async fn frames_before_the_fin_are_processed(rt: &TestRuntime) {
    let node = rt.setup().on_message(|node, _, _| async move {
        node.sleep(Duration::from_millis(1)).await;
        Ok(())
    });
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let frames: Vec<_> = (0..MANY).flat_map(|i| frame(message(i))).collect();
    raw.write_all(&frames).await.unwrap();
    raw.close().await.unwrap();
    rt.until("the connection has ended", || !node.reasons().is_empty()).await;
    assert_has_all(&node, MANY);
    assert_ended_last(&node);
    assert!(matches!(node.reasons()[0], DisconnectReason::PeerClosed));
}

async fn frames_before_the_fin_are_processed_while_replying_to_a_closed_peer(rt: &TestRuntime) {
    let node = rt.setup().on_message(|node, peer, message| async move {
        node.sleep(Duration::from_millis(1)).await;
        // Sooner or later it fails: the peer is gone.
        let _ = node.unicast(&peer, message);
        Ok(())
    });
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let frames: Vec<_> = (0..MANY).flat_map(|i| frame(message(i))).collect();
    raw.write_all(&frames).await.unwrap();
    // Closed in both directions: the system answers our replies with a reset.
    drop(raw);
    rt.until("the connection has ended", || !node.reasons().is_empty()).await;
    assert_has_all(&node, MANY);
    assert_ended_last(&node);
}

async fn queued_messages_are_received_after_a_disconnect(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    let (peer, _) = meet(rt, &alice, &bob).await;
    for i in 0..MANY {
        alice.unicast(&peer, message(i)).unwrap();
    }
    let ended = rt.within("the disconnect", peer.disconnect()).await;
    assert!(matches!(ended, Disconnected::Ended(DisconnectReason::User)), "{ended:?}");
    rt.until("bob has seen the end", || !bob.reasons().is_empty()).await;
    assert_has_all(&bob, MANY);
    assert!(matches!(bob.reasons()[0], DisconnectReason::PeerClosed));
}

async fn queued_messages_are_received_after_a_disconnect_while_the_peer_sends(rt: &TestRuntime) {
    let alice = rt.start().await;
    let bob = rt.setup().knobs(|knobs| knobs.queue_bytes = 256 * 1024).start().await;
    let (to_bob, to_alice) = meet(rt, &alice, &bob).await;
    let chatter = rt.spawn({
        let bob = bob.clone();
        async move {
            let noise = Bytes::from(vec![7; 16 * 1024]);
            while bob.send(&to_alice, noise.clone()).await.is_ok() {}
        }
    });
    rt.until("alice hears bob", || alice.num_messages() > 10).await;
    for i in 0..MANY {
        alice.unicast(&to_bob, message(i)).unwrap();
    }
    let ended = rt.within("the disconnect", to_bob.disconnect()).await;
    assert!(matches!(ended, Disconnected::Ended(DisconnectReason::User)), "{ended:?}");
    rt.within("bob has fallen silent", chatter).await;
    rt.until("bob has seen the end", || !bob.reasons().is_empty()).await;
    assert_has_all(&bob, MANY);
}

async fn queued_messages_are_received_after_a_shut_down(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    let (peer, _) = meet(rt, &alice, &bob).await;
    for i in 0..MANY {
        alice.unicast(&peer, message(i)).unwrap();
    }
    rt.within("the shut-down", alice.shut_down()).await;
    rt.until("bob has seen the end", || !bob.reasons().is_empty()).await;
    assert_has_all(&bob, MANY);
}

async fn queued_messages_are_received_by_a_slow_handler(rt: &TestRuntime) {
    let alice = rt.start().await;
    let bob = rt.setup().on_message(|node, _, _| async move {
        node.sleep(Duration::from_millis(1)).await;
        Ok(())
    });
    let bob = bob.start().await;
    let (peer, _) = meet(rt, &alice, &bob).await;
    for i in 0..300 {
        alice.unicast(&peer, message(i)).unwrap();
    }
    rt.within("the disconnect", peer.disconnect()).await;
    rt.until("bob has seen the end", || !bob.reasons().is_empty()).await;
    assert_has_all(&bob, 300);
}

async fn two_nodes_that_disconnect_at_once_lose_nothing(rt: &TestRuntime) {
    const FRAMES: usize = 64;
    const FRAME_BYTES: usize = 64 * 1024;
    const BYTES: u64 = (FRAMES * (4 + FRAME_BYTES)) as u64;
    // Handlers that hang, so that the queues are full when both ends begin.
    let stuck = || {
        rt.setup().on_message(|_, _, _| pending()).config(|config| {
            config.socket.send_buffer_bytes = Some(64 * 1024);
            config.socket.recv_buffer_bytes = Some(64 * 1024);
        })
    };
    let (alice, bob) = (stuck().start().await, stuck().start().await);
    let (to_bob, to_alice) = meet(rt, &alice, &bob).await;
    let payload = Bytes::from(vec![7; FRAME_BYTES]);
    for _ in 0..FRAMES {
        alice.unicast(&to_bob, payload.clone()).unwrap();
        bob.unicast(&to_alice, payload.clone()).unwrap();
    }
    rt.until("nothing moves any more", || {
        [&to_bob, &to_alice].iter().all(|peer| peer.stats().messages_received == 1)
    })
    .await;
    assert!(to_bob.stats().queued_bytes > 0 && to_alice.stats().queued_bytes > 0);
    let both = join(to_bob.disconnect(), to_alice.disconnect());
    let (a, b) = rt.within("both disconnects", both).await;
    for ended in [a, b] {
        assert!(matches!(ended, Disconnected::Ended(DisconnectReason::User)), "{ended:?}");
    }
    for node in [&alice, &bob] {
        // What arrives after a disconnect is discarded, but it does arrive.
        let stats = node.stats();
        assert_eq!((stats.bytes_sent, stats.bytes_received), (BYTES, BYTES));
        assert_eq!(node.heuristics().lingers_expired, 0);
    }
}

async fn what_a_dead_peer_does_not_take_in_time_is_named_in_the_reason(rt: &TestRuntime) {
    let node = rt.setup().config(|config| {
        config.linger_quiet = Duration::from_millis(100);
        config.socket.send_buffer_bytes = Some(32 * 1024);
    });
    let node = node.start().await;
    let _raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    node.unicast(&peer, vec![7; 4 * 1024 * 1024].into()).unwrap();
    let ended = rt.within("the disconnect", peer.disconnect()).await;
    let Disconnected::Ended(DisconnectReason::LingerExpired { undelivered_bytes }) = ended else {
        panic!("{ended:?}")
    };
    assert_eq!(undelivered_bytes as u64, 4 * 1024 * 1024 + 4 - peer.stats().bytes_sent);
    assert_eq!(node.heuristics().lingers_expired, 1);
    assert!(matches!(node.reasons()[..], [DisconnectReason::User]));
}

async fn a_slow_reader_gets_all_though_it_takes_longer_than_the_quiet_time(rt: &TestRuntime) {
    let quiet = Duration::from_secs(1);
    let node = rt.setup().config(|config| {
        config.linger_quiet = quiet;
        config.socket.send_buffer_bytes = Some(32 * 1024);
    });
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    node.unicast(&peer, vec![7; 4 * 1024 * 1024].into()).unwrap();
    let start = rt.now();
    let end = peer.disconnect();
    let mut gulp = vec![0; 64 * 1024];
    let mut read = 0;
    loop {
        let count = rt.within("a gulp", raw.read(&mut gulp)).await.unwrap();
        read += count;
        if count == 0 {
            break;
        }
        // Far less than the quiet time, each time.
        rt.sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(read, 4 + 4 * 1024 * 1024);
    assert!(rt.now() - start > quiet, "it takes longer, all in all");
    drop(raw);
    let ended = rt.within("the disconnect", end).await;
    assert!(matches!(ended, Disconnected::Ended(DisconnectReason::User)), "{ended:?}");
}

async fn a_peer_that_never_stops_sending_is_released_at_the_close_timeout(rt: &TestRuntime) {
    let node = rt.setup().config(|config| config.close_timeout = Duration::from_millis(300));
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    let chatter = rt.spawn(async move {
        let noise = frame(vec![7; 1024]);
        while raw.write_all(&noise).await.is_ok() {}
    });
    rt.until("the node hears the peer", || node.num_messages() > 10).await;
    let ended = rt.within("the disconnect", peer.disconnect()).await;
    assert!(matches!(ended, Disconnected::Ended(DisconnectReason::User)), "{ended:?}");
    rt.within("the peer was cut off", chatter).await;
}

async fn a_delivery_tells_that_the_bytes_are_out(rt: &TestRuntime) {
    let node = rt.setup().config(|config| config.socket.send_buffer_bytes = Some(32 * 1024));
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    let small = node.unicast(&peer, "small".into()).unwrap();
    rt.within("the small message is out", small).await.unwrap();
    let mut read = [0; 9];
    raw.read_exact(&mut read).await.unwrap();
    assert_eq!(read[..], frame("small"));

    let mut big = node.unicast(&peer, vec![7; 4 * 1024 * 1024].into()).unwrap().into_owned();
    rt.until("the socket is full", || peer.stats().bytes_sent > 9).await;
    assert!(futures::poll!(&mut big).is_pending(), "more than a socket can hold");
    let reader = rt.spawn(async move {
        let mut read = vec![0; 4 * 1024 * 1024 + 4];
        raw.read_exact(&mut read).await.unwrap();
        raw
    });
    rt.within("the big message is out", big).await.unwrap();
    rt.within("the big message has arrived", reader).await;
}

async fn a_delivery_tells_that_the_bytes_will_never_be_out(rt: &TestRuntime) {
    let node = rt.setup().config(|config| config.socket.send_buffer_bytes = Some(32 * 1024));
    let node = node.start().await;
    let _raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    let big = node.unicast(&peer, vec![7; 4 * 1024 * 1024].into()).unwrap();
    let late = node.unicast(&peer, "late".into()).unwrap();
    peer.disconnect_now();
    assert!(rt.within("the big message is lost", big).await.is_err());
    assert!(rt.within("the late message is lost", late).await.is_err());
}
