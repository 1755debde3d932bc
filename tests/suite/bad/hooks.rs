//! Hooks that panic, hang, or call back into the node.

use super::bystander::{Bystander, Once, end_of};
use crate::harness::{Case, ON_PURPOSE, Seen, Setup, TestNode, TestRuntime, case, frame, meet};
use anypea::{
    ConnectError, DisconnectReason, Disconnected, Hook, Node, Peer, SendError, Writing,
    runtime::BoxFuture,
};
use futures::{
    AsyncReadExt,
    future::{join, pending},
};
use std::{io, panic::panic_any, sync::Arc, time::Duration};

pub fn cases() -> Vec<Case> {
    vec![
        case(a_handshake_that_panics_fails_the_dial),
        case(a_handshake_that_panics_turns_a_caller_away),
        case(an_admission_that_panics_admits_nobody),
        case(an_on_connect_that_panics_ends_its_connection_only),
        case(a_handler_that_panics_ends_its_connection_only),
        case(an_on_disconnect_that_panics_does_not_hold_its_address),
        case(a_hook_that_panics_as_it_is_dropped_ends_its_connection_only),
        case(a_handshake_that_panics_as_it_is_cut_is_named),
        case(an_on_disconnect_that_panics_as_it_is_cut_loses_nothing),
        case(a_handler_that_errs_ends_its_connection_only),
        case(a_handler_that_hangs_is_cut),
        case(an_on_connect_that_hangs_delays_nobody_else),
        case(an_on_disconnect_that_hangs_delays_nobody_else),
        case(a_hook_may_disconnect_its_own_connection),
        case(a_hook_may_reset_its_own_connection),
        case(a_hook_that_waits_for_its_own_end_goes_on),
        case(a_hook_may_disconnect_by_address),
        case(a_hook_may_disconnect_another_connection),
        case(a_hook_may_send_to_its_own_connection),
        case(a_hook_may_send_to_another_connection),
        case(a_hook_that_dials_its_own_peer_is_refused),
        case(a_hook_may_dial),
        case(a_hook_may_stop_and_start_listening),
        case(a_hook_may_await_a_task),
        case(a_hook_may_look_around),
        case(hooks_that_disconnect_each_other_do_not_deadlock),
        case(last_hooks_that_wait_for_each_other_are_cut),
    ]
}

const HOOKS: [Hook; 4] =
    [Hook::Handshake, Hook::OnConnect, Hook::ProcessMessage, Hook::OnDisconnect];

type Call = Arc<dyn Fn(TestNode, Peer) -> BoxFuture<'static, ()> + Send + Sync>;

/// A node of which one hook calls `call`, once it is armed.
fn calling(rt: &TestRuntime, hook: Hook, once: &Once, call: &Call) -> Setup {
    let here = |this: Hook| {
        let (once, call) = (once.clone(), Arc::clone(call));
        move |node: TestNode, peer: Peer| {
            let called = (hook == this && once.fires()).then(|| call(node, peer));
            async move {
                if let Some(called) = called {
                    called.await
                }
            }
        }
    };
    let handshake = here(Hook::Handshake);
    let on_message = here(Hook::ProcessMessage);
    let on_disconnect = here(Hook::OnDisconnect);
    let handshake = move |node, conn: anypea::Connection| {
        let called = handshake(node, conn.peer().clone());
        async move {
            called.await;
            Ok(conn)
        }
    };
    let on_message = move |node, peer, _| {
        let called = on_message(node, peer);
        async move {
            called.await;
            Ok(())
        }
    };
    rt.setup()
        .handshake(handshake)
        .on_connect(here(Hook::OnConnect))
        .on_message(on_message)
        .on_disconnect(move |node, peer, _| on_disconnect(node, peer))
}

/// Has `other` do what makes `node` call the hook.
async fn provoke(rt: &TestRuntime, hook: Hook, node: &TestNode, once: &Once) -> TestNode {
    let other = rt.setup().not_listening().start().await;
    if hook == Hook::Handshake || hook == Hook::OnConnect {
        once.arm();
        // The handshake may well fail: this end doesn't know.
        let _ = other.connect(node.addr()).await;
        return other;
    }
    let (there, _) = meet(rt, &other, node).await;
    once.arm();
    match hook {
        Hook::ProcessMessage => drop(other.unicast(&there, "go".into()).unwrap()),
        _ => drop(there.disconnect()),
    }
    other
}

