//! Every public async function can be dropped at any await, and the node stays consistent.

use crate::harness::{Case, TestNode, TestRuntime, case, frame, meet};
use anypea::{Config, DisconnectReason, Disconnected, ShutDownState, Side, Writing, bytes::Bytes};
use futures::AsyncReadExt;
use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

pub fn cases() -> Vec<Case> {
    vec![
        case(a_dropped_connect_leaves_all_or_nothing),
        case(a_connect_dropped_in_its_handshake_leaves_nothing),
        case(a_dropped_adopt_leaves_all_or_nothing),
        case(a_dropped_disconnect_goes_on),
        case(a_dropped_shut_down_goes_on),
        case(a_dropped_send_sends_nothing_and_holds_up_nobody),
        case(a_send_dropped_when_its_turn_has_come_passes_it_on),
        case(a_dropped_start_listening_leaves_all_or_nothing),
        case(a_dropped_stop_listening_goes_on),
        case(a_dropped_delivery_changes_nothing),
    ]
}

/// Polls `future` as often as this, each time it asks for it, and then drops it.
async fn cut<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut done = 0;
    poll_fn(|cx| {
        if done == polls {
            return Poll::Ready(None);
        }
        done += 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if done == polls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Waits until nothing is being set up on either side, and both agree on what there is.
async fn until_settled(rt: &TestRuntime, one: &TestNode, other: &TestNode) {
    rt.until("both sides agree", || {
        let settled = |node: &TestNode| node.num_connecting() == 0;
        settled(one) && settled(other) && one.num_connected() == other.num_connected()
    })
    .await;
}

async fn a_dropped_connect_leaves_all_or_nothing(rt: &TestRuntime) {
    let shaken = |node: crate::harness::Setup| {
        node.handshake(|_, mut conn| async move {
            use futures::AsyncWriteExt;
            for _ in 0..3 {
                conn.write_all(b"x").await?;
                conn.read_exact(&mut [0]).await?;
            }
            Ok(conn)
        })
    };
    let bob = shaken(rt.setup()).start().await;
    let alice = shaken(rt.setup()).start().await;
    for polls in 0.. {
        assert!(polls < 100, "connect never becomes ready");
        let made = cut(polls, alice.connect(bob.addr())).await;
        let done = made.is_some();
        if let Some(made) = made {
            assert!(made.unwrap().is_connected());
        }
        // An attempt that was given up may have succeeded on the other side for a moment.
        until_settled(rt, &alice, &bob).await;
        assert_eq!(alice.num_connected(), usize::from(alice.is_connected(bob.addr())));
        if let Some(peer) = alice.peer(bob.addr()) {
            rt.within("the disconnect", peer.disconnect()).await;
        }
        // The address is free: an attempt that nobody drops succeeds.
        let peer = rt.within("the connect", alice.connect(bob.addr())).await.unwrap();
        rt.within("the disconnect", peer.disconnect()).await;
        until_settled(rt, &alice, &bob).await;
        assert_eq!(alice.num_connects(), alice.reasons().len());
        if done {
            break;
        }
    }
}

async fn a_connect_dropped_in_its_handshake_leaves_nothing(rt: &TestRuntime) {
    let bob = rt.start().await;
    for step in ["one", "two", "three"] {
        let alice = rt.setup().handshake(move |node, conn| async move {
            for here in ["one", "two", "three"] {
                node.note(here);
                if here == step {
                    futures::future::pending::<()>().await;
                }
            }
            Ok(conn)
        });
        let alice = alice.start().await;
        {
            let connect = pin!(alice.connect(bob.addr()));
            let there = pin!(rt.until("the handshake is there", || alice.has_noted(step)));
            let first = futures::future::select(connect, there).await;
            assert!(matches!(first, futures::future::Either::Right(_)));
        }
        until_settled(rt, &alice, &bob).await;
        assert_eq!((alice.num_connected(), alice.num_connects()), (0, 0));
    }
}

async fn a_dropped_adopt_leaves_all_or_nothing(rt: &TestRuntime) {
    let mut raw = rt.listen_raw().await;
    let node = rt.setup().handshake(|node, conn| async move {
        node.sleep(Duration::from_millis(1)).await;
        Ok(conn)
    });
    let node = node.start().await;
    for polls in 0.. {
        assert!(polls < 100, "adopt never becomes ready");
        let stream = rt.dial_raw(raw.addr).await;
        let other_end = raw.accept().await;
        let made = cut(polls, node.adopt(stream, raw.addr, Side::Initiator)).await;
        rt.until("nothing is in set-up", || node.num_connecting() == 0).await;
        let done = made.is_some();
        if let Some(peer) = node.peer(raw.addr) {
            peer.disconnect();
        }
        drop(other_end);
        rt.until("it has ended", || node.num_connected() == 0).await;
        if done {
            break;
        }
    }
    assert_eq!(node.num_connects(), node.reasons().len());
}

async fn a_dropped_disconnect_goes_on(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    for polls in 0.. {
        assert!(polls < 100, "disconnect never becomes ready");
        let (peer, _) = meet(rt, &alice, &bob).await;
        alice.unicast(&peer, Bytes::from(vec![7; 100_000])).unwrap();
        let ended = cut(polls, peer.disconnect()).await;
        rt.until("it has ended all the same", || alice.num_connected() == 0).await;
        rt.until("bob has everything", || bob.num_messages() == polls + 1).await;
        rt.until("bob is free", || bob.num_connected() == 0).await;
        if let Some(ended) = ended {
            assert!(matches!(ended, Disconnected::Ended(DisconnectReason::User)), "{ended:?}");
            break;
        }
    }
}

async fn a_dropped_shut_down_goes_on(rt: &TestRuntime) {
    let bob = rt.start().await;
    for polls in 0.. {
        assert!(polls < 100, "shut_down never becomes ready");
        let alice = rt.start().await;
        let weak = alice.downgrade();
        let (peer, _) = meet(rt, &alice, &bob).await;
        alice.unicast(&peer, Bytes::from(vec![7; 100_000])).unwrap();
        let state = cut(polls, alice.shut_down()).await;
        drop(alice);
        rt.until("it has shut down all the same", || weak.upgrade().is_none()).await;
        rt.until("bob has everything", || bob.num_messages() == polls + 1).await;
        if let Some(state) = state {
            assert_eq!(state, ShutDownState::Ended);
            break;
        }
    }
}

async fn a_dropped_send_sends_nothing_and_holds_up_nobody(rt: &TestRuntime) {
    const PLUG_BYTES: usize = 4 * 1024 * 1024;
    let node = rt.setup().knobs(|knobs| knobs.queue_bytes = 1);
    let node = node.config(|config| config.socket.send_buffer_bytes = Some(32 * 1024));
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    for polls in 0.. {
        assert!(polls < 100, "send never becomes ready");
        let plug = node.send(&peer, vec![7; PLUG_BYTES].into());
        rt.within("the queue is empty", plug).await.unwrap();
        // One that is first in line when there is room, and one that comes after it.
        let mut dropped = Box::pin(cut(polls, node.send(&peer, "dropped".into())));
        let early = futures::poll!(&mut dropped);
        let mut next = Box::pin(node.send(&peer, "next".into()));
        assert!(futures::poll!(&mut next).is_pending());
        rt.within("the plug", raw.read_exact(&mut vec![0; 4 + PLUG_BYTES])).await.unwrap();
        let sent = match early {
            Poll::Ready(sent) => sent,
            Poll::Pending => rt.within("there is room", dropped).await,
        };
        rt.within("the next is served", next).await.unwrap();
        let arrives = if sent.is_some() { ["dropped", "next"].as_slice() } else { &["next"] };
        for payload in arrives {
            let expected = frame(payload);
            let mut read = vec![0; expected.len()];
            rt.within("a frame", raw.read_exact(&mut read)).await.unwrap();
            assert_eq!(read, expected, "after {polls} polls");
        }
        if let Some(sent) = sent {
            sent.unwrap();
            break;
        }
    }
}

/// Whether it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

async fn a_send_dropped_when_its_turn_has_come_passes_it_on(rt: &TestRuntime) {
    const PLUG_BYTES: usize = 4 * 1024 * 1024;
    let node = rt.setup().knobs(|knobs| knobs.queue_bytes = 1);
    let node = node.config(|config| config.socket.send_buffer_bytes = Some(32 * 1024));
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    node.unicast(&peer, vec![7; PLUG_BYTES].into()).unwrap();
    let (first, next) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    let mut dropped = Box::pin(node.send(&peer, "dropped".into()));
    let mut waiting = Box::pin(node.send(&peer, "next".into()));
    for (future, woken) in [(&mut dropped, &first), (&mut waiting, &next)] {
        let waker = Waker::from(Arc::clone(woken));
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    rt.within("the plug", raw.read_exact(&mut vec![0; 4 + PLUG_BYTES])).await.unwrap();
    rt.until("the first one's turn has come", || first.0.load(SeqCst)).await;
    assert!(!next.0.load(SeqCst), "one at a time");
    drop(dropped);
    assert!(next.0.load(SeqCst), "nobody else will wake it");
    rt.within("the next is served", waiting).await.unwrap();
}

async fn a_dropped_start_listening_leaves_all_or_nothing(rt: &TestRuntime) {
    let config = Config { listening_addr: Some(rt.localhost()), ..Config::default() };
    let node = rt.node(config);
    for polls in 0.. {
        assert!(polls < 100, "start_listening never becomes ready");
        let addr = cut(polls, node.start_listening()).await;
        assert_eq!(node.listening_addr(), addr.as_ref().map(|addr| *addr.as_ref().unwrap()));
        if addr.is_some() {
            break;
        }
        assert_eq!(rt.live().listeners, 0);
    }
    rt.dial_raw(node.listening_addr().unwrap()).await;
}

async fn a_dropped_stop_listening_goes_on(rt: &TestRuntime) {
    let node = rt.setup().not_listening().start().await;
    // A call that is never polled has not begun.
    for polls in 1.. {
        assert!(polls < 100, "stop_listening never becomes ready");
        node.start_listening().await.unwrap();
        let done = cut(polls, node.stop_listening()).await;
        rt.until("it listens no more", || node.listening_addr().is_none()).await;
        rt.until("the port is closed", || rt.live().listeners == 0).await;
        if done.is_some() {
            break;
        }
    }
}

async fn a_dropped_delivery_changes_nothing(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    let (peer, _) = meet(rt, &alice, &bob).await;
    for polls in 0.. {
        assert!(polls < 100, "a delivery never becomes ready");
        let delivery = alice.unicast(&peer, Bytes::from(vec![7; 100_000])).unwrap();
        let delivered = cut(polls, delivery).await;
        rt.until("it has arrived all the same", || bob.num_messages() == polls + 1).await;
        if let Some(delivered) = delivered {
            delivered.unwrap();
            break;
        }
    }
}
