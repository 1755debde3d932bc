//! Sending to whoever is not there, and with encoders that fail.

use super::bystander::{Bystander, Once, end_of};
use crate::harness::{Case, ON_PURPOSE, TestNode, TestRuntime, case, frame, meet};
use anypea::{
    ConnectError, DisconnectReason, Node, Pea2Pea, Peer, SendError, Writing,
    asynchronous_codec::Encoder,
    bytes::{BufMut, Bytes, BytesMut},
    codec::{FrameTooLong, LengthDelimited},
    runtime::Runtime,
};
use futures::{AsyncReadExt, FutureExt};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    panic::panic_any,
    sync::{Arc, Mutex},
};

pub fn cases() -> Vec<Case> {
    vec![
        case(a_message_to_a_stranger_comes_back),
        case(a_message_to_a_former_peer_never_reaches_the_next_owner_of_its_address),
        case(a_message_to_another_nodes_peer_comes_back),
        case(a_message_to_a_connection_in_set_up_comes_back),
        case(a_message_without_writing_comes_back),
        case(a_message_of_another_codec_comes_back),
        case(a_message_after_the_end_has_begun_comes_back),
        case(an_encoders_error_concerns_one_message_only),
        case(a_fatal_encoders_error_ends_the_connection),
        case(a_message_over_the_limit_is_refused),
        case(an_encoder_that_panics_ends_its_connection_only),
        case(an_encoder_that_removes_earlier_frames_ends_its_connection_only),
        case(an_encoder_that_replaces_earlier_frames_ends_its_connection_only),
        case(an_encoder_that_writes_nothing_is_harmless),
        case(an_encoder_cannot_send),
        case(an_encoder_may_disconnect_its_own_connection),
        case(an_encoder_may_shut_its_node_down),
        case(an_encoder_that_cannot_be_made_fails_the_dial),
        case(an_encoder_that_cannot_be_made_turns_a_caller_away),
    ]
}

/// Asserts that each way to send gives the message back.
async fn comes_back(node: &TestNode, to: &Peer) {
    let refused = [
        node.unicast(to, "back".into()).map(drop).unwrap_err(),
        node.send(to, "back".into()).await.map(drop).unwrap_err(),
        node.send_encoded(to, "back".into()).map(drop).unwrap_err(),
        node.send_encoded(to, vec![b'x'; 100_000].into()).map(drop).unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(error, SendError::NotConnected(_)), "{error}");
        let message = error.into_message().expect("it was not touched");
        assert!(message == "back" || message.len() == 100_000);
    }
}

async fn a_message_to_a_stranger_comes_back(rt: &TestRuntime) {
    let (node, stranger) = (rt.start().await, rt.start().await);
    let to = stranger.addr();
    let refused = [
        node.unicast(to, "back".into()).map(drop).unwrap_err(),
        node.send(to, "back".into()).await.map(drop).unwrap_err(),
        node.send_encoded(to, "back".into()).map(drop).unwrap_err(),
    ];
    for error in refused {
        let SendError::NotConnected(message) = error else { panic!("{error}") };
        assert_eq!(message, "back");
    }
    assert!(node.broadcast("to nobody".into()).is_empty());
    let error = node.unicast(to, "back".into()).map(drop).unwrap_err();
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotConnected);
}

async fn a_message_to_a_former_peer_never_reaches_the_next_owner_of_its_address(rt: &TestRuntime) {
    let node = rt.start().await;
    let bystander = Bystander::of(rt, &node).await;
    // From an address that no other test will take meanwhile.
    let [_, b, c, d, ..] = rt.random().to_be_bytes();
    let alias = SocketAddr::from((Ipv4Addr::new(127, b, c, d.clamp(1, 254)), 0));
    // By a reset, so that the port is free at once.
    let first = rt.dial_raw_from(alias, node.addr()).await;
    let from = first.socket().local_addr().unwrap();
    rt.until("the first one is connected", || node.is_connected(from)).await;
    let former = node.peer(from).unwrap();
    first.socket().abort();
    drop(first);
    former.closed().await;

    let mut next = rt.dial_raw_from(from, node.addr()).await;
    rt.until("the next one is connected", || node.is_connected(from)).await;
    let current = node.peer(from).unwrap();
    assert!(former != current && former.addr() == current.addr());
    comes_back(&node, &former).await;
    former.disconnect().await;
    former.disconnect_now().await;
    node.disconnect_now(&former).await;
    assert!(current.is_connected() && !former.is_connected());

    node.unicast(from, "for the next one".into()).unwrap();
    let mut received = vec![0; frame("for the next one").len()];
    rt.within("the message", next.read_exact(&mut received)).await.unwrap();
    assert_eq!(received, frame("for the next one"));
    rt.until("it is counted", || current.stats().messages_sent == 1).await;
    bystander.is_unharmed(rt, &node).await;
}

