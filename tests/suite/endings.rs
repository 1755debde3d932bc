//! How connections end: by whom, in which order, and what is still said.

use crate::harness::{Case, Seen, TestNode, TestRuntime, case, frame, meet};
use anypea::{
    ConnectError, DisconnectReason, Disconnected, Hook, SendError, Writing, bytes::Bytes,
    futures_io::AsyncRead,
};
use futures::{AsyncReadExt, AsyncWriteExt, future::pending};
use std::{io, time::Duration};

pub fn cases() -> Vec<Case> {
    vec![
        case(a_peer_that_closes_is_named),
        case(a_frame_cut_short_is_named),
        case(a_reset_is_named),
        case(a_half_closed_peer_gets_its_replies),
        case(on_connect_is_over_before_the_first_message),
        case(who_is_seen_off_has_been_greeted),
        case(on_disconnect_runs_once_though_many_causes_come_together),
        case(an_address_is_taken_until_on_disconnect_is_over),
        case(last_words_are_sent_after_the_peers_fin),
        case(last_words_are_sent_after_our_disconnect),
        case(last_words_are_sent_after_a_shut_down),
        case(last_words_are_sent_after_a_handler_error),
        case(last_words_after_a_reset_are_refused),
        case(a_fin_is_sent_with_writing),
        case(a_fin_is_sent_without_writing),
        case(a_fin_answers_a_fin_without_any_protocol),
        case(a_disconnect_drops_the_running_handler),
        case(a_disconnect_drops_a_running_on_connect),
        case(what_comes_in_after_a_disconnect_is_discarded),
        case(disconnect_now_resets),
        case(a_disconnect_from_its_own_hook_does_not_deadlock),
        case(a_disconnect_from_another_connections_hook_waits),
        case(a_disconnect_of_nobody_says_so),
        case(a_second_disconnect_tells_the_first_reason),
        case(closed_waits_without_asking),
        case(an_on_connect_that_hangs_is_cut),
        case(an_on_disconnect_that_hangs_is_cut),
        case(a_failed_write_ends_sending_only),
    ]
}

async fn until_ended(rt: &TestRuntime, node: &TestNode) -> DisconnectReason {
    rt.until("the connection has ended", || node.num_connected() == 0).await;
    rt.until("on_disconnect was called", || !node.reasons().is_empty()).await;
    let mut reasons = node.reasons();
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    reasons.remove(0)
}

/// Reads to the end of the stream.
async fn read_all(rt: &TestRuntime, from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    rt.within("the end of the stream", from.read_to_end(&mut read)).await?;
    Ok(read)
}

async fn a_peer_that_closes_is_named(rt: &TestRuntime) {
    let node = rt.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&frame("whole")).await.unwrap();
    raw.close().await.unwrap();
    let reason = until_ended(rt, &node).await;
    assert!(matches!(reason, DisconnectReason::PeerClosed), "{reason}");
    assert_eq!(node.messages(), ["whole"]);
}

async fn a_frame_cut_short_is_named(rt: &TestRuntime) {
    let node = rt.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&frame("whole")).await.unwrap();
    raw.write_all(&frame("cut short")[..7]).await.unwrap();
    raw.close().await.unwrap();
    let reason = until_ended(rt, &node).await;
    assert!(matches!(reason, DisconnectReason::Truncated { bytes: 7 }), "{reason}");
    assert_eq!(node.messages(), ["whole"]);
}

async fn a_reset_is_named(rt: &TestRuntime) {
    let node = rt.start().await;
    let raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    raw.socket().abort();
    drop(raw);
    let reason = until_ended(rt, &node).await;
    assert!(matches!(reason, DisconnectReason::PeerReset), "{reason}");
    assert!(matches!(peer.disconnect_reason(), Some(DisconnectReason::PeerReset)));
}

async fn a_half_closed_peer_gets_its_replies(rt: &TestRuntime) {
    let node = rt.setup().on_message(|node, peer, message| async move {
        node.sleep(Duration::from_millis(1)).await;
        node.unicast(&peer, message).unwrap();
        Ok(())
    });
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let frames: Vec<_> = (0..100u32).flat_map(|i| frame(i.to_be_bytes())).collect();
    raw.write_all(&frames).await.unwrap();
    raw.close().await.unwrap();
    assert!(read_all(rt, &mut raw).await.unwrap() == frames, "other replies");
    let reason = until_ended(rt, &node).await;
    assert!(matches!(reason, DisconnectReason::PeerClosed), "{reason}");
}

