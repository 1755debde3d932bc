//! Decoders that fail, and bytes that no decoder likes.

use super::bystander::{Bystander, end_of};
use crate::harness::{Case, ON_PURPOSE, TestNode, TestRuntime, case, frame};
use anypea::{
    Config, DisconnectReason, Disconnected, Hook, Node, OnDisconnect, Pea2Pea, Peer, Reading,
    asynchronous_codec::Decoder,
    bytes::{Bytes, BytesMut},
    codec::{FrameTooLong, LengthDelimited},
    runtime::Runtime,
};
use futures::{AsyncReadExt, AsyncWriteExt};
use std::{
    io,
    net::SocketAddr,
    panic::panic_any,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

pub fn cases() -> Vec<Case> {
    vec![
        case(a_decoder_that_errs_ends_its_connection_only),
        case(a_decoder_that_panics_ends_its_connection_only),
        case(a_decoder_that_errs_after_good_frames_loses_none_of_them),
        case(a_decoder_that_makes_no_progress_ends_its_connection_only),
        case(a_decoder_that_removes_what_it_cannot_use_goes_on),
        case(a_decoder_that_adds_bytes_is_bounded),
        // In virtual time, a task that never waits stops the clock.
        case(a_decoder_that_never_ends_holds_no_thread).except(&["sim"]),
        case(a_decoder_that_cannot_be_made_ends_its_connection_only),
        case(a_decoder_that_errs_at_the_end_is_told_from_a_cut_frame),
        case(a_decoder_that_panics_at_the_end_is_named),
        case(a_frame_over_the_limit_is_named),
        case(a_frame_over_the_limit_after_good_ones_loses_none_of_them),
        case(a_claim_of_four_gigabytes_takes_no_memory),
        case(a_frame_over_the_buffer_bound_is_named),
        case(a_peer_that_closes_inside_a_frame_is_named),
        case(a_cut_frame_is_named_with_the_codec_that_ships),
        case(garbage_ends_its_connection_only),
        case(empty_frames_are_messages),
    ]
}

type Decode = fn(&mut BytesMut) -> io::Result<Option<Bytes>>;

/// A node of which the decoder does `bad` once a frame begins with "bad", as no honest one does.
fn with_decoder(rt: &TestRuntime, bad: Decode) -> crate::harness::Setup {
    let decoder = move |_, _| {
        move |src: &mut BytesMut| match src.starts_with(b"bad") {
            true => bad(src),
            false => LengthDelimited::new(1024).decode(src),
        }
    };
    rt.setup().knobs(|knobs| knobs.max_buffered_bytes = 10_000).decoder(decoder)
}

/// Sends `bytes` to `node` and waits for what becomes of it.
async fn reason_for(rt: &TestRuntime, node: &TestNode, bytes: &[u8]) -> DisconnectReason {
    let mut raw = rt.dial_raw(node.addr()).await;
    let from = raw.socket().local_addr().unwrap();
    rt.until("it is connected", || node.is_connected(from)).await;
    let peer = node.peer(from).unwrap();
    raw.write_all(bytes).await.unwrap();
    let reason = end_of(rt, &peer).await;
    // A peer that is reset learns it.
    let mut rest = Vec::new();
    let _ = rt.within("the peer notices", raw.read_to_end(&mut rest)).await;
    assert_eq!(node.reasons().last().map(ToString::to_string), Some(reason.to_string()));
    reason
}

async fn a_decoder_that_errs_ends_its_connection_only(rt: &TestRuntime) {
    let node = with_decoder(rt, |_| Err(io::Error::other("that is no frame"))).start().await;
    let bystander = Bystander::of(rt, &node).await;
    let reason = reason_for(rt, &node, b"bad").await;
    assert!(matches!(reason, DisconnectReason::Undecodable(_)), "{reason}");
    assert!(reason.to_string().contains("that is no frame"), "{reason}");
    bystander.is_unharmed(rt, &node).await;
}

async fn a_decoder_that_panics_ends_its_connection_only(rt: &TestRuntime) {
    rt.expect_hook_panics(1);
    let node = with_decoder(rt, |_| panic_any(ON_PURPOSE)).start().await;
    let bystander = Bystander::of(rt, &node).await;
    let reason = reason_for(rt, &node, b"bad").await;
    assert!(matches!(reason, DisconnectReason::Panicked(Hook::Decoder)), "{reason}");
    bystander.is_unharmed(rt, &node).await;
}

async fn a_decoder_that_errs_after_good_frames_loses_none_of_them(rt: &TestRuntime) {
    let node = with_decoder(rt, |_| Err(io::ErrorKind::InvalidData.into())).start().await;
    let mut bytes: Vec<_> = (0..100).flat_map(|i| frame(format!("{i}"))).collect();
    bytes.extend(b"bad");
    bytes.extend(frame("never seen"));
    let reason = reason_for(rt, &node, &bytes).await;
    assert!(matches!(reason, DisconnectReason::Undecodable(_)), "{reason}");
    let good: Vec<_> = (0..100).map(|i| Bytes::from(format!("{i}"))).collect();
    assert_eq!(node.messages(), good);
}

async fn a_decoder_that_makes_no_progress_ends_its_connection_only(rt: &TestRuntime) {
    let node = with_decoder(rt, |_| Ok(None)).start().await;
    let bystander = Bystander::of(rt, &node).await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let from = raw.socket().local_addr().unwrap();
    rt.until("it is connected", || node.is_connected(from)).await;
    let peer = node.peer(from).unwrap();
    raw.write_all(b"bad").await.unwrap();
    // Without an end, but that the node makes.
    while raw.write_all(&[0; 5_000]).await.is_ok() {}
    let reason = end_of(rt, &peer).await;
    let DisconnectReason::BufferFull { max_buffered_bytes } = reason else { panic!("{reason}") };
    assert_eq!(max_buffered_bytes, 10_000);
    assert!(reason.to_string().contains("max_buffered_bytes"), "{reason}");
    // One more read than allowed, at most.
    assert!(peer.stats().bytes_received < 100_000, "{:?}", peer.stats());
    bystander.is_unharmed(rt, &node).await;
}

async fn a_decoder_that_removes_what_it_cannot_use_goes_on(rt: &TestRuntime) {
    let skips: Decode = |src| {
        let _ = src.split_to(3);
        Ok(None)
    };
    let node = with_decoder(rt, skips).start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(b"bad").await.unwrap();
    rt.until("it is skipped", || node.stats().bytes_received == 3).await;
    raw.write_all(&frame("good")).await.unwrap();
    rt.until("the message has come", || node.messages() == ["good"]).await;
}

async fn a_decoder_that_adds_bytes_is_bounded(rt: &TestRuntime) {
    let grows: Decode = |src| {
        src.extend_from_slice(&[0; 20_000]);
        Ok(None)
    };
    let node = with_decoder(rt, grows).start().await;
    let reason = reason_for(rt, &node, b"bad").await;
    assert!(matches!(reason, DisconnectReason::BufferFull { .. }), "{reason}");
}

async fn a_decoder_that_cannot_be_made_ends_its_connection_only(rt: &TestRuntime) {
    rt.expect_hook_panics(1);
    let armed = Arc::new(AtomicUsize::new(usize::MAX));
    let count = Arc::clone(&armed);
    let decoder = move |_, _| {
        // The first codec of a connection is the one that encodes.
        if count.fetch_sub(1, SeqCst) == 1 {
            panic_any(ON_PURPOSE);
        }
        |src: &mut BytesMut| LengthDelimited::new(1024).decode(src)
    };
    let node = rt.setup().decoder(decoder).start().await;
    let bystander = Bystander::of(rt, &node).await;
    armed.store(2, SeqCst);
    // It may be reset before it even knows that it is connected.
    let raw = rt.try_dial_raw(node.addr(), &Default::default()).await;
    let last = |node: &TestNode| node.reasons().pop();
    rt.until("the connection has ended", || {
        matches!(last(&node), Some(DisconnectReason::Panicked(Hook::Decoder)))
    })
    .await;
    armed.store(usize::MAX, SeqCst);
    drop(raw);
    bystander.is_unharmed(rt, &node).await;
}

/// A node with a decoder that is well until the end, or comes to no end.
#[derive(Clone)]
struct BadEnd {
    node: Node,
    kind: Kind,
    reason: Arc<Mutex<Option<DisconnectReason>>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Errs,
    Panics,
    Endless,
}

struct BadEndCodec(Kind);

impl Decoder for BadEndCodec {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        let endless = self.0 == Kind::Endless && !src.is_empty();
        Ok(endless.then(Bytes::new))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        match self.0 {
            Kind::Errs => Err(io::Error::other("not like this")),
            Kind::Panics => panic_any(ON_PURPOSE),
            Kind::Endless => self.decode(src),
        }
    }
}