/// Calls `call` in every hook, and checks that it comes to its end and harms nobody.
async fn in_every_hook<F>(
    rt: &TestRuntime,
    call: impl Fn(Hook, TestNode, Peer) -> F + Copy + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    for hook in HOOKS {
        let once = Once::default();
        let call: Call = Arc::new(move |node: TestNode, peer| {
            let called = call(hook, node.clone(), peer);
            Box::pin(async move {
                node.note("begun");
                called.await;
                node.note("done");
            })
        });
        let node = calling(rt, hook, &once, &call).start().await;
        let bystander = Bystander::of(rt, &node).await;
        let other = provoke(rt, hook, &node, &once).await;
        rt.until("the hook has begun", || node.has_noted("begun")).await;
        let what = format!("the call from {hook:?} has returned");
        rt.until(&what, || node.has_noted("done")).await;
        other.shut_down().await;
        rt.until("the others are gone", || (node.num_connecting(), node.num_connected()) == (0, 1))
            .await;
        bystander.is_unharmed(rt, &node).await;
        node.shut_down().await;
    }
}

async fn panics(rt: &TestRuntime, hook: Hook) -> (TestNode, Bystander, Once) {
    let once = Once::default();
    let call: Call = Arc::new(|node: TestNode, _| {
        // Half of the times at once, and half of the times after an await.
        if node.has_noted("panicked") {
            panic_any(ON_PURPOSE);
        }
        Box::pin(async move {
            node.sleep(Duration::from_millis(1)).await;
            node.note("panicked");
            panic_any(ON_PURPOSE);
        })
    });
    let node = calling(rt, hook, &once, &call).start().await;
    let bystander = Bystander::of(rt, &node).await;
    (node, bystander, once)
}

async fn a_handshake_that_panics_fails_the_dial(rt: &TestRuntime) {
    rt.expect_hook_panics(2);
    let (node, bystander, once) = panics(rt, Hook::Handshake).await;
    let other = rt.start().await;
    for _ in 0..2 {
        once.arm();
        let error = node.connect(other.addr()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Panicked(addr) if addr == other.addr()), "{error}");
        assert_eq!(node.num_connecting(), 0);
    }
    bystander.is_unharmed(rt, &node).await;
    node.connect(other.addr()).await.expect("the next one stands");
}

async fn a_handshake_that_panics_turns_a_caller_away(rt: &TestRuntime) {
    rt.expect_hook_panics(2);
    let (node, bystander, once) = panics(rt, Hook::Handshake).await;
    let greeted = node.num_connects();
    for _ in 0..2 {
        once.arm();
        let mut raw = rt.dial_raw(node.addr()).await;
        let read = rt.within("the connection is closed", raw.read(&mut [0])).await;
        assert_eq!(read.unwrap_or(0), 0);
        rt.until("the set-up is given up", || node.num_connecting() == 0).await;
    }
    assert_eq!(node.num_connects(), greeted);
    bystander.is_unharmed(rt, &node).await;
}

async fn an_admission_that_panics_admits_nobody(rt: &TestRuntime) {
    rt.expect_hook_panics(2);
    let once = Once::default();
    let armed = once.clone();
    let node = rt.setup().admit(move |_, _, _| {
        armed.panics();
        true
    });
    let node = node.start().await;
    let bystander = Bystander::of(rt, &node).await;
    let other = rt.start().await;
    once.arm();
    let error = node.connect(other.addr()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Panicked(addr) if addr == other.addr()), "{error}");
    once.arm();
    let greeted = node.num_connects();
    let raw = rt.try_dial_raw(node.addr(), &Default::default()).await;
    if let Ok(mut raw) = raw {
        let read = rt.within("the connection is closed", raw.read(&mut [0])).await;
        assert_eq!(read.unwrap_or(0), 0);
    }
    rt.until("it was asked", || node.heuristics().hook_panics == 2).await;
    assert_eq!(node.num_connects(), greeted);
    bystander.is_unharmed(rt, &node).await;
}