async fn a_message_to_another_nodes_peer_comes_back(rt: &TestRuntime) {
    let (node, other) = (rt.start().await, rt.start().await);
    let (there, back) = meet(rt, &node, &other).await;
    comes_back(&other, &there).await;
    comes_back(&node, &back).await;
    other.disconnect_now(&there).await;
    assert!(there.is_connected() && back.is_connected());
}

async fn a_message_to_a_connection_in_set_up_comes_back(rt: &TestRuntime) {
    let node = rt.setup().handshake(|node, conn| async move {
        let peer = conn.peer().clone();
        comes_back(&node, &peer).await;
        assert!(node.peer(peer.addr()).is_none() && !peer.is_connected());
        let error = node.unicast(peer.addr(), "back".into()).map(drop).unwrap_err();
        assert!(matches!(error, SendError::NotConnected(_)), "{error}");
        Ok(conn)
    });
    Bystander::of(rt, &node.start().await).await;
}

async fn a_message_without_writing_comes_back(rt: &TestRuntime) {
    let node = rt.setup().without_writing().start().await;
    let (_, back) = meet(rt, &rt.start().await, &node).await;
    let error = node.unicast(&back, "back".into()).unwrap_err();
    let SendError::NotEnabled(message) = error else { panic!("{error}") };
    assert_eq!(message, "back");
    let error = node.send(&back, "back".into()).await.unwrap_err();
    assert!(matches!(error, SendError::NotEnabled(_)), "{error}");
    let error = node.send_encoded(&back, "back".into()).unwrap_err();
    assert!(matches!(error, SendError::NotEnabled(_)), "{error}");
    assert!(back.is_connected());
}

/// Another user's type around the same node, with another codec.
#[derive(Clone)]
struct Foreign(Node);

impl Pea2Pea for Foreign {
    fn node(&self) -> &Node {
        &self.0
    }
}

impl Writing for Foreign {
    type Message = Bytes;
    type Codec = LengthDelimited;

    fn codec(&self, _: &Peer) -> LengthDelimited {
        LengthDelimited::new(10)
    }
}

async fn a_message_of_another_codec_comes_back(rt: &TestRuntime) {
    let node = rt.start().await;
    let bystander = Bystander::of(rt, &node).await;
    let foreign = Foreign(Node::clone(&node));
    let error = foreign.unicast(bystander.peer(), "back".into()).unwrap_err();
    let SendError::NotEnabled(message) = error else { panic!("{error}") };
    assert_eq!(message, "back");
    bystander.is_unharmed(rt, &node).await;
}

async fn a_message_after_the_end_has_begun_comes_back(rt: &TestRuntime) {
    let node = rt.start().await;
    let raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    // The peer doesn't close, so the end waits for it once it is sealed.
    let end = peer.disconnect();
    rt.until("the connection takes nothing more", || node.unicast(&peer, "back".into()).is_err())
        .await;
    comes_back(&node, &peer).await;
    drop(raw);
    end.await;
}

type Encode = fn(&Bytes, &mut BytesMut) -> io::Result<()>;

/// A node of which the encoder does `bad` with the message "bad".
async fn with_encoder(rt: &TestRuntime, fatal: bool, bad: Encode) -> TestNode {
    let setup = rt.setup().knobs(|knobs| knobs.encode_error_is_fatal = fatal);
    let encoder = move |_, _| {
        move |message: Bytes, dst: &mut BytesMut| match &message[..] {
            b"bad" => bad(&message, dst),
            _ => LengthDelimited::new(1024).encode(message, dst),
        }
    };
    setup.encoder(encoder).start().await
}