impl Pea2Pea for BadEnd {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for BadEnd {
    type Codec = BadEndCodec;

    fn codec(&self, _: &Peer) -> BadEndCodec {
        BadEndCodec(self.kind)
    }

    async fn process_message(&self, _: &Peer, _: Bytes) -> io::Result<()> {
        Ok(())
    }
}

impl OnDisconnect for BadEnd {
    async fn on_disconnect(&self, _: &Peer, reason: DisconnectReason) {
        *self.reason.lock().unwrap() = Some(reason);
    }
}

async fn bad_end(rt: &TestRuntime, kind: Kind) -> (BadEnd, SocketAddr) {
    let node = rt.node(Config { listening_addr: Some(rt.localhost()), ..Config::default() });
    let node = BadEnd { node, kind, reason: Arc::default() };
    node.enable_reading().unwrap();
    node.enable_on_disconnect().unwrap();
    let addr = node.node.start_listening().await.unwrap();
    (node, addr)
}

async fn reason_at_the_end(rt: &TestRuntime, kind: Kind) -> DisconnectReason {
    let (node, addr) = bad_end(rt, kind).await;
    let mut raw = rt.dial_raw(addr).await;
    raw.write_all(b"cut").await.unwrap();
    raw.close().await.unwrap();
    rt.until("the connection has ended", || node.reason.lock().unwrap().is_some()).await;
    node.reason.lock().unwrap().take().unwrap()
}

async fn a_decoder_that_never_ends_holds_no_thread(rt: &TestRuntime) {
    let (BadEnd { node, .. }, addr) = bad_end(rt, Kind::Endless).await;
    let mut raw = rt.dial_raw(addr).await;
    raw.write_all(b"!").await.unwrap();
    rt.until("messages come out of nothing", || node.stats().messages_received > 0).await;
    let peer = node.peers().remove(0);
    drop(raw);
    let ended = rt.within("the end", peer.disconnect()).await;
    assert!(matches!(ended, Disconnected::Ended(DisconnectReason::User)), "{ended:?}");
}

async fn a_decoder_that_errs_at_the_end_is_told_from_a_cut_frame(rt: &TestRuntime) {
    let reason = reason_at_the_end(rt, Kind::Errs).await;
    assert!(matches!(reason, DisconnectReason::Undecodable(_)), "{reason}");
    assert!(reason.to_string().contains("not like this"), "{reason}");
}

async fn a_decoder_that_panics_at_the_end_is_named(rt: &TestRuntime) {
    rt.expect_hook_panics(1);
    let reason = reason_at_the_end(rt, Kind::Panics).await;
    assert!(matches!(reason, DisconnectReason::Panicked(Hook::Decoder)), "{reason}");
}

/// Returns the codec's error inside a reason.
fn too_long(reason: &DisconnectReason) -> Option<FrameTooLong> {
    let DisconnectReason::Undecodable(error) = reason else { return None };
    error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref().copied()
}

async fn a_frame_over_the_limit_is_named(rt: &TestRuntime) {
    let node = rt.setup().knobs(|knobs| knobs.max_frame_bytes = 1024).start().await;
    let bystander = Bystander::of(rt, &node).await;
    let reason = reason_for(rt, &node, &frame([0; 1025])[..4]).await;
    let expected = FrameTooLong { frame_bytes: 1025, max_frame_bytes: 1024 };
    assert_eq!(too_long(&reason), Some(expected), "{reason}");
    bystander.is_unharmed(rt, &node).await;
    // The largest is fine.
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&frame([0; 1024])).await.unwrap();
    rt.until("the largest has come", || node.messages().contains(&vec![0; 1024].into())).await;
}