async fn an_on_connect_that_panics_ends_its_connection_only(rt: &TestRuntime) {
    rt.expect_hook_panics(2);
    let (node, bystander, once) = panics(rt, Hook::OnConnect).await;
    let other = rt.start().await;
    for _ in 0..2 {
        once.arm();
        let peer = node.connect(other.addr()).await.expect("it stands by then");
        let reason = end_of(rt, &peer).await;
        assert!(matches!(reason, DisconnectReason::Panicked(Hook::OnConnect)), "{reason}");
        assert!(!node.is_connected(other.addr()));
    }
    bystander.is_unharmed(rt, &node).await;
    assert_eq!(node.reasons().len(), 2 + 2, "on_disconnect is called nevertheless");
}

async fn a_handler_that_panics_ends_its_connection_only(rt: &TestRuntime) {
    rt.expect_hook_panics(2);
    let (node, bystander, once) = panics(rt, Hook::ProcessMessage).await;
    let other = rt.start().await;
    for _ in 0..2 {
        let (there, back) = meet(rt, &other, &node).await;
        once.arm();
        let messages = ["go", "never processed"].map(frame).concat();
        other.send_encoded(&there, messages.into()).unwrap();
        let reason = end_of(rt, &back).await;
        assert!(matches!(reason, DisconnectReason::Panicked(Hook::ProcessMessage)), "{reason}");
        there.closed().await;
    }
    assert!(!node.messages().contains(&"never processed".into()));
    bystander.is_unharmed(rt, &node).await;
}

async fn an_on_disconnect_that_panics_does_not_hold_its_address(rt: &TestRuntime) {
    rt.expect_hook_panics(2);
    let (node, bystander, once) = panics(rt, Hook::OnDisconnect).await;
    let other = rt.start().await;
    for _ in 0..2 {
        let (there, _) = meet(rt, &node, &other).await;
        once.arm();
        match node.disconnect(&there).await {
            Disconnected::Ended(DisconnectReason::User) => {}
            ended => panic!("{ended:?}"),
        }
        assert!(!node.is_connected(other.addr()));
    }
    meet(rt, &node, &other).await;
    bystander.is_unharmed(rt, &node).await;
}

/// A hook that waits for ever, and panics when it is dropped.
async fn panics_at_last(node: TestNode) {
    struct Panics;

    impl Drop for Panics {
        fn drop(&mut self) {
            panic_any(ON_PURPOSE);
        }
    }

    let _panics = Panics;
    node.note("waits");
    pending().await
}

async fn a_hook_that_panics_as_it_is_dropped_ends_its_connection_only(rt: &TestRuntime) {
    rt.expect_hook_panics(2);
    for hook in [Hook::OnConnect, Hook::ProcessMessage] {
        let once = Once::default();
        let call: Call = Arc::new(|node, _| Box::pin(panics_at_last(node)));
        let node = calling(rt, hook, &once, &call).start().await;
        let bystander = Bystander::of(rt, &node).await;
        let gone = node.reasons().len();
        let other = provoke(rt, hook, &node, &once).await;
        rt.until("the hook waits", || node.has_noted("waits")).await;
        let there = other.peers().remove(0);
        let back = node.peer(there.local_addr().unwrap()).unwrap();
        let ended = rt.within("the end", back.disconnect()).await;
        assert!(matches!(ended, Disconnected::Ended(DisconnectReason::User)), "{ended:?}");
        assert_eq!(node.reasons().len(), gone + 1, "on_disconnect is called nevertheless");
        bystander.is_unharmed(rt, &node).await;
    }
}

async fn a_handshake_that_panics_as_it_is_cut_is_named(rt: &TestRuntime) {
    rt.expect_hook_panics(1);
    let once = Once::default();
    let call: Call = Arc::new(|node, _| Box::pin(panics_at_last(node)));
    let node = calling(rt, Hook::Handshake, &once, &call)
        .knobs(|knobs| knobs.handshake_timeout = Duration::from_millis(100));
    let node = node.start().await;
    let bystander = Bystander::of(rt, &node).await;
    let other = rt.start().await;
    once.arm();
    let error = node.connect(other.addr()).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::HandshakeTimedOut { .. } | ConnectError::Panicked(_)),
        "{error}"
    );
    bystander.is_unharmed(rt, &node).await;
}

