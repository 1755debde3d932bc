//! Making connections: listening, dialing, accepting, and failing to.

use super::{
    Case,
    host::{Host, accept},
};
use crate::{ConnectOptions, ListenOptions};
use futures_util::{
    AsyncReadExt, AsyncWriteExt,
    future::{join, join_all, poll_immediate, select_all},
};
use std::{collections::BTreeSet, io, net::SocketAddr};

pub(super) const CASES: &[Case] = &[
    Case::inside("both_ends_know_both_addresses", |host| {
        Box::pin(both_ends_know_both_addresses(host))
    }),
    Case::inside("a_port_without_listener_refuses", |host| {
        Box::pin(a_port_without_listener_refuses(host))
    }),
    Case::inside("a_port_is_listened_on_once", |host| Box::pin(a_port_is_listened_on_once(host))),
    Case::inside("a_dropped_listener_frees_its_port", |host| {
        Box::pin(a_dropped_listener_frees_its_port(host))
    }),
    Case::inside("many_dials_are_all_accepted", |host| Box::pin(many_dials_are_all_accepted(host))),
    Case::inside("a_dropped_dial_leaves_nothing", |host| {
        Box::pin(a_dropped_dial_leaves_nothing(host))
    }),
    Case::inside("dials_that_wait_can_be_dropped", |host| {
        Box::pin(dials_that_wait_can_be_dropped(host))
    }),
    Case::inside("a_bound_dial_comes_from_its_address", |host| {
        Box::pin(a_bound_dial_comes_from_its_address(host))
    }),
    Case::inside("a_port_can_be_shared", |host| Box::pin(a_port_can_be_shared(host))),
];

async fn both_ends_know_both_addresses(host: Host) {
    let (mut listener, addr) = host.listen().await;
    let (dialed, accepted) = join(host.dial(addr), accept(&mut listener)).await;
    let (dialed, (accepted, peer)) = (dialed.expect("connect"), accepted.expect("accept"));
    let [dialed, accepted] = [dialed, accepted].map(|stream| {
        let socket = stream.socket();
        (socket.local_addr().expect("own address"), socket.peer_addr().expect("peer's address"))
    });
    assert_eq!(dialed, (peer, addr));
    assert_eq!(accepted, (addr, peer));
}

/// From where a dial can't meet itself: a port that the system has just found to be free. With a
/// port of the dial's own choice, TCP's simultaneous open could connect a socket to itself.
fn bound(host: &Host) -> ConnectOptions {
    ConnectOptions { local: Some(host.any_port()), ..ConnectOptions::default() }
}

async fn a_port_without_listener_refuses(host: Host) {
    let (dialed, _accepted) = host.pair().await;
    // The port of a connection's dialing end: it is taken, so nobody else starts to listen there.
    let closed = dialed.socket().local_addr().expect("own address");
    let error = host.connect(closed, &bound(&host)).await.expect_err("nobody listens");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
}

async fn a_port_is_listened_on_once(host: Host) {
    let (_listener, addr) = host.listen().await;
    let second = host.listen_on(addr).await;
    let error = second.err().expect("two listeners have the same port");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
}

async fn a_dropped_listener_frees_its_port(host: Host) {
    let (mut listener, addr) = host.listen().await;
    let (dialed, accepted) = join(host.dial(addr), accept(&mut listener)).await;
    let (mut dialed, mut accepted) = (dialed.expect("connect"), accepted.expect("accept").0);
    // This end closes first, so it is this port that waits in TIME_WAIT (RFC 9293, 3.6.1).
    accepted.close().await.expect("close");
    assert_eq!(dialed.read(&mut [0]).await.expect("read"), 0);
    drop((dialed, accepted, listener));

    let mut listener = host.listen_on(addr).await.expect("listen again");
    let (dialed, accepted) = join(host.dial(addr), accept(&mut listener)).await;
    assert!(dialed.is_ok() && accepted.is_ok());
}

async fn many_dials_are_all_accepted(host: Host) {
    let (mut listener, addr) = host.listen().await;
    let dials: Vec<_> = (0..64)
        .map(|_| {
            let dialing = host.clone();
            host.start(async move { dialing.dial(addr).await.expect("connect") })
        })
        .collect();
    let mut accepted = Vec::new();
    let mut peers = BTreeSet::new();
    for _ in 0..dials.len() {
        let (stream, peer) = accept(&mut listener).await.expect("accept");
        accepted.push(stream);
        peers.insert(peer);
    }
    let dialed = join_all(dials).await;
    let dialed = dialed.into_iter().map(|stream| stream.expect("a dial panicked"));
    let addrs = dialed.map(|stream| stream.socket().local_addr().expect("own address"));
    assert_eq!(addrs.collect::<BTreeSet<_>>(), peers);
}

async fn a_dropped_dial_leaves_nothing(host: Host) {
    let (listener, addr) = host.listen().await;
    // The dial may or may not have reached the listener by now.
    drop(poll_immediate(host.dial(addr)).await);
    only_this_dial_lives(&host, listener, addr).await;
}

async fn dials_that_wait_can_be_dropped(host: Host) {
    let options = ListenOptions { backlog: 1, ..ListenOptions::default() };
    let (listener, addr) = host.listen_with(&options).await;
    // There is room for one or two of them, as long as nobody accepts.
    let dials = (0..8).map(|_| Box::pin(host.dial(addr)));
    let (first, _, waiting) = select_all(dials).await;
    drop((first, waiting));
    only_this_dial_lives(&host, listener, addr).await;
}

/// Dials, and checks that what else arrives at the listener has ended.
async fn only_this_dial_lives(
    host: &Host,
    mut listener: Box<dyn crate::Listener>,
    addr: SocketAddr,
) {
    let dialing = async {
        let mut dialed = host.dial(addr).await.expect("connect");
        dialed.write_all(b"it is me").await.expect("write");
        dialed.close().await.expect("close");
        dialed
    };
    let accepting = async {
        let mut heard = Vec::new();
        while heard != b"it is me" {
            let (mut stream, _) = accept(&mut listener).await.expect("accept");
            heard.clear();
            // What was dropped may end with a FIN or with a reset, but it has to end.
            let _ = stream.read_to_end(&mut heard).await;
        }
    };
    join(dialing, accepting).await;
}

async fn a_bound_dial_comes_from_its_address(host: Host) {
    let (mut listener, addr) = host.listen().await;
    let options = bound(&host);
    let (dialed, accepted) = join(host.connect(addr, &options), accept(&mut listener)).await;
    let (dialed, (_accepted, peer)) = (dialed.expect("connect"), accepted.expect("accept"));
    assert_eq!(peer.ip(), host.any_port().ip());
    assert_eq!(dialed.socket().local_addr().expect("own address"), peer);
}

/// What hole punching needs: to dial from the port on which one listens (RFC 5128, 3.4).
async fn a_port_can_be_shared(host: Host) {
    let shared = ListenOptions { reuse_port: true, ..ListenOptions::default() };
    let (_listener, from) = host.listen_with(&shared).await;
    let (mut listener, addr) = host.listen().await;
    let options = ConnectOptions { local: Some(from), reuse_port: true, ..Default::default() };
    let (dialed, accepted) = join(host.connect(addr, &options), accept(&mut listener)).await;
    let (_dialed, (_accepted, peer)) = (dialed.expect("connect"), accepted.expect("accept"));
    assert_eq!(peer, from);
}
