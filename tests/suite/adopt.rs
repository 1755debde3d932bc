//! Streams that are no sockets.

use crate::harness::{Case, TestNode, TestRuntime, case, frame, meet};
use anypea::{
    ConnectError, DisconnectReason, Side, Writing,
    bytes::Bytes,
    futures_io::{AsyncRead, AsyncWrite},
};
use futures::AsyncReadExt;
use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

pub fn cases() -> Vec<Case> {
    vec![
        case(nodes_talk_over_a_pipe),
        case(a_pipe_that_is_closed_ends_the_connection),
        case(nothing_queued_is_lost_over_a_pipe),
        case(a_stream_of_the_runtimes_keeps_its_socket),
        case(an_adopted_stream_counts_towards_the_limits),
        case(ipv6_peers_are_counted_by_prefix),
        case(private_addresses_are_exempt_if_configured),
        case(an_adopted_stream_shakes_hands),
    ]
}

/// Bytes that one pipe may hold.
const PIPE_BYTES: usize = 1000;

#[derive(Default)]
struct Direction {
    bytes: VecDeque<u8>,
    closed: bool,
    waiting: Vec<Waker>,
}

/// One end of a pipe in memory.
struct Pipe {
    incoming: Arc<Mutex<Direction>>,
    outgoing: Arc<Mutex<Direction>>,
}

fn pipe() -> (Pipe, Pipe) {
    let (a, b) = (Arc::default(), Arc::default());
    let one = Pipe { incoming: Arc::clone(&a), outgoing: Arc::clone(&b) };
    (one, Pipe { incoming: b, outgoing: a })
}

fn wake(direction: &mut Direction) {
    direction.waiting.drain(..).for_each(Waker::wake);
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut from = self.incoming.lock().unwrap();
        if from.bytes.is_empty() && !from.closed {
            from.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        let count = from.bytes.len().min(buf.len());
        for (byte, read) in buf.iter_mut().zip(from.bytes.drain(..count)) {
            *byte = read;
        }
        wake(&mut from);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut to = self.outgoing.lock().unwrap();
        if to.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = (PIPE_BYTES - to.bytes.len()).min(buf.len());
        if count == 0 {
            to.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        to.bytes.extend(&buf[..count]);
        wake(&mut to);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut to = self.outgoing.lock().unwrap();
        to.closed = true;
        wake(&mut to);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        for direction in [&self.incoming, &self.outgoing] {
            let mut direction = direction.lock().unwrap();
            direction.closed = true;
            wake(&mut direction);
        }
    }
}

/// A name for what has no address of its own.
fn name(last: u8) -> SocketAddr {
    ([192, 0, 2, last], 1).into()
}

async fn piped(rt: &TestRuntime) -> (TestNode, TestNode) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    let (a, b) = pipe();
    let peer = alice.adopt(a, name(2), Side::Initiator).await.unwrap();
    assert_eq!((peer.addr(), peer.local_addr(), peer.side()), (name(2), None, Side::Initiator));
    let peer = bob.adopt(b, name(1), Side::Responder).await.unwrap();
    assert_eq!((peer.addr(), peer.local_addr(), peer.side()), (name(1), None, Side::Responder));
    (alice, bob)
}

async fn nodes_talk_over_a_pipe(rt: &TestRuntime) {
    let (alice, bob) = piped(rt).await;
    for i in 0..200u8 {
        // Also more at once than the pipe holds.
        let message = Bytes::from(vec![i; 20 * usize::from(i)]);
        alice.unicast(name(2), message.clone()).unwrap();
        bob.unicast(name(1), message).unwrap();
    }
    rt.until("all have arrived", || alice.num_messages() == 200 && bob.num_messages() == 200).await;
    assert!(alice.messages() == bob.messages());
    assert!(alice.messages().iter().zip(0..).all(|(m, i)| *m == vec![i; 20 * usize::from(i)]));
}

async fn a_pipe_that_is_closed_ends_the_connection(rt: &TestRuntime) {
    let node = rt.start().await;
    let (a, mut b) = pipe();
    node.adopt(a, name(2), Side::Initiator).await.unwrap();
    node.unicast(name(2), "read me".into()).unwrap();
    let mut read = [0; 11];
    rt.within("the message", b.read_exact(&mut read)).await.unwrap();
    assert_eq!(read[..], frame("read me"));
    drop(b);
    rt.until("the connection has ended", || node.num_connected() == 0).await;
    assert!(matches!(node.reasons()[..], [DisconnectReason::PeerClosed]));
}

async fn nothing_queued_is_lost_over_a_pipe(rt: &TestRuntime) {
    let (alice, bob) = piped(rt).await;
    for i in 0..3_000u32 {
        alice.unicast(name(2), Bytes::copy_from_slice(&i.to_be_bytes())).unwrap();
    }
    rt.within("the disconnect", alice.disconnect(name(2))).await;
    rt.until("bob has seen the end", || bob.reasons().len() == 1).await;
    assert_eq!(bob.num_messages(), 3_000);
    assert!(matches!(bob.reasons()[0], DisconnectReason::PeerClosed));
}

