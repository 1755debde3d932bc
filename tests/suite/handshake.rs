//! Handshakes: what they learn, read too much of, replace, and refuse.

use crate::harness::{Case, Setup, TestNode, TestRuntime, case, frame, meet};
use anypea::{
    ConnectError, Connection, DisconnectReason, SendError, Side, Writing,
    bytes::Bytes,
    codec::LengthDelimited,
    futures_io::{AsyncRead, AsyncWrite},
};
use futures::{AsyncReadExt, AsyncWriteExt, SinkExt, TryStreamExt, future::pending};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

pub fn cases() -> Vec<Case> {
    vec![
        case(what_a_handshake_learns_is_there_in_hooks),
        case(a_handshake_can_read_and_write_raw_bytes),
        case(bytes_read_too_early_become_messages),
        case(bytes_read_too_early_can_be_read_raw),
        case(an_upgraded_stream_carries_messages_both_ways),
        case(an_upgrade_sees_bytes_read_too_early),
        case(bytes_never_flushed_fail_the_handshake),
        case(an_error_rejects_a_dial),
        case(an_error_rejects_a_stranger),
        case(a_silent_stranger_is_dropped_after_the_time_limit),
        case(a_dial_ends_after_the_handshakes_time_limit),
        case(nobody_is_connected_before_the_handshake_is_over),
        case(who_is_not_admitted_is_not_dialed),
        case(who_is_not_admitted_is_not_accepted),
        case(a_fin_in_the_handshake_rejects),
    ]
}

/// Exchanges names through a codec, and keeps the peer's with the connection.
async fn exchange_names(node: TestNode, mut conn: Connection) -> io::Result<Connection> {
    let mut framed = conn.framed(LengthDelimited::new(100));
    framed.send(Bytes::copy_from_slice(node.name().as_bytes())).await?;
    let name = framed.try_next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    drop(framed);
    conn.peer().insert(name);
    Ok(conn)
}

fn named(rt: &TestRuntime, name: &str) -> Setup {
    rt.setup().config(|config| config.name = Some(name.into())).handshake(exchange_names)
}

async fn what_a_handshake_learns_is_there_in_hooks(rt: &TestRuntime) {
    let alice = named(rt, "alice").start().await;
    let bob = named(rt, "bob").on_message(|_, peer, _| async move {
        assert_eq!(*peer.get::<Bytes>().unwrap(), "alice");
        assert!(peer.get::<String>().is_none());
        Ok(())
    });
    let bob = bob.on_connect(|_, peer| async move {
        assert_eq!(*peer.get::<Bytes>().unwrap(), "alice");
    });
    let bob = bob.on_disconnect(|_, peer, _| async move {
        assert_eq!(*peer.get::<Bytes>().unwrap(), "alice");
    });
    let bob = bob.start().await;
    let (peer, _) = meet(rt, &alice, &bob).await;
    assert_eq!(*peer.get::<Bytes>().unwrap(), "bob");
    alice.unicast(&peer, "hello".into()).unwrap();
    rt.within("the disconnect", peer.disconnect()).await;
    rt.until("bob has seen the end", || bob.reasons().len() == 1).await;
    assert_eq!((bob.num_connects(), bob.num_messages()), (1, 1));
}

async fn a_handshake_can_read_and_write_raw_bytes(rt: &TestRuntime) {
    let raw_bytes = |node: Setup| {
        node.handshake(|_, mut conn| async move {
            let mine = if conn.side() == Side::Initiator { b"ini" } else { b"res" };
            let theirs = if conn.side() == Side::Initiator { b"res" } else { b"ini" };
            conn.write_all(mine).await?;
            conn.flush().await?;
            let mut read = [0; 3];
            conn.read_exact(&mut read).await?;
            assert_eq!(read, *theirs);
            Ok(conn)
        })
    };
    let (alice, bob) = (raw_bytes(rt.setup()).start().await, raw_bytes(rt.setup()).start().await);
    let (to_bob, to_alice) = meet(rt, &alice, &bob).await;
    assert_eq!((to_bob.side(), to_alice.side()), (Side::Initiator, Side::Responder));
    alice.unicast(&to_bob, "hello".into()).unwrap();
    rt.until("bob has it", || bob.messages() == ["hello"]).await;
}