fn half_a_frame(message: &Bytes, dst: &mut BytesMut) -> io::Result<()> {
    dst.put_u32(message.len() as u32);
    dst.put_slice(&message[..1]);
    Err(io::Error::other("on second thoughts, no"))
}

async fn an_encoders_error_concerns_one_message_only(rt: &TestRuntime) {
    let node = with_encoder(rt, false, half_a_frame).await;
    let bystander = Bystander::of(rt, &node).await;
    let other = rt.start().await;
    let (peer, _) = meet(rt, &node, &other).await;
    for i in 0..100 {
        node.unicast(&peer, format!("{i}").into()).unwrap();
        let error = match i % 2 {
            0 => node.unicast(&peer, "bad".into()).unwrap_err(),
            _ => node.send(&peer, "bad".into()).await.unwrap_err(),
        };
        assert!(error.to_string().contains("on second thoughts, no"), "{error}");
        assert!(matches!(error, SendError::Encode(_)), "{error}");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidData);
    }
    rt.until("all good messages have come", || other.num_messages() == 100).await;
    let sent: Vec<_> = (0..100).map(|i| Bytes::from(format!("{i}"))).collect();
    assert_eq!(other.messages(), sent);
    assert!(peer.is_connected());
    let answers = node.broadcast("bad".into());
    assert_eq!(answers.len(), 2);
    for (_, answer) in answers {
        assert!(matches!(answer, Err(SendError::Encode(_))));
    }
    bystander.is_unharmed(rt, &node).await;
}

async fn a_fatal_encoders_error_ends_the_connection(rt: &TestRuntime) {
    let node = with_encoder(rt, true, half_a_frame).await;
    let bystander = Bystander::of(rt, &node).await;
    let other = rt.start().await;
    let (peer, _) = meet(rt, &node, &other).await;
    let error = node.unicast(&peer, "bad".into()).unwrap_err();
    assert!(matches!(error, SendError::Encode(_)), "{error}");
    let reason = end_of(rt, &peer).await;
    assert!(matches!(reason, DisconnectReason::Encoder), "{reason}");
    comes_back(&node, &peer).await;
    assert_eq!(other.num_messages(), 0);
    bystander.is_unharmed(rt, &node).await;
}

async fn a_message_over_the_limit_is_refused(rt: &TestRuntime) {
    let node = rt.setup().knobs(|knobs| knobs.max_frame_bytes = 1024).start().await;
    let bystander = Bystander::of(rt, &node).await;
    let error = node.unicast(bystander.peer(), vec![0; 1025].into()).unwrap_err();
    let SendError::Encode(error) = error else { panic!("{error}") };
    let error = error.downcast::<io::Error>().expect("what the codec returned");
    let inner = error.get_ref().and_then(|error| error.downcast_ref::<FrameTooLong>());
    assert_eq!(inner, Some(&FrameTooLong { frame_bytes: 1025, max_frame_bytes: 1024 }));
    node.unicast(bystander.peer(), vec![0; 1024].into()).unwrap();
    rt.until("the largest has come", || {
        bystander.node().messages().contains(&vec![0; 1024].into())
    })
    .await;
    bystander.is_unharmed(rt, &node).await;
}

