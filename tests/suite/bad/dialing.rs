//! Dialing whoever one should not dial, or who doesn't answer as they should.

use super::bystander::{Bystander, Once, end_of};
use crate::harness::{Case, TestNode, TestRuntime, case, frame, meet};
use anypea::{ConnectError, ConnectOptions, DisconnectReason, Side};
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, channel::oneshot, future::join_all};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Mutex,
    time::Duration,
};

pub fn cases() -> Vec<Case> {
    vec![
        case(dialing_ones_own_address_is_refused),
        case(dialing_a_wildcard_listener_of_ones_own_is_refused),
        case(dialing_oneself_unknowingly_is_found_out),
        case(dialing_oneself_through_an_address_of_the_host_is_found_out),
        case(dialing_oneself_is_found_out_before_the_handshake),
        case(a_socket_connected_with_itself_is_found_out),
        case(dialing_twice_is_refused),
        case(dialing_twice_in_other_words_is_refused),
        case(dialing_many_times_at_once_makes_one_connection),
        case(dialing_again_after_the_end_makes_a_new_connection),
        case(dialing_a_dead_address_tells_the_cause),
        case(dialing_port_zero_tells_the_cause),
        case(dialing_from_a_foreign_address_tells_the_cause),
        case(dialing_a_silent_address_times_out),
        case(dialing_a_silent_peer_times_out_in_the_handshake),
        case(dialing_a_peer_that_hangs_up_fails_the_handshake),
        case(a_refused_address_is_told_from_a_failed_one),
        case(a_handshake_that_returns_another_connection_fails),
        case(a_handshake_that_leaves_bytes_unflushed_fails),
        case(a_dial_that_is_given_up_frees_its_address),
    ]
}

async fn dialing_ones_own_address_is_refused(rt: &TestRuntime) {
    let node = rt.start().await;
    let bystander = Bystander::of(rt, &node).await;
    let error = node.connect(node.addr()).await.unwrap_err();
    assert!(matches!(error, ConnectError::OwnAddress(addr) if addr == node.addr()), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
    // The unspecified address leads to the local host.
    let unspecified = SocketAddr::from((Ipv4Addr::UNSPECIFIED, node.addr().port()));
    let error = node.connect(unspecified).await.unwrap_err();
    assert!(matches!(error, ConnectError::OwnAddress(addr) if addr == unspecified), "{error}");
    bystander.is_unharmed(rt, &node).await;
    assert_eq!(node.num_connecting(), 0);
}

async fn on_all_addresses(rt: &TestRuntime) -> (TestNode, u16) {
    let wildcard = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let node = rt.setup().config(|config| config.listening_addr = Some(wildcard)).start().await;
    let port = node.addr().port();
    (node, port)
}

async fn dialing_a_wildcard_listener_of_ones_own_is_refused(rt: &TestRuntime) {
    let (node, port) = on_all_addresses(rt).await;
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
    for ip in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv4Addr::new(127, 0, 0, 2).into(),
        Ipv4Addr::UNSPECIFIED.into(),
        mapped.into(),
    ] {
        let error = node.connect((ip, port).into()).await.unwrap_err();
        assert!(matches!(error, ConnectError::OwnAddress(_)), "{ip}: {error}");
    }
    assert_eq!(node.num_connects(), 0);
    let other = rt.setup().not_listening().start().await;
    other.connect((Ipv4Addr::LOCALHOST, port).into()).await.expect("others can dial it");
}

/// Asserts that a dial that led back to `node` has left nothing.
async fn met_itself(rt: &TestRuntime, node: &TestNode, dial: Result<anypea::Peer, ConnectError>) {
    match dial {
        Err(error) => assert!(matches!(error, ConnectError::OwnAddress(_)), "{error}"),
        // Without a handshake, the connection may have stood before its other end came in.
        Ok(peer) => {
            let reason = end_of(rt, &peer).await;
            assert!(matches!(reason, DisconnectReason::OwnAddress), "{reason}");
        }
    }
    let own = |reason: &DisconnectReason| matches!(reason, DisconnectReason::OwnAddress);
    rt.until("neither end is left", || node.num_connected() + node.num_connecting() == 0).await;
    assert!(node.reasons().iter().all(own), "{:?}", node.reasons());
}

/// A stream that leads to a node, both ends of which the node will have: it dials a port that it
/// knows nothing of, and is given what comes out there.
async fn dialing_oneself_unknowingly_is_found_out(rt: &TestRuntime) {
    let node = rt.start().await;
    let mut raw = rt.listen_raw().await;
    let task = node.clone();
    let addr = raw.addr;
    let dial = rt.spawn(async move { task.connect(addr).await });
    let stream = raw.accept().await;
    let from = stream.socket().peer_addr().unwrap();
    let adopted = node.adopt(stream, from, Side::Responder).await;
    met_itself(rt, &node, adopted).await;
    met_itself(rt, &node, dial.await).await;
    Bystander::of(rt, &node).await;
}

