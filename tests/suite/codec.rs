//! Codecs: frames in pieces, frames too big, and encoders that fail.

use crate::harness::{Case, TestRuntime, case, frame, meet};
use anypea::{
    Config, DisconnectReason, Node, Pea2Pea, Peer, Reading, SendError, Writing,
    asynchronous_codec::Decoder,
    bytes::{BufMut, Bytes, BytesMut},
};
use futures::AsyncWriteExt;
use std::{
    io,
    sync::{Arc, Mutex},
};

pub fn cases() -> Vec<Case> {
    vec![
        case(a_failed_encoding_is_rolled_back),
        case(a_failed_encoding_ends_the_connection_if_it_is_fatal),
        case(an_encoder_that_panics_ends_its_connection_only),
        case(an_encoder_that_removes_earlier_bytes_ends_the_connection),
        case(frames_are_put_together_byte_by_byte),
        case(many_frames_in_one_read_are_all_processed),
        case(a_frame_that_is_too_long_ends_the_connection),
        case(a_decoder_that_waits_for_ever_is_bounded),
        case(decode_eof_gets_what_is_left_at_the_fin),
    ]
}

/// Encodes as usual, but fails for some messages, half-way.
fn faulty(message: Bytes, dst: &mut BytesMut) -> io::Result<()> {
    let expected = dst.len();
    dst.put_slice(&frame(&message)[..4]);
    match &message[..] {
        b"fail" => return Err(io::Error::other("no such message")),
        b"panic" => panic!("on purpose"),
        b"remove" => dst.truncate(expected.saturating_sub(1)),
        _ => dst.put_slice(&message),
    }
    Ok(())
}

async fn a_failed_encoding_is_rolled_back(rt: &TestRuntime) {
    let alice = rt.setup().encoder(|_, _| faulty).start().await;
    let bob = rt.start().await;
    let (peer, _) = meet(rt, &alice, &bob).await;
    for i in 0..100u8 {
        alice.unicast(&peer, vec![i].into()).unwrap();
        let failed = match i % 2 {
            0 => alice.unicast(&peer, "fail".into()),
            _ => rt.within("the send", alice.send(&peer, "fail".into())).await,
        };
        let Err(SendError::Encode(error)) = failed else { panic!("{failed:?}") };
        assert_eq!(error.to_string(), "no such message");
    }
    rt.within("the disconnect", peer.disconnect()).await;
    rt.until("bob has seen the end", || bob.reasons().len() == 1).await;
    assert!(matches!(bob.reasons()[0], DisconnectReason::PeerClosed));
    assert!(bob.messages().iter().zip(0..).all(|(message, i)| message[..] == [i]));
    let stats = peer.stats();
    assert_eq!((bob.num_messages(), stats.messages_sent, stats.bytes_sent), (100, 100, 500));
}

async fn a_failed_encoding_ends_the_connection_if_it_is_fatal(rt: &TestRuntime) {
    let alice = rt.setup().encoder(|_, _| faulty).knobs(|knobs| knobs.encode_error_is_fatal = true);
    let (alice, bob) = (alice.start().await, rt.start().await);
    let (peer, _) = meet(rt, &alice, &bob).await;
    let failed = alice.unicast(&peer, "fail".into());
    assert!(matches!(failed, Err(SendError::Encode(_))), "{failed:?}");
    rt.until("the connection has ended", || alice.reasons().len() == 1).await;
    assert!(matches!(alice.reasons()[0], DisconnectReason::Encoder));
}

/// Has an encoder break the stream with `message`, and checks that it is a matter of one
/// connection.
async fn break_stream(rt: &TestRuntime, message: &'static str) {
    let alice = rt.setup().encoder(|_, _| faulty);
    let alice = alice.config(|config| config.socket.send_buffer_bytes = Some(32 * 1024));
    let (alice, carol) = (alice.start().await, rt.start().await);
    let bob = rt.listen_raw().await;
    let to_bob = alice.connect(bob.addr).await.unwrap();
    let (to_carol, _) = meet(rt, &alice, &carol).await;
    // More than the sockets hold, so that there are bytes to be removed.
    let big = vec![7; 8 * 1024 * 1024];
    alice.unicast(&to_bob, big.into()).unwrap();
    rt.until("the writer is at work", || to_bob.stats().bytes_sent > 0).await;
    alice.unicast(&to_bob, "before".into()).unwrap();
    let broken = alice.unicast(&to_bob, message.into());
    assert!(matches!(broken, Err(SendError::EncoderBroken)), "{broken:?}");
    let after = alice.unicast(&to_bob, "after".into());
    assert!(matches!(after, Err(SendError::NotConnected(_))), "{after:?}");
    rt.until("the connection has ended", || alice.reasons().len() == 1).await;
    assert!(matches!(alice.reasons()[0], DisconnectReason::Encoder));
    alice.unicast(&to_carol, "unharmed".into()).unwrap();
    rt.until("carol has it", || carol.messages() == ["unharmed"]).await;
}