/// What is written in one go, and so is read in one go: a handshake, messages, a FIN.
async fn write_all_at_once(rt: &TestRuntime, node: &TestNode, payload: &[u8]) {
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(payload).await.unwrap();
    raw.close().await.unwrap();
    rt.until("the connection has ended", || node.reasons().len() == 1).await;
    assert!(matches!(node.reasons()[0], DisconnectReason::PeerClosed), "{:?}", node.reasons());
}

async fn bytes_read_too_early_become_messages(rt: &TestRuntime) {
    let node = named(rt, "node").start().await;
    let all = [frame("raw"), frame("one"), frame("two"), frame("three")].concat();
    write_all_at_once(rt, &node, &all).await;
    assert_eq!(node.messages(), ["one", "two", "three"]);
    assert_eq!(node.stats().messages_received, 3);
}

async fn bytes_read_too_early_can_be_read_raw(rt: &TestRuntime) {
    let node = rt.setup().handshake(|node, conn| async move {
        let mut conn = exchange_names(node, conn).await?;
        let mut read = [0; 3];
        conn.read_exact(&mut read).await?;
        assert_eq!(read, *b"raw");
        // And again through a codec.
        let mut framed = conn.framed(LengthDelimited::new(100));
        assert_eq!(framed.try_next().await?.unwrap(), "framed");
        drop(framed);
        Ok(conn)
    });
    let node = node.start().await;
    let all = [frame("name"), b"raw".into(), frame("framed"), frame("message")].concat();
    write_all_at_once(rt, &node, &all).await;
    assert_eq!(node.messages(), ["message"]);
}

const KEY: u8 = 0x5a;

/// A stream that is encrypted, so to say.
struct Xor<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Xor<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.0).poll_read(cx, buf);
        if let Poll::Ready(Ok(count)) = read {
            buf[..count].iter_mut().for_each(|byte| *byte ^= KEY);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Xor<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let secret: Vec<_> = buf.iter().map(|byte| byte ^ KEY).collect();
        Pin::new(&mut self.0).poll_write(cx, &secret)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

fn secretive(rt: &TestRuntime) -> Setup {
    rt.setup().handshake(|node, conn| async move {
        let mut conn = exchange_names(node, conn).await?;
        conn.upgrade(|stream| async { Ok(Xor(stream)) }).await?;
        Ok(conn)
    })
}

async fn an_upgraded_stream_carries_messages_both_ways(rt: &TestRuntime) {
    let (alice, bob) = (secretive(rt).start().await, secretive(rt).start().await);
    let (to_bob, to_alice) = meet(rt, &alice, &bob).await;
    assert_eq!(to_bob.local_addr(), Some(to_alice.addr()), "the addresses are still those below");
    let big = Bytes::from(vec![7; 1_000_000]);
    for _ in 0..3 {
        alice.unicast(&to_bob, big.clone()).unwrap();
        bob.unicast(&to_alice, big.clone()).unwrap();
    }
    rt.within("the disconnect", to_bob.disconnect()).await;
    rt.until("bob has seen the end", || bob.reasons().len() == 1).await;
    assert!(matches!(bob.reasons()[0], DisconnectReason::PeerClosed), "the FIN came through");
    assert!(bob.messages() == [big.clone(), big.clone(), big]);
}

async fn an_upgrade_sees_bytes_read_too_early(rt: &TestRuntime) {
    let node = secretive(rt).start().await;
    let secret = |payload: &str| frame(payload).iter().map(|byte| byte ^ KEY).collect::<Vec<_>>();
    let all = [frame("name"), secret("one"), secret("two")].concat();
    write_all_at_once(rt, &node, &all).await;
    assert_eq!(node.messages(), ["one", "two"]);
}

async fn bytes_never_flushed_fail_the_handshake(rt: &TestRuntime) {
    let alice = rt.setup().handshake(|_, mut conn| async move {
        conn.framed(LengthDelimited::new(100)).feed("forgotten".into()).await?;
        Ok(conn)
    });
    let (alice, bob) = (alice.start().await, rt.start().await);
    let error = alice.connect(bob.addr()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Handshake { .. }), "{error}");
    assert_eq!((alice.heuristics().handshake_errors, alice.num_connecting()), (1, 0));
}

/// Refuses everybody.
async fn refuse(_: TestNode, _: Connection) -> io::Result<Connection> {
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "refused"))
}