async fn an_on_disconnect_that_panics_as_it_is_cut_loses_nothing(rt: &TestRuntime) {
    rt.expect_hook_panics(1);
    let once = Once::default();
    let call: Call = Arc::new(|node, _| Box::pin(panics_at_last(node)));
    let node = calling(rt, Hook::OnDisconnect, &once, &call)
        .knobs(|knobs| knobs.on_disconnect_timeout = Duration::from_millis(100));
    let node = node.start().await;
    let bystander = Bystander::of(rt, &node).await;
    let other = rt.start().await;
    let (there, back) = meet(rt, &other, &node).await;
    once.arm();
    node.unicast(&back, "last words".into()).unwrap();
    back.disconnect().await;
    let reason = end_of(rt, &there).await;
    assert!(matches!(reason, DisconnectReason::PeerClosed), "{reason}");
    assert_eq!(other.messages(), ["last words"]);
    bystander.is_unharmed(rt, &node).await;
}

async fn a_handler_that_errs_ends_its_connection_only(rt: &TestRuntime) {
    let node = rt.setup().on_message(|_, _, message| async move {
        if message == "refused" {
            return Err(io::Error::other("I won't have it"));
        }
        Ok(())
    });
    let node = node.start().await;
    let bystander = Bystander::of(rt, &node).await;
    let other = rt.start().await;
    let (there, back) = meet(rt, &other, &node).await;
    node.unicast(&back, "queued before".into()).unwrap();
    let messages = ["fine", "refused", "never processed"].map(frame).concat();
    other.send_encoded(&there, messages.into()).unwrap();
    let DisconnectReason::HandlerError(error) = end_of(rt, &back).await else {
        panic!("{:?}", back.disconnect_reason());
    };
    assert_eq!(error.to_string(), "I won't have it");
    assert!(node.messages().contains(&"fine".into()));
    assert!(!node.messages().contains(&"never processed".into()));
    rt.until("what was queued has come", || other.messages() == ["queued before"]).await;
    bystander.is_unharmed(rt, &node).await;
}

async fn a_handler_that_hangs_is_cut(rt: &TestRuntime) {
    let once = Once::default();
    let call: Call = Arc::new(|_, _| Box::pin(pending()));
    let node = calling(rt, Hook::ProcessMessage, &once, &call);
    let node = node.knobs(|knobs| knobs.process_timeout = Some(Duration::from_millis(50)));
    let node = node.start().await;
    let bystander = Bystander::of(rt, &node).await;
    let other = rt.start().await;
    let (there, back) = meet(rt, &other, &node).await;
    once.arm();
    other.unicast(&there, "go".into()).unwrap();
    let reason = end_of(rt, &back).await;
    assert!(matches!(reason, DisconnectReason::TimedOut(Hook::ProcessMessage)), "{reason}");
    assert_eq!(node.heuristics().hook_timeouts, 1);
    bystander.is_unharmed(rt, &node).await;
}

async fn an_on_connect_that_hangs_delays_nobody_else(rt: &TestRuntime) {
    let once = Once::default();
    let call: Call = Arc::new(|_, _| Box::pin(pending()));
    let node = calling(rt, Hook::OnConnect, &once, &call).start().await;
    let bystander = Bystander::of(rt, &node).await;
    let other = provoke(rt, Hook::OnConnect, &node, &once).await;
    bystander.is_unharmed(rt, &node).await;
    // It may be sent to, and ended.
    let there = other.peers().remove(0);
    let back = node.peer(there.local_addr().unwrap()).unwrap();
    node.unicast(&back, "hello".into()).unwrap();
    rt.until("the message has come", || other.messages() == ["hello"]).await;
    back.disconnect().await;
    bystander.is_unharmed(rt, &node).await;
}

