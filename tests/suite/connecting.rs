//! Dials from given addresses, as given sides, and at the same time.

use crate::harness::{Case, Setup, TestRuntime, case};
use anypea::{ConnectError, ConnectOptions, Side, Writing, runtime::ListenOptions};
use futures::future::join;
use std::{net::Ipv4Addr, time::Duration};

pub fn cases() -> Vec<Case> {
    vec![
        case(a_dial_comes_from_the_address_it_is_bound_to),
        case(a_dial_can_come_from_the_listening_port),
        case(a_simultaneous_open_makes_one_connection),
        case(a_dial_takes_its_own_time_limit),
        case(two_nodes_that_dial_each_other_can_keep_both_connections),
    ]
}

async fn a_dial_comes_from_the_address_it_is_bound_to(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    let local = (Ipv4Addr::new(127, 1, 2, 3), 0).into();
    let options = ConnectOptions { local: Some(local), ..ConnectOptions::default() };
    let to_bob = alice.connect_with(bob.addr(), options).await.unwrap();
    assert_eq!(to_bob.local_addr().unwrap().ip(), local.ip());
    let to_alice = bob.only_peer(rt).await;
    assert_eq!(Some(to_alice.addr()), to_bob.local_addr());
}

fn reusing(rt: &TestRuntime) -> Setup {
    rt.setup().config(|config| config.reuse_port = true)
}

async fn a_dial_can_come_from_the_listening_port(rt: &TestRuntime) {
    let (alice, bob) = (reusing(rt).start().await, rt.start().await);
    let options = ConnectOptions { local: Some(alice.addr()), ..ConnectOptions::default() };
    alice.connect_with(bob.addr(), options).await.unwrap();
    assert_eq!(bob.only_peer(rt).await.addr(), alice.addr());
}

async fn a_simultaneous_open_makes_one_connection(rt: &TestRuntime) {
    // Each end's SYN must be on its way before the other's arrives. A listener whose backlog is
    // full swallows the first, and is still in place of nobody when the second is sent.
    let mut options = ListenOptions::default();
    options.backlog = 0;
    options.reuse_port = true;
    let hole = rt.listen_raw_with(rt.localhost(), &options).await;
    let _first = rt.dial_raw(hole.addr).await;
    let at_bob = hole.addr;
    let at_alice = rt.listen_raw_with(rt.localhost(), &options).await.addr;

    let alice = reusing(rt).not_listening().start().await;
    let bob = reusing(rt).not_listening().start().await;
    let from = |local, side| ConnectOptions { local: Some(local), side, timeout: None };
    let a = alice.connect_with(at_bob, from(at_alice, Side::Initiator));
    let b = async {
        loop {
            match bob.connect_with(at_alice, from(at_bob, Side::Responder)).await {
                // The other's SYN was not yet on its way.
                Err(ConnectError::Io { .. }) => rt.sleep(Duration::from_millis(1)).await,
                done => break done,
            }
        }
    };
    let (to_bob, to_alice) = rt.within("both are connected", join(a, b)).await;
    let (to_bob, to_alice) = (to_bob.unwrap(), to_alice.unwrap());
    assert_eq!((to_bob.side(), to_alice.side()), (Side::Initiator, Side::Responder));
    assert_eq!((to_bob.addr(), to_bob.local_addr()), (at_bob, Some(at_alice)));
    assert_eq!((to_alice.addr(), to_alice.local_addr()), (at_alice, Some(at_bob)));
    alice.unicast(&to_bob, "to bob".into()).unwrap();
    bob.unicast(&to_alice, "to alice".into()).unwrap();
    rt.until("bob has his", || bob.messages() == ["to bob"]).await;
    rt.until("alice has hers", || alice.messages() == ["to alice"]).await;
}

async fn a_dial_takes_its_own_time_limit(rt: &TestRuntime) {
    let mut options = ListenOptions::default();
    options.backlog = 0;
    let full = rt.listen_raw_with(rt.localhost(), &options).await;
    let _first = rt.dial_raw(full.addr).await;
    let limit = Duration::from_millis(50);
    let node = rt.start().await;
    let options = ConnectOptions { timeout: Some(limit), ..ConnectOptions::default() };
    let error = node.connect_with(full.addr, options).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { after, .. } if after == limit), "{error}");
}

async fn two_nodes_that_dial_each_other_can_keep_both_connections(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    let (a, b) = join(alice.connect(bob.addr()), bob.connect(alice.addr())).await;
    a.unwrap();
    b.unwrap();
    rt.until("both stand", || alice.num_connected() == 2 && bob.num_connected() == 2).await;
}
