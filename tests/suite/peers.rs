//! A peer is one connection, and never another one that has its address.

use crate::harness::{Case, TestRuntime, case, meet};
use anypea::{
    ConnectError, DisconnectReason, Disconnected, SendError, Side, Writing,
    runtime::{Clock, Network},
};
use futures::AsyncReadExt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

pub fn cases() -> Vec<Case> {
    vec![
        case(a_peer_never_reaches_a_stranger_with_its_address),
        case(a_peer_of_another_node_is_nobody),
        case(both_ends_know_each_other),
        case(a_peer_keeps_typed_values),
        case(an_ipv4_peer_of_a_dual_stack_listener_has_an_ipv4_address),
        case(the_socket_of_a_peer_can_be_reached_until_the_end),
    ]
}

async fn a_peer_never_reaches_a_stranger_with_its_address(rt: &TestRuntime) {
    let node = rt.start().await;
    // From one address twice: the first connection ends with a reset, which leaves no trace.
    let local = rt.listen_raw().await.addr;
    let first = rt.dial_raw_from(local, node.addr()).await;
    let old = node.only_peer(rt).await;
    assert_eq!(old.addr(), local);
    first.socket().abort();
    drop(first);
    rt.until("the first has ended", || node.num_connected() == 0).await;
    let mut stranger = rt.dial_raw_from(local, node.addr()).await;
    let new = node.only_peer(rt).await;
    assert_eq!((new.addr(), node.peer(local)), (local, Some(new.clone())));
    assert!(new != old && new.id() != old.id());

    let sent = node.unicast(&old, "not for you".into());
    assert!(matches!(sent, Err(SendError::NotConnected(_))), "{sent:?}");
    let sent = node.send(&old, "not for you".into()).await;
    assert!(matches!(sent, Err(SendError::NotConnected(_))), "{sent:?}");
    let sent = node.send_encoded(&old, "not for you".into());
    assert!(matches!(sent, Err(SendError::NotConnected(_))), "{sent:?}");
    for ended in [node.disconnect(&old).await, node.disconnect_now(&old).await] {
        assert!(matches!(ended, Disconnected::Ended(DisconnectReason::PeerReset)), "{ended:?}");
    }
    assert!(new.is_connected() && !old.is_connected());
    node.unicast(local, "for you".into()).unwrap();
    let mut read = [0; 11];
    rt.within("the message", stranger.read_exact(&mut read)).await.unwrap();
    assert_eq!(read[..], crate::harness::frame("for you"));
}

async fn a_peer_of_another_node_is_nobody(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    let (to_bob, to_alice) = meet(rt, &alice, &bob).await;
    let sent = alice.unicast(&to_alice, "to whom?".into());
    assert!(matches!(sent, Err(SendError::NotConnected(_))), "{sent:?}");
    let sent = bob.send(&to_bob, "to whom?".into()).await;
    assert!(matches!(sent, Err(SendError::NotConnected(_))), "{sent:?}");
    assert!(to_bob.is_connected() && to_alice.is_connected());
}

async fn both_ends_know_each_other(rt: &TestRuntime) {
    let before = rt.now();
    let (alice, bob) = (rt.start().await, rt.start().await);
    let (to_bob, to_alice) = meet(rt, &alice, &bob).await;
    assert_eq!((to_bob.side(), to_alice.side()), (Side::Initiator, Side::Responder));
    assert_eq!((to_bob.addr(), to_alice.local_addr()), (bob.addr(), Some(bob.addr())));
    assert_eq!(to_bob.local_addr(), Some(to_alice.addr()));
    assert!(to_bob.is_connected() && to_alice.is_connected());
    assert!(to_bob.disconnect_reason().is_none());
    assert!(to_bob.stats().since >= before && to_bob.stats().since <= rt.now());
    assert!(alice.peers() == [to_bob.clone()] && alice.is_connected(bob.addr()));
    rt.within("the disconnect", to_bob.disconnect()).await;
    assert!(!to_bob.is_connected() && !alice.is_connected(bob.addr()));
    assert!(matches!(to_bob.disconnect_reason(), Some(DisconnectReason::User)));
    rt.until("bob has seen the end", || bob.num_connected() == 0).await;
    // Numbers are not used again.
    let (again, _) = meet(rt, &alice, &bob).await;
    assert_eq!((to_bob.id(), again.id()), (1, 2));
}

async fn a_peer_keeps_typed_values(rt: &TestRuntime) {
    struct Key(u32);
    let (alice, bob) = (rt.start().await, rt.start().await);
    let (peer, _) = meet(rt, &alice, &bob).await;
    assert!(peer.get::<Key>().is_none());
    peer.insert(Key(1));
    peer.insert("name");
    let former = peer.get::<Key>().unwrap();
    peer.insert(Key(2));
    assert_eq!((former.0, peer.get::<Key>().unwrap().0), (1, 2));
    assert_eq!(*alice.peer(bob.addr()).unwrap().get::<&str>().unwrap(), "name");
    rt.within("the disconnect", peer.disconnect()).await;
    assert_eq!(peer.get::<Key>().unwrap().0, 2, "the handle keeps them");
}

async fn an_ipv4_peer_of_a_dual_stack_listener_has_an_ipv4_address(rt: &TestRuntime) {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    // Where there is no IPv6, there is nothing to test.
    if rt.listen(any, &Default::default()).await.is_err() {
        return;
    }
    let node = rt.setup().config(|config| config.listening_addr = Some(any)).start().await;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, node.addr().port()));
    let _raw = rt.dial_raw(addr).await;
    let peer = node.only_peer(rt).await;
    assert!(peer.addr().is_ipv4(), "{}", peer.addr());
    assert_eq!(peer.local_addr(), Some(addr));
    // The other form of the same address means the same connection.
    let SocketAddr::V4(canonical) = peer.addr() else { unreachable!("checked above") };
    let mapped = SocketAddr::from((canonical.ip().to_ipv6_mapped(), canonical.port()));
    assert_eq!(node.peer(mapped), Some(peer));
    let dialed = node.connect(mapped).await;
    assert!(matches!(dialed, Err(ConnectError::AlreadyConnected(_))), "{dialed:?}");
}

async fn the_socket_of_a_peer_can_be_reached_until_the_end(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    let (peer, _) = meet(rt, &alice, &bob).await;
    let there = peer.with_socket(|socket| socket.peer_addr().unwrap());
    assert_eq!(there, Some(bob.addr()));
    let nodelay = peer.with_socket(|socket| socket.sock_ref().map(|s| s.tcp_nodelay().unwrap()));
    assert_ne!(nodelay, Some(Some(false)), "it is on by default");
    rt.within("the disconnect", peer.disconnect()).await;
    assert!(peer.with_socket(|_| ()).is_none());
}