async fn an_on_disconnect_that_hangs_delays_nobody_else(rt: &TestRuntime) {
    let once = Once::default();
    let call: Call = Arc::new(|node, _| {
        Box::pin(async move {
            node.note("hangs");
            pending().await
        })
    });
    let node = calling(rt, Hook::OnDisconnect, &once, &call);
    let node = node.knobs(|knobs| knobs.on_disconnect_timeout = Duration::from_millis(300));
    let node = node.start().await;
    let bystander = Bystander::of(rt, &node).await;
    let other = provoke(rt, Hook::OnDisconnect, &node, &once).await;
    rt.until("the hook hangs", || node.has_noted("hangs")).await;
    bystander.talks(rt, &node).await;
    rt.until("it is cut", || other.num_connected() == 0).await;
    assert_eq!(node.heuristics().hook_timeouts, 1);
    bystander.is_unharmed(rt, &node).await;
}

fn is_in_progress(hook: Hook, state: &Disconnected) {
    assert!(matches!(state, Disconnected::InProgress), "{hook:?}: {state:?}");
}

async fn a_hook_may_disconnect_its_own_connection(rt: &TestRuntime) {
    in_every_hook(rt, |hook, _, peer| async move {
        is_in_progress(hook, &peer.disconnect().await);
        assert!(peer.disconnect_reason().is_some() && !peer.is_connected());
    })
    .await;
}

async fn a_hook_may_reset_its_own_connection(rt: &TestRuntime) {
    in_every_hook(rt, |hook, _, peer| async move {
        is_in_progress(hook, &peer.disconnect_now().await);
        assert!(peer.disconnect_reason().is_some() && !peer.is_connected());
    })
    .await;
}

async fn a_hook_that_waits_for_its_own_end_goes_on(rt: &TestRuntime) {
    in_every_hook(rt, |hook, _, peer| async move {
        is_in_progress(hook, &peer.closed().await);
    })
    .await;
}

async fn a_hook_may_disconnect_by_address(rt: &TestRuntime) {
    in_every_hook(rt, |hook, node, peer| async move {
        match (hook, node.disconnect(peer.addr()).await) {
            (Hook::Handshake, Disconnected::NotConnected) => {}
            (_, state) => is_in_progress(hook, &state),
        }
    })
    .await;
}

async fn a_hook_may_disconnect_another_connection(rt: &TestRuntime) {
    // From each hook, each way, the end of a connection that the hook itself has made.
    in_every_hook(rt, |hook, node, _| async move {
        let third = third_node(&node).await;
        for now in [false, true] {
            let peer = node.connect(third.addr()).await.expect("connect");
            let ended = match now {
                false => node.disconnect(&peer).await,
                true => node.disconnect_now(&peer).await,
            };
            let Disconnected::Ended(reason) = ended else { panic!("{hook:?}: {ended:?}") };
            match reason {
                DisconnectReason::User => assert!(!now),
                DisconnectReason::UserNow => assert!(now),
                reason => panic!("{hook:?}: {reason}"),
            }
            assert!(!node.is_connected(third.addr()));
        }
        third.0.shut_down().await;
    })
    .await;
}

/// A node that listens, made in a hook, where there is no test runtime but only its node's.
struct Third(Node);

impl Third {
    fn addr(&self) -> std::net::SocketAddr {
        self.0.listening_addr().expect("it listens")
    }
}

async fn third_node(node: &TestNode) -> Third {
    let mut config = node.config().clone();
    config.name = Some("third".into());
    let third = Node::new(node.runtime().clone(), config).expect("a node");
    third.start_listening().await.expect("listen");
    Third(third)
}

async fn a_hook_may_send_to_its_own_connection(rt: &TestRuntime) {
    in_every_hook(rt, |hook, node, peer| async move {
        let sent = node.send(&peer, "from a hook".into()).await;
        match (hook, sent) {
            (Hook::Handshake, Err(SendError::NotConnected(_))) => {}
            // And it gets there: the writer doesn't wait for the hook.
            (_, Ok(delivery)) => delivery.await.expect("delivered"),
            (_, Err(error)) => panic!("{hook:?}: {error}"),
        }
    })
    .await;
}

async fn a_hook_may_send_to_another_connection(rt: &TestRuntime) {
    in_every_hook(rt, |hook, node, own| async move {
        let others = node.peers().into_iter().filter(|peer| *peer != own);
        for peer in others.collect::<Vec<_>>() {
            let delivery = node.send(&peer, format!("from {hook:?}").into()).await;
            delivery.expect("queued").await.expect("delivered");
        }
        for (peer, answer) in node.broadcast("to all".into()) {
            assert!(answer.is_ok() || peer == own, "{hook:?}: {answer:?}");
        }
    })
    .await;
}

