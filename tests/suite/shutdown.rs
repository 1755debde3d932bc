//! After a shut-down, nothing of the node is left.

use crate::harness::{Case, Live, TestRuntime, case, frame, meet};
use anypea::{
    ConnectError, DisconnectReason, Disconnected, EnableError, ListenError, OnConnect, Reading,
    SendError, ShutDownState, Side, Writing, runtime::ListenOptions,
};
use futures::{
    AsyncReadExt, AsyncWriteExt,
    future::{join_all, pending, select},
};
use std::pin::pin;

pub fn cases() -> Vec<Case> {
    vec![
        case(a_shut_down_under_traffic_leaves_nothing),
        case(a_shut_down_can_be_asked_for_by_many),
        case(a_shut_down_from_any_hook_does_not_deadlock),
        case(a_shut_down_from_a_spawned_task_does_not_deadlock),
        case(a_node_that_was_never_used_shuts_down),
        case(a_shut_down_gives_up_dials),
        case(a_shut_down_gives_up_handshakes_with_strangers),
        case(a_shut_down_drops_spawned_tasks),
        case(a_shut_down_lets_a_hook_that_hangs_go),
        case(after_a_shut_down_every_call_says_so),
    ]
}

async fn a_shut_down_under_traffic_leaves_nothing(rt: &TestRuntime) {
    let node = rt.setup().on_message(|node, peer, message| async move {
        // Replies fail once the shut-down has begun.
        let _ = node.unicast(&peer, message);
        Ok(())
    });
    let node = node.start().await;
    let addr = node.addr();
    let weak = node.downgrade();
    let mut peers = Vec::new();
    for _ in 0..20 {
        let raw = rt.dial_raw(addr).await;
        peers.push(rt.spawn(async move {
            let (mut reader, mut writer) = raw.split();
            let write = async {
                let noise = frame([7; 1000]);
                while writer.write_all(&noise).await.is_ok() {}
            };
            let read = async {
                let mut scratch = vec![0; 16 * 1024];
                while matches!(reader.read(&mut scratch).await, Ok(1..)) {}
            };
            // At the node's FIN, it closes too. Reading comes first: writing is always ready, and
            // would use up all of the budget that tokio gives to a task.
            select(pin!(read), pin!(write)).await;
        }));
    }
    rt.until("all peers are talking", || {
        let peers = node.peers();
        peers.len() == 20 && peers.iter().all(|peer| peer.stats().messages_received > 10)
    })
    .await;
    let state = rt.within("the shut-down", node.shut_down()).await;
    assert_eq!(state, ShutDownState::Ended);
    assert_eq!((node.num_connected(), node.num_connecting()), (0, 0));
    let reasons = node.reasons();
    assert_eq!(reasons.len(), 20);
    assert!(reasons.iter().all(|reason| matches!(reason, DisconnectReason::Shutdown)));
    drop(node);
    rt.until("the user's type is released", || weak.upgrade().is_none()).await;
    rt.until_nothing_is_left().await;
    // The port is free.
    rt.listen_raw_with(addr, &ListenOptions::default()).await;
    join_all(peers).await;
}

async fn a_shut_down_can_be_asked_for_by_many(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    meet(rt, &alice, &bob).await;
    let many = (0..5).map(|_| {
        let alice = alice.clone();
        rt.spawn(async move { alice.shut_down().await })
    });
    for state in rt.within("all shut-downs", join_all(many.collect::<Vec<_>>())).await {
        assert_eq!(state, ShutDownState::Ended);
    }
    assert_eq!(alice.shut_down().await, ShutDownState::Ended);
    assert_eq!(alice.reasons().len(), 1);
}

async fn a_shut_down_from_any_hook_does_not_deadlock(rt: &TestRuntime) {
    for hook in ["handshake", "on_connect", "message", "on_disconnect"] {
        let node = rt.setup().handshake(move |node, conn| async move {
            if hook == "handshake" {
                node.note("here");
                assert_eq!(node.shut_down().await, ShutDownState::InProgress);
            }
            Ok(conn)
        });
        let node = node.on_connect(move |node, _| async move {
            if hook == "on_connect" {
                node.note("here");
                assert_eq!(node.shut_down().await, ShutDownState::InProgress);
            }
        });
        let node = node.on_message(move |node, _, _| async move {
            if hook == "message" {
                node.note("here");
                assert_eq!(node.shut_down().await, ShutDownState::InProgress);
            }
            Ok(())
        });
        let node = node.on_disconnect(move |node, _, _| async move {
            if hook == "on_disconnect" {
                node.note("here");
                assert_eq!(node.shut_down().await, ShutDownState::InProgress);
            }
        });
        let node = node.start().await;
        let mut raw = rt.dial_raw(node.addr()).await;
        // The node may be gone already.
        let _ = raw.write_all(&frame("go")).await;
        let _ = raw.close().await;
        rt.until("the hook has run", || node.has_noted("here")).await;
        let state = rt.within("the shut-down", node.shut_down()).await;
        assert_eq!(state, ShutDownState::Ended, "from {hook}");
    }
}