async fn a_frame_over_the_limit_after_good_ones_loses_none_of_them(rt: &TestRuntime) {
    let node = rt.setup().knobs(|knobs| knobs.max_frame_bytes = 10).start().await;
    let bytes = [frame("one"), frame("two"), frame([0; 11])].concat();
    let reason = reason_for(rt, &node, &bytes).await;
    assert!(too_long(&reason).is_some(), "{reason}");
    assert_eq!(node.messages(), ["one", "two"]);
}

async fn a_claim_of_four_gigabytes_takes_no_memory(rt: &TestRuntime) {
    // A codec without any limit, and how much it had reserved at most.
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    let decoder = move |_, _| {
        let seen = Arc::clone(&seen);
        move |src: &mut BytesMut| {
            let decoded = LengthDelimited::new(usize::MAX).decode(src);
            seen.fetch_max(src.capacity(), SeqCst);
            decoded
        }
    };
    let node = rt.setup().knobs(|knobs| knobs.max_buffered_bytes = 100_000);
    let node = node.decoder(decoder).start().await;
    let bystander = Bystander::of(rt, &node).await;
    let mut claim = u32::MAX.to_be_bytes().to_vec();
    claim.extend([7; 50_000]);
    let mut raw = rt.dial_raw(node.addr()).await;
    let from = raw.socket().local_addr().unwrap();
    raw.write_all(&claim).await.unwrap();
    rt.until("it is connected", || node.is_connected(from)).await;
    let peer = node.peer(from).unwrap();
    rt.until("it is buffered", || peer.stats().bytes_received == claim.len() as u64).await;
    assert!(peer.is_connected());
    raw.write_all(&claim).await.unwrap();
    let reason = end_of(rt, &peer).await;
    let bound = 100_000;
    assert!(
        matches!(reason, DisconnectReason::BufferFull { max_buffered_bytes } if max_buffered_bytes == bound),
        "{reason}"
    );
    // What has arrived, as much again, and what growth by doubling adds.
    assert!(most.load(SeqCst) <= 4 * bound, "{} bytes reserved", most.load(SeqCst));
    bystander.is_unharmed(rt, &node).await;
}