async fn a_hook_that_dials_its_own_peer_is_refused(rt: &TestRuntime) {
    in_every_hook(rt, |hook, node, peer| async move {
        let error = node.connect(peer.addr()).await.unwrap_err();
        match hook {
            Hook::Handshake => assert!(matches!(error, ConnectError::AlreadyConnecting(_))),
            _ => assert!(matches!(error, ConnectError::AlreadyConnected(_)), "{error}"),
        }
    })
    .await;
}

async fn a_hook_may_dial(rt: &TestRuntime) {
    in_every_hook(rt, |_, node, _| async move {
        let third = third_node(&node).await;
        let peer = node.connect(third.addr()).await.expect("connect");
        assert!(peer.is_connected());
        third.0.shut_down().await;
    })
    .await;
}

async fn a_hook_may_stop_and_start_listening(rt: &TestRuntime) {
    in_every_hook(rt, |_, node, _| async move {
        node.stop_listening().await;
        assert_eq!(node.listening_addr(), None);
        node.start_listening().await.expect("listen");
    })
    .await;
}

async fn a_hook_may_await_a_task(rt: &TestRuntime) {
    in_every_hook(rt, |_, node, _| async move {
        let inner = node.clone();
        let task = node.spawn(async move {
            inner.sleep(Duration::from_millis(1)).await;
            42
        });
        assert_eq!(task.await, Ok(42));
    })
    .await;
}

async fn a_hook_may_look_around(rt: &TestRuntime) {
    in_every_hook(rt, |hook, node, peer| async move {
        let registered = hook != Hook::Handshake;
        assert_eq!(node.peer(peer.addr()).as_ref() == Some(&peer), registered);
        assert_eq!(node.is_connected(peer.addr()), registered);
        assert_eq!(node.peers().contains(&peer), registered);
        assert_eq!(node.num_connecting(), usize::from(!registered));
        let (stats, _) = (node.stats(), node.heuristics());
        assert!(stats.connections >= peer.stats().messages_sent);
        assert!(peer.with_socket(|socket| socket.local_addr().is_ok()) == Some(true));
    })
    .await;
}

async fn hooks_that_disconnect_each_other_do_not_deadlock(rt: &TestRuntime) {
    // Each handler waits for the end of all other connections, of which each has such a handler.
    let node = rt.setup().on_message(|node, own, _| async move {
        node.note("handles");
        let handling = |seen: &Seen| matches!(seen, Seen::Note("handles"));
        while node.seen().iter().filter(|seen| handling(seen)).count() < 3 {
            node.sleep(Duration::from_millis(1)).await;
        }
        for peer in node.peers() {
            if peer != own {
                node.disconnect(&peer).await;
            }
        }
        Ok(())
    });
    let node = node.start().await;
    let others = [rt.start().await, rt.start().await, rt.start().await];
    for other in &others {
        let (there, _) = meet(rt, other, &node).await;
        other.unicast(&there, "go".into()).unwrap();
    }
    rt.until("at least two have ended", || node.reasons().len() >= 2).await;
    rt.until("they are released", || node.num_connected() <= 1).await;
    let user = |reason: &DisconnectReason| matches!(reason, DisconnectReason::User);
    assert!(node.reasons().iter().all(user), "{:?}", node.reasons());
    Bystander::of(rt, &node).await;
}

async fn last_hooks_that_wait_for_each_other_are_cut(rt: &TestRuntime) {
    let node = rt.setup().knobs(|knobs| knobs.on_disconnect_timeout = Duration::from_millis(50));
    let node = node.on_disconnect(|node, own, _| async move {
        for peer in node.peers() {
            if peer != own {
                node.disconnect(&peer).await;
            }
        }
    });
    let node = node.start().await;
    let (first, second) = (rt.start().await, rt.start().await);
    let (one, _) = meet(rt, &node, &first).await;
    let (two, _) = meet(rt, &node, &second).await;
    rt.within("both ends", join(one.disconnect(), two.disconnect())).await;
    assert!(node.heuristics().hook_timeouts >= 1);
    Bystander::of(rt, &node).await;
}
