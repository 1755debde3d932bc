//! Streams of what is no TCP socket.

use anypea_runtime::{
    Socket, Stream,
    socket2::{Domain, SockRef, Socket as RawSocket, Type},
};
use futures_util::{AsyncReadExt, AsyncWriteExt, FutureExt, io::Cursor};
use std::{
    io::{ErrorKind, IoSlice},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

fn in_memory() -> Cursor<Vec<u8>> {
    Cursor::new(b"what is read".to_vec())
}

#[test]
fn both_halves_share_one_stream() {
    let (mut reader, mut writer, _socket) = Stream::new(in_memory()).into_parts();
    let mut heard = [0; 5];
    reader.read_exact(&mut heard).now_or_never().expect("memory").expect("read");
    assert_eq!(&heard, b"what ");
    writer.write_all(b"XX").now_or_never().expect("memory").expect("write");
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).now_or_never().expect("memory").expect("read");
    assert_eq!(rest, b" read", "reading goes on behind what was written");
}

#[test]
fn vectored_writes_pass_through_the_lock() {
    let (_reader, mut writer, _socket) = Stream::new(in_memory()).into_parts();
    let slices = [IoSlice::new(b"one"), IoSlice::new(b"two")];
    let taken = writer.write_vectored(&slices).now_or_never().expect("memory").expect("write");
    assert_eq!(taken, 6);
}

#[test]
fn a_stream_without_socket_has_no_address() {
    let stream = Stream::new(in_memory());
    let error = stream.socket().local_addr().expect_err("there is no socket");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = stream.socket().peer_addr().expect_err("there is no socket");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(stream.socket().sock_ref().is_none());
    stream.socket().abort();
}

struct Real(RawSocket);

impl Socket for Real {
    fn sock_ref(&self) -> Option<SockRef<'_>> {
        Some(SockRef::from(&self.0))
    }
}

#[test]
fn a_socket_speaks_for_the_stream_that_runs_over_it() {
    let socket = RawSocket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).expect("bind");
    let stream = Stream::with_socket(in_memory(), Arc::new(Real(socket)));
    let local = stream.socket().local_addr().expect("it is bound");
    assert_eq!(local.ip(), any.ip());
    assert_ne!(local.port(), 0);
    let error = stream.socket().peer_addr().expect_err("it is not connected");
    assert_eq!(error.kind(), ErrorKind::NotConnected);
}