async fn a_stream_of_the_runtimes_keeps_its_socket(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    let stream = rt.dial_raw(bob.addr()).await;
    let local = stream.socket().local_addr().unwrap();
    let peer = alice.adopt(stream, bob.addr(), Side::Initiator).await.unwrap();
    assert_eq!(peer.local_addr(), Some(local));
    assert!(peer.with_socket(|socket| socket.peer_addr().is_ok()).unwrap());
    alice.unicast(&peer, "hello".into()).unwrap();
    rt.until("bob has it", || bob.messages() == ["hello"]).await;
}

async fn an_adopted_stream_counts_towards_the_limits(rt: &TestRuntime) {
    let node = rt.setup().config(|config| {
        config.max_connections = 3;
        config.max_inbound = 1;
        config.max_per_ip = 1;
    });
    let node = node.start().await;
    let mut others = Vec::new();
    let mut end = || {
        let (a, b) = pipe();
        others.push(b);
        a
    };
    node.adopt(end(), name(1), Side::Initiator).await.unwrap();
    let twice = node.adopt(end(), name(1), Side::Initiator).await;
    assert!(matches!(twice, Err(ConnectError::AlreadyConnected(_))), "{twice:?}");
    let same_ip = SocketAddr::new(name(1).ip(), 2);
    let same_ip = node.adopt(end(), same_ip, Side::Initiator).await;
    assert!(matches!(same_ip, Err(ConnectError::IpLimit(_))), "{same_ip:?}");
    node.adopt(end(), name(2), Side::Responder).await.unwrap();
    let inbound = node.adopt(end(), name(3), Side::Responder).await;
    assert!(matches!(inbound, Err(ConnectError::InboundLimit(_))), "{inbound:?}");
    node.adopt(end(), name(4), Side::Initiator).await.unwrap();
    let total = node.adopt(end(), name(5), Side::Initiator).await;
    assert!(matches!(total, Err(ConnectError::TotalLimit(_))), "{total:?}");
    // What was refused is closed.
    for refused in [1, 2, 4, 6] {
        let read = rt.within("the end", others[refused].read(&mut [0])).await;
        assert_eq!(read.unwrap(), 0);
    }
}

async fn ipv6_peers_are_counted_by_prefix(rt: &TestRuntime) {
    let node = rt.setup().config(|config| {
        config.max_per_ip = 1;
        config.max_per_prefix = 2;
    });
    let node = node.start().await;
    let mut others = Vec::new();
    let mut adopt = async |addr: &str| {
        let (a, b) = pipe();
        others.push(b);
        node.adopt(a, addr.parse().unwrap(), Side::Initiator).await
    };
    adopt("[2001:db8:0:100::1]:1").await.unwrap();
    let same = adopt("[2001:db8:0:100::1]:2").await;
    assert!(matches!(same, Err(ConnectError::IpLimit(_))), "{same:?}");
    // The first 56 bits are the same.
    adopt("[2001:db8:0:1ff:8000::1]:1").await.unwrap();
    let over = adopt("[2001:db8:0:180::1]:1").await;
    assert!(matches!(over, Err(ConnectError::PrefixLimit(_))), "{over:?}");
    adopt("[2001:db8:0:200::1]:1").await.unwrap();
    // One IPv4 address, written in two ways.
    adopt("192.0.2.1:1").await.unwrap();
    let mapped = adopt("[::ffff:192.0.2.1]:2").await;
    assert!(matches!(mapped, Err(ConnectError::IpLimit(_))), "{mapped:?}");
}

async fn private_addresses_are_exempt_if_configured(rt: &TestRuntime) {
    for exempt in [false, true] {
        let node = rt.setup().config(|config| {
            config.max_per_ip = 1;
            config.exempt_private = exempt;
        });
        let node = node.start().await;
        let mut others = Vec::new();
        for ip in ["10.0.0.1", "172.31.0.1", "192.168.0.1", "169.254.0.1", "[fd00::1]", "[fe80::1]"]
        {
            let mut adopt = async |port: u16| {
                let (a, b) = pipe();
                others.push(b);
                let addr = format!("{ip}:{port}").parse().unwrap();
                node.adopt(a, addr, Side::Initiator).await
            };
            adopt(1).await.unwrap();
            assert_eq!(adopt(2).await.is_ok(), exempt, "{ip}");
        }
    }
}

async fn an_adopted_stream_shakes_hands(rt: &TestRuntime) {
    let node = rt.setup().handshake(|_, conn| async move {
        conn.peer().insert(conn.side());
        Ok(conn)
    });
    let node = node.start().await;
    let (a, _b) = pipe();
    let peer = node.adopt(a, name(1), Side::Responder).await.unwrap();
    assert_eq!(*peer.get::<Side>().unwrap(), Side::Responder);
    let other = rt.start().await;
    meet(rt, &other, &node).await;
}