async fn on_connect_is_over_before_the_first_message(rt: &TestRuntime) {
    let node = rt.setup().on_connect(|node, peer| async move {
        assert!(node.is_connected(peer.addr()), "it is registered");
        node.sleep(Duration::from_millis(20)).await;
        node.unicast(&peer, "welcome".into()).unwrap();
        node.note("greeted");
    });
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&frame("eager")).await.unwrap();
    raw.close().await.unwrap();
    assert_eq!(read_all(rt, &mut raw).await.unwrap(), frame("welcome"));
    until_ended(rt, &node).await;
    let seen = node.seen();
    let order = matches!(
        &seen[..],
        [Seen::Connected(1), Seen::Note("greeted"), Seen::Message(1, _), Seen::Disconnected(1, _)]
    );
    assert!(order, "{seen:?}");
}

async fn who_is_seen_off_has_been_greeted(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    for i in 1..=20 {
        // The end is asked for before the connection's tasks have run, as often as not.
        let peer = alice.connect(bob.addr()).await.unwrap();
        let end = if i % 2 == 0 { peer.disconnect() } else { peer.disconnect_now() };
        rt.within("the end", end).await;
        assert_eq!((alice.num_connects(), alice.reasons().len()), (i, i));
    }
}

async fn on_disconnect_runs_once_though_many_causes_come_together(rt: &TestRuntime) {
    let node = rt.setup().on_message(|_, _, _| async move { Err(io::Error::other("refused")) });
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    raw.write_all(&frame("refuse me")).await.unwrap();
    drop(raw);
    let ends = [peer.disconnect(), node.disconnect(peer.addr()), peer.disconnect_now()];
    let shut_down = node.shut_down();
    for end in ends {
        rt.within("the disconnects", end).await;
    }
    rt.within("the shut-down", shut_down).await;
    assert_eq!(node.reasons().len(), 1);
    assert!(matches!(node.seen().last(), Some(Seen::Disconnected(..))));
}

async fn an_address_is_taken_until_on_disconnect_is_over(rt: &TestRuntime) {
    let bob = rt.start().await;
    let alice = rt.setup().on_disconnect(|node, peer, _| async move {
        if peer.id() != 1 {
            return;
        }
        assert!(node.is_connected(peer.addr()) && !peer.is_connected());
        let again = node.connect(peer.addr()).await;
        assert!(matches!(again, Err(ConnectError::AlreadyConnected(_))), "{again:?}");
        node.sleep(Duration::from_millis(20)).await;
        node.note("over");
    });
    let alice = alice.start().await;
    let (peer, _) = meet(rt, &alice, &bob).await;
    rt.within("the disconnect", peer.disconnect()).await;
    assert!(alice.has_noted("over"));
    assert!(!alice.is_connected(peer.addr()));
    let again = alice.connect(peer.addr()).await.unwrap();
    assert_ne!(again.id(), peer.id());
}

/// A node whose last words are "farewell".
async fn polite(rt: &TestRuntime) -> TestNode {
    let node = rt.setup().on_message(|node, _, message| async move {
        match &message[..] {
            b"hang" => {
                node.note("hangs");
                pending().await
            }
            _ => Err(io::Error::other("refused")),
        }
    });
    let node = node.on_disconnect(|node, peer, _| async move {
        node.sleep(Duration::from_millis(5)).await;
        node.unicast(&peer, "farewell".into()).unwrap();
    });
    node.start().await
}

async fn last_words_are_sent_after_the_peers_fin(rt: &TestRuntime) {
    let node = polite(rt).await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.close().await.unwrap();
    assert_eq!(read_all(rt, &mut raw).await.unwrap(), frame("farewell"));
}

async fn last_words_are_sent_after_our_disconnect(rt: &TestRuntime) {
    let node = polite(rt).await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&frame("hang")).await.unwrap();
    rt.until("the handler hangs", || node.has_noted("hangs")).await;
    node.only_peer(rt).await.disconnect();
    assert_eq!(read_all(rt, &mut raw).await.unwrap(), frame("farewell"));
}

async fn last_words_are_sent_after_a_shut_down(rt: &TestRuntime) {
    let node = polite(rt).await;
    let mut raw = rt.dial_raw(node.addr()).await;
    node.only_peer(rt).await;
    let shut_down = node.shut_down();
    assert_eq!(read_all(rt, &mut raw).await.unwrap(), frame("farewell"));
    drop(raw);
    rt.within("the shut-down", shut_down).await;
}

async fn last_words_are_sent_after_a_handler_error(rt: &TestRuntime) {
    let node = polite(rt).await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&frame("refuse me")).await.unwrap();
    assert_eq!(read_all(rt, &mut raw).await.unwrap(), frame("farewell"));
    drop(raw);
    let reason = until_ended(rt, &node).await;
    let DisconnectReason::HandlerError(error) = reason else { panic!("{reason}") };
    assert_eq!(error.to_string(), "refused");
}