/// Sends "bad" behind an earlier frame that can't leave, and checks that only this connection
/// ends, and that nothing of the damage is ever sent.
async fn breaks_its_connection_only(rt: &TestRuntime, bad: Encode) {
    let node = with_encoder(rt, false, bad).await;
    let bystander = Bystander::of(rt, &node).await;
    let mut raw = rt.listen_raw().await;
    let peer = node.connect(raw.addr).await.unwrap();
    let mut stream = raw.accept().await;
    // More than the kernel takes, so that the writer is busy with it.
    let many = Bytes::from(vec![7; 32 * 1024 * 1024]);
    node.send_encoded(&peer, many).unwrap();
    rt.until("it is being sent", || peer.stats().bytes_sent > 0).await;
    let delivery = node.unicast(&peer, "earlier".into()).unwrap();
    let error = node.unicast(&peer, "bad".into()).unwrap_err();
    assert!(matches!(error, SendError::EncoderBroken), "{error}");
    assert!(error.into_message().is_none());
    delivery.await.unwrap_err();
    let reason = end_of(rt, &peer).await;
    assert!(matches!(reason, DisconnectReason::Encoder), "{reason}");
    comes_back(&node, &peer).await;
    let mut received = Vec::new();
    rt.within("the peer notices", stream.read_to_end(&mut received)).await.unwrap_err();
    assert!(received.iter().all(|byte| *byte == 7));
    bystander.is_unharmed(rt, &node).await;
}

async fn an_encoder_that_panics_ends_its_connection_only(rt: &TestRuntime) {
    rt.expect_hook_panics(1);
    let panics: Encode = |_, dst| {
        dst.put_slice(b"half");
        panic_any(ON_PURPOSE)
    };
    breaks_its_connection_only(rt, panics).await;
}

async fn an_encoder_that_removes_earlier_frames_ends_its_connection_only(rt: &TestRuntime) {
    let all: Encode = |_, dst| {
        dst.clear();
        Ok(())
    };
    let one_byte: Encode = |_, dst| {
        dst.truncate(dst.len() - 1);
        Ok(())
    };
    let split_off: Encode = |_, dst| {
        drop(dst.split());
        Ok(())
    };
    let with_an_error: Encode = |_, dst| {
        dst.clear();
        Err(io::Error::other("and it says so"))
    };
    for removes in [all, one_byte, split_off, with_an_error] {
        breaks_its_connection_only(rt, removes).await;
    }
}

async fn an_encoder_that_replaces_earlier_frames_ends_its_connection_only(rt: &TestRuntime) {
    let replaces: Encode = |_, dst| {
        let length = dst.len();
        *dst = BytesMut::zeroed(length + 10);
        Ok(())
    };
    breaks_its_connection_only(rt, replaces).await;
}

async fn an_encoder_that_writes_nothing_is_harmless(rt: &TestRuntime) {
    let node = with_encoder(rt, false, |_, _| Ok(())).await;
    let other = rt.start().await;
    let (peer, _) = meet(rt, &node, &other).await;
    let delivery = node.unicast(&peer, "bad".into()).unwrap();
    rt.within("nothing is delivered at once", delivery).await.unwrap();
    node.send_encoded(&peer, Bytes::new()).unwrap().await.unwrap();
    node.unicast(&peer, "good".into()).unwrap();
    rt.until("the next message has come", || other.messages() == ["good"]).await;
    peer.disconnect().await;
    assert!(matches!(peer.disconnect_reason(), Some(DisconnectReason::User)));
}

async fn an_encoder_cannot_send(rt: &TestRuntime) {
    type Results = Arc<Mutex<Vec<Result<(), SendError<Bytes>>>>>;
    let results = Results::default();
    let inside = Arc::clone(&results);
    let encoder = move |node: TestNode, own: Peer| {
        let results = Arc::clone(&inside);
        move |message: Bytes, dst: &mut BytesMut| {
            if message == "outer" {
                let mut results = results.lock().unwrap();
                for peer in node.peers() {
                    results.push(node.unicast(&peer, "inner".into()).map(drop));
                    results.push(node.unicast(peer.addr(), "inner".into()).map(drop));
                    let send = node.send(&peer, "inner".into()).now_or_never();
                    results.push(send.expect("it doesn't wait").map(drop));
                    results.push(node.send_encoded(&peer, "inner".into()).map(drop));
                }
                let answers = node.broadcast("inner".into());
                results.extend(answers.into_iter().map(|(_, answer)| answer.map(drop)));
                // What doesn't send is fine.
                assert!(own.is_connected() && own.stats().queued_bytes < 1 << 20);
                assert!(node.stats().queued_bytes < 1 << 20 && node.is_connected(own.addr()));
            }
            LengthDelimited::new(1024).encode(message, dst)
        }
    };
    let node = rt.setup().encoder(encoder).start().await;
    let bystander = Bystander::of(rt, &node).await;
    let other = rt.start().await;
    let (peer, _) = meet(rt, &node, &other).await;
    node.unicast(&peer, "outer".into()).unwrap();
    let results = std::mem::take(&mut *results.lock().unwrap());
    assert_eq!(results.len(), 2 * 5);
    for result in results {
        let Err(SendError::Reentrant(message)) = result else { panic!("{result:?}") };
        assert_eq!(message, "inner");
    }
    node.unicast(&peer, "next".into()).unwrap();
    rt.until("both messages have come", || other.messages() == ["outer", "next"]).await;
    bystander.is_unharmed(rt, &node).await;
}