/// An address of this host that isn't a loopback address, if it has one. Nothing is sent.
fn address_of_the_host() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(203, 0, 113, 1), 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

async fn dialing_oneself_through_an_address_of_the_host_is_found_out(rt: &TestRuntime) {
    // On a host without a network there is no such address.
    let Some(ip) = address_of_the_host() else { return };
    let (node, port) = on_all_addresses(rt).await;
    let dial = node.connect((ip, port).into()).await;
    rt.until("the accepted end is found out", || {
        node.heuristics().rejected_own > 0 || !node.reasons().is_empty()
    })
    .await;
    met_itself(rt, &node, dial).await;
    let other = rt.setup().not_listening().start().await;
    other.connect((ip, port).into()).await.expect("others can dial it");
}

async fn dialing_oneself_is_found_out_before_the_handshake(rt: &TestRuntime) {
    let Some(ip) = address_of_the_host() else { return };
    let wildcard = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let setup = rt.setup().config(|config| config.listening_addr = Some(wildcard));
    // Each end waits for the other to speak: only the check gets them out of it.
    let setup = setup.handshake(|_, mut conn| async move {
        let mut byte = [0];
        conn.read_exact(&mut byte).await?;
        Ok(conn)
    });
    let node = setup.start().await;
    let dialed = SocketAddr::new(ip, node.addr().port());
    let dial = rt.within("the dial is refused", node.connect(dialed)).await;
    let error = dial.unwrap_err();
    assert!(matches!(error, ConnectError::OwnAddress(addr) if addr == dialed), "{error}");
    rt.until("neither end is left", || node.num_connecting() == 0).await;
    assert_eq!(node.num_connects(), 0);
    assert_eq!(node.heuristics().rejected_own, 1);
}

/// RFC 9293, 3.5: two ends that dial each other at once get one connection, also if both are the
/// same socket. It happens by chance when a dead port on the local host is dialed.
async fn a_socket_connected_with_itself_is_found_out(rt: &TestRuntime) {
    let node = rt.start().await;
    let bystander = Bystander::of(rt, &node).await;
    let raw = rt.listen_raw().await;
    let addr = raw.addr;
    drop(raw);
    let options = ConnectOptions { local: Some(addr), ..ConnectOptions::default() };
    match node.connect_with(addr, options).await {
        // Some systems refuse it by themselves.
        Err(error) => assert!(
            matches!(error, ConnectError::OwnAddress(_) | ConnectError::Io { .. }),
            "{error}"
        ),
        Ok(peer) => panic!("{peer:?} is connected with itself, from {:?}", peer.local_addr()),
    }
    bystander.is_unharmed(rt, &node).await;
    assert_eq!(node.num_connecting(), 0);
}

async fn dialing_twice_is_refused(rt: &TestRuntime) {
    let (node, other) = (rt.start().await, rt.start().await);
    let (peer, _) = meet(rt, &node, &other).await;
    let error = node.connect(other.addr()).await.unwrap_err();
    assert!(matches!(error, ConnectError::AlreadyConnected(a) if a == other.addr()), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::AlreadyExists);
    assert!(peer.is_connected());
    assert_eq!((node.num_connected(), other.stats().connections), (1, 1));
}

async fn dialing_twice_in_other_words_is_refused(rt: &TestRuntime) {
    let (node, other) = (rt.start().await, rt.start().await);
    meet(rt, &node, &other).await;
    let IpAddr::V4(ip) = other.addr().ip() else { return };
    let mapped = SocketAddr::new(ip.to_ipv6_mapped().into(), other.addr().port());
    let error = node.connect(mapped).await.unwrap_err();
    assert!(matches!(error, ConnectError::AlreadyConnected(a) if a == other.addr()), "{error}");
}

async fn dialing_many_times_at_once_makes_one_connection(rt: &TestRuntime) {
    let (node, other) = (rt.start().await, rt.start().await);
    let dials = (0..20).map(|_| {
        let (node, addr) = (node.clone(), other.addr());
        rt.spawn(async move { node.connect(addr).await })
    });
    let dials = join_all(dials.collect::<Vec<_>>()).await;
    let (made, refused): (Vec<_>, Vec<_>) = dials.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (1, 19));
    for error in refused {
        let error = error.unwrap_err();
        use ConnectError::{AlreadyConnected, AlreadyConnecting};
        assert!(matches!(error, AlreadyConnected(_) | AlreadyConnecting(_)), "{error}");
    }
    rt.until("the connection is accepted", || other.num_connects() == 1).await;
    assert_eq!((node.num_connected(), node.num_connecting()), (1, 0));
    assert_eq!((other.num_connected(), other.num_connecting()), (1, 0));
}