async fn last_words_after_a_reset_are_refused(rt: &TestRuntime) {
    let node = rt.setup().on_disconnect(|node, peer, _| async move {
        let refused = node.unicast(&peer, "farewell".into());
        assert!(matches!(&refused, Err(SendError::NotConnected(m)) if m == "farewell"));
        let refused = node.send(&peer, "farewell".into()).await;
        assert!(matches!(&refused, Err(SendError::NotConnected(m)) if m == "farewell"));
        node.note("refused");
    });
    let node = node.start().await;
    let _raw = rt.dial_raw(node.addr()).await;
    rt.within("the end", node.only_peer(rt).await.disconnect_now()).await;
    assert!(node.has_noted("refused"));
}

async fn a_fin_is_sent_with_writing(rt: &TestRuntime) {
    let node = rt.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let end = node.only_peer(rt).await.disconnect();
    assert_eq!(read_all(rt, &mut raw).await.unwrap(), b"");
    raw.close().await.unwrap();
    let ended = rt.within("the disconnect", end).await;
    assert!(matches!(ended, Disconnected::Ended(DisconnectReason::User)), "{ended:?}");
}

async fn a_fin_is_sent_without_writing(rt: &TestRuntime) {
    let node = rt.setup().without_writing().start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let end = node.only_peer(rt).await.disconnect();
    assert_eq!(read_all(rt, &mut raw).await.unwrap(), b"");
    raw.close().await.unwrap();
    rt.within("the disconnect", end).await;
}

async fn a_fin_answers_a_fin_without_any_protocol(rt: &TestRuntime) {
    let config = anypea::Config { listening_addr: Some(rt.localhost()), ..Default::default() };
    let node = rt.node(config);
    let mut raw = rt.dial_raw(node.start_listening().await.unwrap()).await;
    raw.write_all(b"whatever this is").await.unwrap();
    raw.close().await.unwrap();
    assert_eq!(read_all(rt, &mut raw).await.unwrap(), b"");
    rt.until("the connection has ended", || node.num_connected() == 0).await;
    assert_eq!(node.stats().bytes_received, 16);
}

/// Notes, when dropped, that it was.
struct Dropped(TestNode);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.note("dropped");
    }
}

fn assert_dropped_before_on_disconnect(node: &TestNode) {
    let seen = node.seen();
    let end = &seen[seen.len() - 2..];
    assert!(matches!(end, [Seen::Note("dropped"), Seen::Disconnected(..)]), "{seen:?}");
}

async fn a_disconnect_drops_the_running_handler(rt: &TestRuntime) {
    let node = rt.setup().on_message(|node, _, _| async move {
        let _dropped = Dropped(node.clone());
        node.note("running");
        pending().await
    });
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&frame("hang")).await.unwrap();
    rt.until("the handler runs", || node.has_noted("running")).await;
    let end = node.only_peer(rt).await.disconnect();
    drop(raw);
    rt.within("the disconnect", end).await;
    assert_dropped_before_on_disconnect(&node);
}

async fn a_disconnect_drops_a_running_on_connect(rt: &TestRuntime) {
    let node = rt.setup().on_connect(|node, _| async move {
        let _dropped = Dropped(node.clone());
        node.note("running");
        pending().await
    });
    let node = node.start().await;
    let raw = rt.dial_raw(node.addr()).await;
    rt.until("on_connect runs", || node.has_noted("running")).await;
    let end = node.only_peer(rt).await.disconnect();
    drop(raw);
    rt.within("the disconnect", end).await;
    assert_dropped_before_on_disconnect(&node);
}

async fn what_comes_in_after_a_disconnect_is_discarded(rt: &TestRuntime) {
    let node = rt.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    let end = peer.disconnect();
    raw.write_all(&frame("too late")).await.unwrap();
    raw.close().await.unwrap();
    rt.within("the disconnect", end).await;
    assert_eq!(node.num_messages(), 0);
    assert_eq!(peer.stats().bytes_received, 12, "it was read all the same");
}

async fn disconnect_now_resets(rt: &TestRuntime) {
    let node = rt.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let ended = rt.within("the end", node.only_peer(rt).await.disconnect_now()).await;
    assert!(matches!(ended, Disconnected::Ended(DisconnectReason::UserNow)), "{ended:?}");
    let error = read_all(rt, &mut raw).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

async fn a_disconnect_from_its_own_hook_does_not_deadlock(rt: &TestRuntime) {
    let ask = |node: TestNode, addr| async move {
        let state = node.disconnect(addr).await;
        assert!(matches!(state, Disconnected::InProgress), "{state:?}");
        node.note("asked");
    };
    let node = rt.setup().on_message(move |node, peer, _| async move {
        ask(node, peer.addr()).await;
        Ok(())
    });
    let node = node.on_disconnect(move |node, peer, _| ask(node, peer.addr())).start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&frame("end it")).await.unwrap();
    assert_eq!(read_all(rt, &mut raw).await.unwrap(), b"");
    drop(raw);
    let reason = until_ended(rt, &node).await;
    assert!(matches!(reason, DisconnectReason::User), "{reason}");
    let asked = node.seen().iter().filter(|seen| matches!(seen, Seen::Note("asked"))).count();
    assert_eq!(asked, 2);
}