async fn an_encoder_may_disconnect_its_own_connection(rt: &TestRuntime) {
    for now in [false, true] {
        let encoder = move |node: TestNode, own: Peer| {
            move |message: Bytes, dst: &mut BytesMut| {
                if message == "last" {
                    let _end = if now { node.disconnect_now(&own) } else { own.disconnect() };
                }
                LengthDelimited::new(1024).encode(message, dst)
            }
        };
        let node = rt.setup().encoder(encoder).start().await;
        let bystander = Bystander::of(rt, &node).await;
        let other = rt.start().await;
        let (peer, _) = meet(rt, &node, &other).await;
        // It may be too late for the message, but not for an answer.
        let _ = node.unicast(&peer, "last".into());
        match end_of(rt, &peer).await {
            DisconnectReason::User => assert!(!now),
            DisconnectReason::UserNow => assert!(now),
            reason => panic!("{reason}"),
        }
        bystander.is_unharmed(rt, &node).await;
    }
}

async fn an_encoder_may_shut_its_node_down(rt: &TestRuntime) {
    let encoder = |node: TestNode, _| {
        move |message: Bytes, dst: &mut BytesMut| {
            drop(node.shut_down());
            LengthDelimited::new(1024).encode(message, dst)
        }
    };
    let node = rt.setup().encoder(encoder).start().await;
    let other = rt.start().await;
    let (peer, _) = meet(rt, &node, &other).await;
    let _ = node.unicast(&peer, "last".into());
    let reason = end_of(rt, &peer).await;
    assert!(matches!(reason, DisconnectReason::Shutdown), "{reason}");
    rt.within("the end of the node", node.shut_down()).await;
}

/// A node that can't make an encoder, or not once it is armed.
async fn without_encoder(rt: &TestRuntime) -> (TestNode, Once) {
    let panics = Once::default();
    let armed = panics.clone();
    let encoder = move |_, _| {
        armed.panics();
        |message: Bytes, dst: &mut BytesMut| LengthDelimited::new(1024).encode(message, dst)
    };
    (rt.setup().encoder(encoder).start().await, panics)
}

async fn an_encoder_that_cannot_be_made_fails_the_dial(rt: &TestRuntime) {
    rt.expect_hook_panics(1);
    let (node, panics) = without_encoder(rt).await;
    let bystander = Bystander::of(rt, &node).await;
    let other = rt.start().await;
    panics.arm();
    let error = node.connect(other.addr()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Panicked(addr) if addr == other.addr()), "{error}");
    assert_eq!((node.num_connecting(), node.is_connected(other.addr())), (0, false));
    bystander.is_unharmed(rt, &node).await;
    meet(rt, &node, &other).await;
}

async fn an_encoder_that_cannot_be_made_turns_a_caller_away(rt: &TestRuntime) {
    rt.expect_hook_panics(1);
    let (node, panics) = without_encoder(rt).await;
    let bystander = Bystander::of(rt, &node).await;
    let greeted = node.num_connects();
    panics.arm();
    let mut raw = rt.dial_raw(node.addr()).await;
    let read = rt.within("the connection is closed", raw.read(&mut [0])).await;
    assert_eq!(read.unwrap_or(0), 0);
    rt.until("the set-up is given up", || node.num_connecting() == 0).await;
    assert_eq!(node.num_connects(), greeted);
    bystander.is_unharmed(rt, &node).await;
}