async fn an_error_rejects_a_dial(rt: &TestRuntime) {
    let (alice, bob) = (rt.setup().handshake(refuse).start().await, rt.start().await);
    let error = alice.connect(bob.addr()).await.unwrap_err();
    let ConnectError::Handshake { addr, error } = error else { panic!("{error}") };
    assert_eq!((addr, error.kind()), (bob.addr(), io::ErrorKind::PermissionDenied));
    assert_eq!(alice.heuristics().handshake_errors, 1);
    assert_eq!((alice.num_connected(), alice.num_connecting(), alice.seen().len()), (0, 0, 0));
    rt.until("bob has noticed", || bob.num_connected() == 0).await;
}

async fn an_error_rejects_a_stranger(rt: &TestRuntime) {
    let node = rt.setup().handshake(refuse).start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let _ = rt.within("the end", raw.read(&mut [0])).await;
    rt.until("it is rejected", || node.heuristics().handshake_errors == 1).await;
    rt.until("nothing is in set-up", || node.num_connecting() == 0).await;
    assert_eq!(node.seen().len(), 0);
}

async fn a_silent_stranger_is_dropped_after_the_time_limit(rt: &TestRuntime) {
    let limit = Duration::from_millis(50);
    let node = named(rt, "node").knobs(|knobs| knobs.handshake_timeout = limit).start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let mut read = Vec::new();
    let _ = rt.within("the end", raw.read_to_end(&mut read)).await;
    assert_eq!(read, frame("node"));
    rt.until("it is counted", || node.heuristics().handshake_timeouts == 1).await;
    rt.until("nothing is in set-up", || node.num_connecting() == 0).await;
    assert_eq!(node.heuristics().handshake_errors, 0);
}

async fn a_dial_ends_after_the_handshakes_time_limit(rt: &TestRuntime) {
    let limit = Duration::from_millis(50);
    let node = rt.setup().knobs(|knobs| knobs.handshake_timeout = limit);
    let node = node.handshake(|_, _| pending()).start().await;
    let silent = rt.listen_raw().await;
    let error = rt.within("the dial", node.connect(silent.addr)).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::HandshakeTimedOut { addr, after }
            if addr == silent.addr && after == limit),
        "{error}"
    );
    assert_eq!((node.num_connecting(), node.heuristics().handshake_timeouts), (0, 1));
}

async fn nobody_is_connected_before_the_handshake_is_over(rt: &TestRuntime) {
    let node = rt.setup().handshake(|node, conn| async move {
        let peer = conn.peer();
        assert!(!peer.is_connected() && !node.is_connected(peer.addr()));
        assert_eq!((node.num_connected(), node.num_connecting(), node.peers().len()), (0, 1, 0));
        let refused = matches!(
            node.unicast(peer, "early".into()),
            Err(SendError::NotConnected(message)) if message == "early"
        );
        assert!(refused);
        assert!(node.broadcast("early".into()).is_empty());
        Ok(conn)
    });
    let node = node.start().await;
    let other = rt.start().await;
    let (peer, _) = meet(rt, &node, &other).await;
    assert!(peer.is_connected());
    assert_eq!((node.num_connected(), node.num_connecting()), (1, 0));
}

async fn who_is_not_admitted_is_not_dialed(rt: &TestRuntime) {
    let node = rt.setup().admit(|_, _, side| side == Side::Responder).start().await;
    let other = rt.start().await;
    let error = node.connect(other.addr()).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotAdmitted(addr) if addr == other.addr()), "{error}");
    assert_eq!(node.heuristics().rejected_by_admission, 0, "only strangers are counted");
    meet(rt, &other, &node).await;
}

async fn who_is_not_admitted_is_not_accepted(rt: &TestRuntime) {
    let node = rt.setup().admit(|_, addr, side| {
        assert_eq!((addr.ip(), side), (std::net::Ipv4Addr::LOCALHOST.into(), Side::Responder));
        false
    });
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let _ = rt.within("the end", raw.read(&mut [0])).await;
    rt.until("it is rejected", || node.heuristics().rejected_by_admission == 1).await;
    assert_eq!((node.num_connected(), node.num_connecting(), node.seen().len()), (0, 0, 0));
}

async fn a_fin_in_the_handshake_rejects(rt: &TestRuntime) {
    let node = named(rt, "node").start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&frame("name")[..5]).await.unwrap();
    raw.close().await.unwrap();
    rt.until("it is rejected", || node.heuristics().handshake_errors == 1).await;
    rt.until("nothing is in set-up", || node.num_connecting() == 0).await;
}