async fn a_disconnect_from_another_connections_hook_waits(rt: &TestRuntime) {
    let node = rt.setup().on_message(|node, peer, _| async move {
        let other = node.peers().into_iter().find(|other| *other != peer).unwrap();
        let ended = other.disconnect().await;
        assert!(matches!(ended, Disconnected::Ended(DisconnectReason::User)), "{ended:?}");
        node.note("waited");
        Ok(())
    });
    let node = node.start().await;
    let other = rt.dial_raw(node.addr()).await;
    let mut raw = rt.dial_raw(node.addr()).await;
    rt.until("both are connected", || node.num_connected() == 2).await;
    raw.write_all(&frame("end the other")).await.unwrap();
    rt.until("the other is ending", || node.peers().iter().any(|peer| !peer.is_connected())).await;
    drop(other);
    rt.until("the hook has waited", || node.has_noted("waited")).await;
    assert_eq!(node.num_connected(), 1);
}

async fn a_disconnect_of_nobody_says_so(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    for end in [alice.disconnect(bob.addr()), alice.disconnect_now(bob.addr())] {
        assert!(matches!(end.await, Disconnected::NotConnected));
    }
    // A peer of one node is nobody to another.
    let (peer, _) = meet(rt, &alice, &bob).await;
    assert!(matches!(bob.disconnect(&peer).await, Disconnected::NotConnected));
    assert!(peer.is_connected());
}

async fn a_second_disconnect_tells_the_first_reason(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    let (peer, _) = meet(rt, &alice, &bob).await;
    rt.within("the disconnect", peer.disconnect()).await;
    let again = peer.disconnect_now().await;
    assert!(matches!(again, Disconnected::Ended(DisconnectReason::User)), "{again:?}");
    assert!(matches!(alice.disconnect(peer.addr()).await, Disconnected::NotConnected));
}

async fn closed_waits_without_asking(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    let (peer, back) = meet(rt, &alice, &bob).await;
    let mut closed = peer.closed();
    assert!(futures::poll!(&mut closed).is_pending());
    assert!(peer.is_connected());
    back.disconnect();
    let ended = rt.within("the end", closed).await;
    assert!(matches!(ended, Disconnected::Ended(DisconnectReason::PeerClosed)), "{ended:?}");
}

async fn an_on_connect_that_hangs_is_cut(rt: &TestRuntime) {
    let node = rt.setup().knobs(|knobs| knobs.on_connect_timeout = Duration::from_millis(50));
    let node = node.on_connect(|_, _| pending()).start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let reason = until_ended(rt, &node).await;
    assert!(matches!(reason, DisconnectReason::TimedOut(Hook::OnConnect)), "{reason}");
    assert!(read_all(rt, &mut raw).await.is_err(), "it is reset");
    assert_eq!(node.heuristics().hook_timeouts, 1);
}

async fn an_on_disconnect_that_hangs_is_cut(rt: &TestRuntime) {
    let node = rt.setup().knobs(|knobs| knobs.on_disconnect_timeout = Duration::from_millis(50));
    let node = node.on_disconnect(|_, _, _| pending()).start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    node.unicast(&node.only_peer(rt).await, "queued".into()).unwrap();
    raw.close().await.unwrap();
    assert_eq!(read_all(rt, &mut raw).await.unwrap(), frame("queued"));
    let reason = until_ended(rt, &node).await;
    assert!(matches!(reason, DisconnectReason::PeerClosed), "{reason}");
    assert_eq!(node.heuristics().hook_timeouts, 1);
}

async fn a_failed_write_ends_sending_only(rt: &TestRuntime) {
    // The handler of the first message sends until that fails, and only then are the others
    // processed, which had arrived before.
    let node = rt.setup().on_message(|node, peer, message| async move {
        if message == "0" {
            let reply = Bytes::from_static(b"reply");
            while node.send(&peer, reply.clone()).await.is_ok() {
                node.sleep(Duration::from_millis(1)).await;
            }
            assert!(node.is_connected(peer.addr()));
            node.note("refused");
        }
        Ok(())
    });
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let frames: Vec<_> = (0..10).flat_map(|i| frame(i.to_string())).collect();
    raw.write_all(&frames).await.unwrap();
    drop(raw);
    let reason = until_ended(rt, &node).await;
    assert!(matches!(reason, DisconnectReason::PeerReset), "{reason}");
    assert!(node.has_noted("refused"));
    assert_eq!(node.num_messages(), 10);
}