async fn dialing_again_after_the_end_makes_a_new_connection(rt: &TestRuntime) {
    let (node, other) = (rt.start().await, rt.start().await);
    let mut ids = Vec::new();
    for _ in 0..5 {
        let (there, back) = meet(rt, &node, &other).await;
        ids.push(there.id());
        there.disconnect().await;
        back.closed().await;
    }
    ids.dedup();
    assert_eq!(ids.len(), 5);
    assert_eq!((node.reasons().len(), other.reasons().len()), (5, 5));
}

async fn dialing_a_dead_address_tells_the_cause(rt: &TestRuntime) {
    let node = rt.start().await;
    let bystander = Bystander::of(rt, &node).await;
    // A former port could have a new owner by now; this one is never given to who asks for any.
    let addr = SocketAddr::new(rt.ip(), 1);
    let error = node.connect(addr).await.unwrap_err();
    let ConnectError::Io { addr: dialed, error: cause } = &error else { panic!("{error}") };
    assert_eq!((*dialed, cause.kind()), (addr, io::ErrorKind::ConnectionRefused));
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!((node.num_connecting(), node.is_connected(addr)), (0, false));
    bystander.is_unharmed(rt, &node).await;
}

async fn dialing_port_zero_tells_the_cause(rt: &TestRuntime) {
    let node = rt.start().await;
    let error = node.connect(rt.localhost()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Io { .. }), "{error}");
    // A wildcard listener's own port isn't 0 either.
    let error = node.connect((Ipv4Addr::UNSPECIFIED, 0).into()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Io { .. }), "{error}");
}

async fn dialing_from_a_foreign_address_tells_the_cause(rt: &TestRuntime) {
    let (node, other) = (rt.start().await, rt.start().await);
    let foreign = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 1), 0));
    let options = ConnectOptions { local: Some(foreign), ..ConnectOptions::default() };
    let error = node.connect_with(other.addr(), options).await.unwrap_err();
    let ConnectError::Io { error, .. } = error else { panic!("{error}") };
    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    meet(rt, &node, &other).await;
}

async fn dialing_a_silent_address_times_out(rt: &TestRuntime) {
    let limit = Duration::from_millis(50);
    let node = rt.setup().config(|config| config.connect_timeout = limit).start().await;
    let bystander = Bystander::of(rt, &node).await;
    // Linux answers nobody whose connection would not fit into the backlog, which holds one more
    // than its size (listen(2)).
    let mut full = anypea::runtime::ListenOptions::default();
    full.backlog = 1;
    let raw = rt.listen_raw_with(rt.localhost(), &full).await;
    let _waiting = [rt.dial_raw(raw.addr).await, rt.dial_raw(raw.addr).await];
    let error = node.connect(raw.addr).await.unwrap_err();
    let ConnectError::TimedOut { addr, after } = error else { panic!("{error}") };
    assert_eq!((addr, after), (raw.addr, limit));
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
    // A limit of its own.
    let timeout = Some(Duration::from_millis(10));
    let options = ConnectOptions { timeout, ..ConnectOptions::default() };
    let error = node.connect_with(raw.addr, options).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { after, .. } if Some(after) == timeout));
    // None at all is nobody's wish, but must not hang.
    let options = ConnectOptions { timeout: Some(Duration::ZERO), ..options };
    let error = node.connect_with(raw.addr, options).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    assert_eq!(node.num_connecting(), 0);
    bystander.is_unharmed(rt, &node).await;
}

async fn dialing_a_silent_peer_times_out_in_the_handshake(rt: &TestRuntime) {
    let limit = Duration::from_millis(50);
    let setup = rt.setup().knobs(|knobs| knobs.handshake_timeout = limit);
    let node = setup.handshake(|_, mut conn| async move {
        conn.read_exact(&mut [0]).await?;
        Ok(conn)
    });
    let node = node.start().await;
    let raw = rt.listen_raw().await;
    let error = node.connect(raw.addr).await.unwrap_err();
    let ConnectError::HandshakeTimedOut { addr, after } = error else { panic!("{error}") };
    assert_eq!((addr, after), (raw.addr, limit));
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
    assert_eq!((node.num_connecting(), node.num_connects()), (0, 0));
    assert_eq!(node.heuristics().handshake_timeouts, 1);
}