async fn a_frame_over_the_buffer_bound_is_named(rt: &TestRuntime) {
    let node = rt.setup().knobs(|knobs| knobs.max_buffered_bytes = 1_000).start().await;
    let reason = reason_for(rt, &node, &frame([0; 2_000])[..1_500]).await;
    assert!(matches!(reason, DisconnectReason::BufferFull { max_buffered_bytes: 1_000 }));
}

async fn a_peer_that_closes_inside_a_frame_is_named(rt: &TestRuntime) {
    let node = rt.start().await;
    let bystander = Bystander::of(rt, &node).await;
    let whole = frame("a frame");
    for length in 1..whole.len() {
        let mut raw = rt.dial_raw(node.addr()).await;
        let from = raw.socket().local_addr().unwrap();
        rt.until("it is connected", || node.is_connected(from)).await;
        let peer = node.peer(from).unwrap();
        raw.write_all(&whole[..length]).await.unwrap();
        raw.close().await.unwrap();
        let reason = end_of(rt, &peer).await;
        let DisconnectReason::Truncated { bytes } = reason else { panic!("{reason}") };
        assert_eq!(bytes, length);
    }
    bystander.is_unharmed(rt, &node).await;
}

/// A node with nothing of its own but the codec that ships with the library.
#[derive(Clone)]
struct Plain(Node);

impl Pea2Pea for Plain {
    fn node(&self) -> &Node {
        &self.0
    }
}

impl Reading for Plain {
    type Codec = LengthDelimited;

    fn codec(&self, _: &Peer) -> LengthDelimited {
        LengthDelimited::new(1024)
    }

    async fn process_message(&self, _: &Peer, _: Bytes) -> io::Result<()> {
        Ok(())
    }
}

async fn a_cut_frame_is_named_with_the_codec_that_ships(rt: &TestRuntime) {
    let node = rt.node(Config { listening_addr: Some(rt.localhost()), ..Config::default() });
    let node = Plain(node);
    node.enable_reading().unwrap();
    let mut raw = rt.dial_raw(node.0.start_listening().await.unwrap()).await;
    rt.until("it is connected", || node.0.num_connected() == 1).await;
    let peer = node.0.peers().remove(0);
    raw.write_all(&frame("a frame")[..6]).await.unwrap();
    raw.close().await.unwrap();
    let reason = end_of(rt, &peer).await;
    assert!(matches!(reason, DisconnectReason::Truncated { bytes: 6 }), "{reason}");
}

async fn garbage_ends_its_connection_only(rt: &TestRuntime) {
    let setup = rt.setup().knobs(|knobs| knobs.max_frame_bytes = 64);
    let node = setup.start().await;
    let bystander = Bystander::of(rt, &node).await;
    for _ in 0..10 {
        // A length within the limit would be a frame, and no garbage.
        let seed = rt.random() | 1 << 63;
        let garbage = (0..1_000).flat_map(|i| seed.wrapping_mul(2 * i + 1).to_be_bytes());
        let garbage: Vec<_> = garbage.collect();
        let reason = reason_for(rt, &node, &garbage).await;
        assert!(too_long(&reason).is_some(), "seed {seed}: {reason}");
    }
    bystander.is_unharmed(rt, &node).await;
}

async fn empty_frames_are_messages(rt: &TestRuntime) {
    let node = rt.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&[0; 4 * 10_000]).await.unwrap();
    rt.until("all have come", || node.num_messages() == 10_000).await;
    raw.close().await.unwrap();
    rt.until("the connection has ended", || !node.reasons().is_empty()).await;
    assert!(matches!(node.reasons()[0], DisconnectReason::PeerClosed));
}