async fn a_shut_down_from_a_spawned_task_does_not_deadlock(rt: &TestRuntime) {
    let node = rt.start().await;
    let task = node.spawn({
        let node = node.clone();
        async move {
            let state = node.shut_down().await;
            node.note(if state == ShutDownState::InProgress { "in progress" } else { "over" });
        }
    });
    // It is dropped at its await, unless it was faster.
    let _ = rt.within("the task", task).await;
    rt.within("the shut-down", node.shut_down()).await;
    assert!(node.has_noted("in progress"));
}

async fn a_node_that_was_never_used_shuts_down(rt: &TestRuntime) {
    let node = rt.node(Default::default());
    assert_eq!(rt.within("the shut-down", node.shut_down()).await, ShutDownState::Ended);
    assert_eq!(rt.live(), Live::NOTHING);
}

async fn a_shut_down_gives_up_dials(rt: &TestRuntime) {
    let node = rt.setup().handshake(|node, _| async move {
        node.note("shakes hands");
        pending().await
    });
    let node = node.start().await;
    let silent = rt.listen_raw().await;
    let dial = rt.spawn({
        let (node, addr) = (node.clone(), silent.addr);
        async move { node.connect(addr).await }
    });
    rt.until("the handshake hangs", || node.has_noted("shakes hands")).await;
    rt.within("the shut-down", node.shut_down()).await;
    let outcome = rt.within("the dial", dial).await;
    assert!(matches!(outcome, Err(ConnectError::ShuttingDown(_))), "{outcome:?}");
    assert_eq!(node.reasons().len(), 0, "it was never registered");
}

async fn a_shut_down_gives_up_handshakes_with_strangers(rt: &TestRuntime) {
    let node = rt.setup().handshake(|_, _| pending()).start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    rt.until("the handshake hangs", || node.num_connecting() == 1).await;
    rt.within("the shut-down", node.shut_down()).await;
    rt.until_nothing_is_left().await;
    // The stranger sees an end, of whichever kind.
    let _ = rt.within("the end", raw.read(&mut [0])).await;
}

async fn a_shut_down_drops_spawned_tasks(rt: &TestRuntime) {
    let node = rt.start().await;
    let task = node.spawn(pending::<()>());
    let quick = node.spawn(async { 42 });
    assert_eq!(rt.within("the quick task", quick).await.unwrap(), 42);
    rt.within("the shut-down", node.shut_down()).await;
    assert!(rt.within("the task", task).await.is_err());
    rt.until_nothing_is_left().await;
}

async fn a_shut_down_lets_a_hook_that_hangs_go(rt: &TestRuntime) {
    let node = rt.setup().on_message(|_, _, _| pending()).start().await;
    let weak = node.downgrade();
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&frame("hang")).await.unwrap();
    let peer = node.only_peer(rt).await;
    rt.until("the handler runs", || peer.stats().messages_received == 1).await;
    let shut_down = node.shut_down();
    drop(raw);
    rt.within("the shut-down", shut_down).await;
    drop(node);
    // A handle to a former connection keeps only that.
    rt.until("the user's type is released", || weak.upgrade().is_none()).await;
    assert!(!peer.is_connected());
}

async fn after_a_shut_down_every_call_says_so(rt: &TestRuntime) {
    let (node, other) = (rt.start().await, rt.start().await);
    let (peer, _) = meet(rt, &node, &other).await;
    rt.within("the shut-down", node.shut_down()).await;

    let connected = node.connect(other.addr()).await;
    assert!(matches!(connected, Err(ConnectError::ShuttingDown(_))), "{connected:?}");
    let stream = rt.dial_raw(other.addr()).await;
    let adopted = node.adopt(stream, other.addr(), Side::Initiator).await;
    assert!(matches!(adopted, Err(ConnectError::ShuttingDown(_))), "{adopted:?}");
    let listening = node.start_listening().await;
    assert!(matches!(listening, Err(ListenError::ShuttingDown)), "{listening:?}");
    assert!(matches!(node.enable_on_connect(), Err(EnableError::ShuttingDown("OnConnect"))));
    assert!(matches!(node.enable_reading(), Err(EnableError::ShuttingDown("Reading"))));
    assert!(node.spawn(async {}).await.is_err());
    for sent in [node.unicast(&peer, "late".into()), node.unicast(peer.addr(), "late".into())] {
        assert!(matches!(&sent, Err(SendError::NotConnected(m)) if m == "late"));
    }
    assert!(node.broadcast("late".into()).is_empty());
    let ended = node.disconnect(&peer).await;
    assert!(matches!(ended, Disconnected::Ended(DisconnectReason::Shutdown)), "{ended:?}");
    node.stop_listening().await;
    assert_eq!(node.listening_addr(), None);
    assert_eq!((node.num_connected(), node.peers().len()), (0, 0));
}