async fn dialing_a_peer_that_hangs_up_fails_the_handshake(rt: &TestRuntime) {
    let node = rt.setup().handshake(|node, mut conn| async move {
        node.note("waits for the peer");
        conn.read_exact(&mut [0]).await?;
        Ok(conn)
    });
    let node = node.start().await;
    let mut raw = rt.listen_raw().await;
    for (number, resets) in [(1, false), (2, true)] {
        let (task, addr) = (node.clone(), raw.addr);
        let dial = rt.spawn(async move { task.connect(addr).await });
        let stream = raw.accept().await;
        rt.until("the handshake has begun", || node.seen().len() == number).await;
        if resets {
            stream.socket().abort();
        }
        drop(stream);
        let error = dial.await.unwrap_err();
        let ConnectError::Handshake { addr, error } = error else { panic!("{error}") };
        let kind =
            if resets { io::ErrorKind::ConnectionReset } else { io::ErrorKind::UnexpectedEof };
        assert_eq!((addr, error.kind()), (raw.addr, kind));
    }
    assert_eq!(node.heuristics().handshake_errors, 2);
    assert_eq!((node.num_connecting(), node.num_connects()), (0, 0));
}

async fn a_refused_address_is_told_from_a_failed_one(rt: &TestRuntime) {
    let banned = rt.start().await;
    let addr = banned.addr();
    let node = rt.setup().admit(move |_, asked, _| asked != addr).start().await;
    let bystander = Bystander::of(rt, &node).await;
    let error = node.connect(addr).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotAdmitted(refused) if refused == addr), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::PermissionDenied);
    assert_eq!((banned.num_connects(), node.num_connecting()), (0, 0));
    bystander.is_unharmed(rt, &node).await;
}

async fn a_handshake_that_returns_another_connection_fails(rt: &TestRuntime) {
    // Two connections in set-up at once; each handshake returns that of the other.
    let swap = Mutex::new(None::<(anypea::Connection, oneshot::Sender<anypea::Connection>)>);
    let swap = std::sync::Arc::new(swap);
    let armed = [Once::default(), Once::default()];
    let arms = armed.clone();
    let node = rt.setup().not_listening().handshake(move |_, conn| {
        let swap = std::sync::Arc::clone(&swap);
        let swaps = armed.iter().any(Once::fires);
        async move {
            if !swaps {
                return Ok(conn);
            }
            let (sender, other) = oneshot::channel();
            let first = swap.lock().unwrap().take();
            match first {
                Some((theirs, answer)) => {
                    answer.send(conn).expect("the first one waits");
                    Ok(theirs)
                }
                None => {
                    *swap.lock().unwrap() = Some((conn, sender));
                    other.await.map_err(io::Error::other)
                }
            }
        }
    });
    let node = node.start().await;
    let others = [rt.start().await, rt.start().await];
    arms.iter().for_each(Once::arm);
    let dials = others.each_ref().map(|other| node.connect(other.addr()));
    for (dial, other) in join_all(dials).await.into_iter().zip(&others) {
        let error = dial.unwrap_err();
        let ConnectError::Handshake { addr, error } = error else { panic!("{error}") };
        assert_eq!(addr, other.addr());
        assert!(error.to_string().contains("another connection"), "{error}");
    }
    assert_eq!((node.num_connected(), node.num_connecting(), node.num_connects()), (0, 0, 0));
    for other in &others {
        meet(rt, &node, other).await;
    }
}

async fn a_handshake_that_leaves_bytes_unflushed_fails(rt: &TestRuntime) {
    use futures::SinkExt;
    let node = rt.setup().handshake(|_, mut conn| async move {
        let mut framed = conn.framed(anypea::codec::LengthDelimited::new(100));
        framed.feed("forgotten".into()).await?;
        drop(framed);
        Ok(conn)
    });
    let node = node.start().await;
    let other = rt.start().await;
    let error = node.connect(other.addr()).await.unwrap_err();
    let ConnectError::Handshake { error, .. } = error else { panic!("{error}") };
    assert!(error.to_string().contains("13 bytes were never flushed"), "{error}");
    assert_eq!((node.num_connected(), node.num_connecting()), (0, 0));
}

async fn a_dial_that_is_given_up_frees_its_address(rt: &TestRuntime) {
    let node = rt.setup().handshake(|_, mut conn| async move {
        conn.read_exact(&mut [0]).await?;
        Ok(conn)
    });
    let node = node.start().await;
    let mut raw = rt.listen_raw().await;
    let mut dial = Box::pin(node.connect(raw.addr));
    assert!((&mut dial).now_or_never().is_none());
    let first = raw.accept().await;
    drop(dial);
    rt.until("the dial is given up", || node.num_connecting() == 0).await;
    let (task, addr) = (node.clone(), raw.addr);
    let dial = rt.spawn(async move { task.connect(addr).await });
    let mut second = raw.accept().await;
    second.write_all(b"!").await.unwrap();
    second.write_all(&frame("hello")).await.unwrap();
    dial.await.expect("the second dial succeeds");
    rt.until("the message has come", || node.messages() == ["hello"]).await;
    drop((first, second));
}