async fn an_encoder_that_panics_ends_its_connection_only(rt: &TestRuntime) {
    rt.expect_hook_panics(1);
    break_stream(rt, "panic").await;
}

async fn an_encoder_that_removes_earlier_bytes_ends_the_connection(rt: &TestRuntime) {
    break_stream(rt, "remove").await;
}

async fn frames_are_put_together_byte_by_byte(rt: &TestRuntime) {
    let node = rt.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let all = [frame(""), frame("a"), frame("two words"), frame("")].concat();
    let peer = node.only_peer(rt).await;
    for (byte, read) in all.iter().zip(1..) {
        raw.write_all(&[*byte]).await.unwrap();
        rt.until("the byte is read", || peer.stats().bytes_received == read).await;
    }
    rt.until("all are there", || node.num_messages() == 4).await;
    assert_eq!(node.messages(), ["", "a", "two words", ""]);
}

async fn many_frames_in_one_read_are_all_processed(rt: &TestRuntime) {
    let node = rt.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let all: Vec<_> = (0..20_000u16).flat_map(|i| frame(i.to_be_bytes())).collect();
    raw.write_all(&all).await.unwrap();
    rt.until("all are there", || node.num_messages() == 20_000).await;
    assert!(node.messages().iter().zip(0u16..).all(|(m, i)| m[..] == i.to_be_bytes()));
}

async fn a_frame_that_is_too_long_ends_the_connection(rt: &TestRuntime) {
    let node = rt.setup().knobs(|knobs| knobs.max_frame_bytes = 100).start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&frame([7; 100])).await.unwrap();
    raw.write_all(&frame([7; 101])).await.unwrap();
    rt.until("the connection has ended", || node.reasons().len() == 1).await;
    let reasons = node.reasons();
    assert!(matches!(&reasons[0], DisconnectReason::Undecodable(_)), "{reasons:?}");
    assert_eq!(node.num_messages(), 1);
}

async fn a_decoder_that_waits_for_ever_is_bounded(rt: &TestRuntime) {
    let node = rt.setup().knobs(|knobs| knobs.max_buffered_bytes = 10_000);
    let node = node.decoder(|_, _| |_: &mut BytesMut| Ok(None)).start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    raw.write_all(&[7; 10_000]).await.unwrap();
    rt.until("all is read", || peer.stats().bytes_received == 10_000).await;
    assert!(peer.is_connected(), "it is allowed");
    raw.write_all(&[7]).await.unwrap();
    rt.until("the connection has ended", || node.reasons().len() == 1).await;
    let reasons = node.reasons();
    let full = matches!(reasons[0], DisconnectReason::BufferFull { max_buffered_bytes: 10_000 });
    assert!(full, "{reasons:?}");
}

/// Reads until the FIN, and takes all as one message.
#[derive(Clone)]
struct Whole {
    node: Node,
    messages: Arc<Mutex<Vec<Bytes>>>,
}

struct UntilFin;

impl Decoder for UntilFin {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, _: &mut BytesMut) -> io::Result<Option<Bytes>> {
        Ok(None)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        Ok((!src.is_empty()).then(|| src.split().freeze()))
    }
}

impl Pea2Pea for Whole {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Whole {
    type Codec = UntilFin;

    fn codec(&self, _: &Peer) -> UntilFin {
        UntilFin
    }

    async fn process_message(&self, _: &Peer, message: Bytes) -> io::Result<()> {
        self.messages.lock().unwrap().push(message);
        Ok(())
    }
}

async fn decode_eof_gets_what_is_left_at_the_fin(rt: &TestRuntime) {
    let config = Config { listening_addr: Some(rt.localhost()), ..Config::default() };
    let whole = Whole { node: rt.node(config), messages: Arc::default() };
    whole.enable_reading().unwrap();
    let mut raw = rt.dial_raw(whole.node.start_listening().await.unwrap()).await;
    raw.write_all(b"all of ").await.unwrap();
    rt.until("it is read", || whole.node.stats().bytes_received == 7).await;
    raw.write_all(b"this").await.unwrap();
    raw.close().await.unwrap();
    rt.until("it is processed", || *whole.messages.lock().unwrap() == ["all of this"]).await;
}
