//! Listening and accepting.

use crate::harness::{Case, TestRuntime, case, frame, meet};
use anypea::{Config, ListenError, Writing, runtime::ListenOptions};
use futures::AsyncWriteExt;
use std::io;

pub fn cases() -> Vec<Case> {
    vec![
        case(connections_outlive_the_listener),
        case(a_node_listens_again_after_it_has_stopped),
        case(a_node_listens_once_at_a_time),
        case(a_port_that_is_taken_is_named),
        case(accepting_survives_peers_that_reset_at_once),
        case(many_peers_at_once_are_all_accepted),
    ]
}

async fn connections_outlive_the_listener(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    let (to_bob, _) = meet(rt, &alice, &bob).await;
    let addr = bob.addr();
    rt.within("it stops", bob.stop_listening()).await;
    assert_eq!(bob.listening_addr(), None);
    // The port is free as soon as the call has ended.
    let taken = rt.listen_raw_with(addr, &ListenOptions::default()).await;
    assert_eq!(taken.addr, addr);
    alice.unicast(&to_bob, "still here".into()).unwrap();
    rt.until("bob has it", || bob.messages() == ["still here"]).await;
    // Without effect.
    bob.stop_listening().await;
}

async fn a_node_listens_again_after_it_has_stopped(rt: &TestRuntime) {
    let node = rt.setup().not_listening().start().await;
    for _ in 0..5 {
        assert_eq!(node.listening_addr(), None);
        let addr = node.start_listening().await.unwrap();
        assert_eq!(node.listening_addr(), Some(addr));
        let raw = rt.dial_raw(addr).await;
        rt.until("it is connected", || node.num_connected() == 1).await;
        rt.within("it stops", node.stop_listening()).await;
        drop(raw);
        rt.until("it has ended", || node.num_connected() == 0).await;
    }
}

async fn a_node_listens_once_at_a_time(rt: &TestRuntime) {
    let node = rt.start().await;
    let again = node.start_listening().await;
    assert!(matches!(again, Err(ListenError::AlreadyListening)), "{again:?}");
    let node = rt.node(Config::default());
    let nowhere = node.start_listening().await;
    assert!(matches!(nowhere, Err(ListenError::NoAddress)), "{nowhere:?}");
}

async fn a_port_that_is_taken_is_named(rt: &TestRuntime) {
    let taken = rt.listen_raw().await;
    let addr = taken.addr;
    let node = rt.setup().config(|config| config.listening_addr = Some(addr)).not_listening();
    let node = node.start().await;
    let error = node.start_listening().await.unwrap_err();
    let ListenError::Io { addr: named, error } = error else { panic!("{error}") };
    assert_eq!((named, error.kind()), (addr, io::ErrorKind::AddrInUse));
    assert_eq!(node.listening_addr(), None);
    drop(taken);
    assert_eq!(node.start_listening().await.unwrap(), addr);
}

async fn accepting_survives_peers_that_reset_at_once(rt: &TestRuntime) {
    let node = rt.start().await;
    for _ in 0..50 {
        let raw = rt.dial_raw(node.addr()).await;
        raw.socket().abort();
        drop(raw);
    }
    let other = rt.start().await;
    meet(rt, &other, &node).await;
    rt.until("only that is left", || node.num_connected() == 1).await;
}

async fn many_peers_at_once_are_all_accepted(rt: &TestRuntime) {
    let node = rt.start().await;
    let dials = (0..80u8).map(|i| {
        let (there, addr) = (rt.clone(), node.addr());
        rt.spawn(async move {
            let mut raw = there.dial_raw(addr).await;
            raw.write_all(&frame([i])).await.unwrap();
            raw
        })
    });
    let _raw = futures::future::join_all(dials.collect::<Vec<_>>()).await;
    rt.until("all are heard", || node.num_messages() == 80).await;
    assert_eq!(node.num_connected(), 80);
    let mut heard: Vec<_> = node.messages().iter().map(|message| message[0]).collect();
    heard.sort_unstable();
    assert!(heard.into_iter().eq(0..80));
}
