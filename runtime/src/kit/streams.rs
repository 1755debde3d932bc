//! Bytes on a live connection.

use super::{Case, host::Host};
use crate::{ConnectOptions, ListenOptions, SocketOptions, Stream};
use futures_channel::oneshot;
use futures_util::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt,
    future::{join, poll_immediate},
    task::noop_waker,
};
use std::{
    future::poll_fn,
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll},
};

pub(super) const CASES: &[Case] = &[
    Case::inside("bytes_come_back", |host| Box::pin(bytes_come_back(host))),
    Case::inside("both_directions_flow_at_once", |host| {
        Box::pin(both_directions_flow_at_once(host))
    }),
    Case::inside("a_vectored_write_takes_more_than_one_slice", |host| {
        Box::pin(a_vectored_write_takes_more_than_one_slice(host))
    }),
    Case::inside("a_full_connection_holds_its_writer", |host| {
        Box::pin(a_full_connection_holds_its_writer(host))
    }),
    Case::inside("the_waker_polled_last_is_woken", |host| {
        Box::pin(the_waker_polled_last_is_woken(host))
    }),
];

async fn bytes_come_back(host: Host) {
    let (mut dialed, mut accepted) = host.pair().await;
    for round in 0..100u8 {
        dialed.write_all(&[round; 7]).await.expect("write");
        dialed.flush().await.expect("flush");
        let mut heard = [0; 7];
        accepted.read_exact(&mut heard).await.expect("read");
        accepted.write_all(&heard).await.expect("write back");
        let mut back = [0; 7];
        dialed.read_exact(&mut back).await.expect("read back");
        assert_eq!(back, [round; 7]);
    }
}

async fn both_directions_flow_at_once(host: Host) {
    let (dialed, accepted) = host.pair().await;
    let [one, two] = [dialed, accepted].map(|stream| {
        let (mut reader, mut writer, _socket) = stream.into_parts();
        let written = host.start(async move {
            for chunk in 0..64 {
                writer.write_all(&block(chunk)).await.expect("write");
            }
            writer
        });
        let read = host.start(async move {
            let mut heard = vec![0; block(0).len()];
            for chunk in 0..64 {
                reader.read_exact(&mut heard).await.expect("read");
                assert_eq!(heard, block(chunk), "bytes stay in order");
            }
            reader
        });
        join(written, read)
    });
    let ((one, two), (three, four)) = join(one, two).await;
    assert!(one.is_ok() && two.is_ok() && three.is_ok() && four.is_ok(), "a task panicked");
}

/// Bytes that tell which block they belong to and where they stand in it.
fn block(number: usize) -> Vec<u8> {
    (0..16 * 1024).map(|at| (at % 251 + number) as u8).collect()
}

async fn a_vectored_write_takes_more_than_one_slice(host: Host) {
    let (mut dialed, mut accepted) = host.pair().await;
    let slices = [b"one ", b"two ", b"six "].map(|bytes| IoSlice::new(bytes));
    // Nothing is queued yet, so there is room for all of it. What falls back to writing the first
    // slice alone takes four bytes.
    let taken = dialed.write_vectored(&slices).await.expect("write");
    assert!(taken > slices[0].len(), "only the first slice was written");
    let (_reader, mut writer, _socket) = dialed.into_parts();
    let again = poll_fn(|cx| Pin::new(&mut writer).poll_write_vectored(cx, &slices)).await;
    let again = again.expect("write");
    assert!(again > slices[0].len(), "the write half wrote only the first slice");

    let mut heard = vec![0; taken + again];
    accepted.read_exact(&mut heard).await.expect("read");
    let all = b"one two six ";
    assert_eq!(heard, [&all[..taken], &all[..again]].concat());
}

async fn a_full_connection_holds_its_writer(host: Host) {
    let (mut dialed, mut accepted) = small_pair(&host).await;
    let queued = fill(&mut dialed).await;
    let reader = host.start(async move {
        let mut heard = vec![0; queued + 1];
        accepted.read_exact(&mut heard).await.map(|()| accepted)
    });
    // The writer has met a full connection, and now has to be woken.
    dialed.write_all(&[1]).await.expect("write");
    let _accepted = reader.await.expect("the reader panicked").expect("read");
}

/// A connection that is soon full.
pub(super) async fn small_pair(host: &Host) -> (Stream, Stream) {
    let small = SocketOptions {
        send_buffer_bytes: Some(16 * 1024),
        recv_buffer_bytes: Some(16 * 1024),
        ..SocketOptions::default()
    };
    let dialed = ConnectOptions { socket: small.clone(), ..ConnectOptions::default() };
    let accepted = ListenOptions { socket: small, ..ListenOptions::default() };
    host.pair_with(&dialed, &accepted).await
}

/// Writes until the connection takes no more, and returns how many bytes it took.
pub(super) async fn fill(stream: &mut Stream) -> usize {
    let chunk = vec![0; 16 * 1024];
    let mut queued = 0;
    while let Some(written) = poll_immediate(stream.write(&chunk)).await {
        queued += written.expect("write");
        assert!(queued < 1 << 28, "a connection that nobody reads takes bytes without end");
    }
    queued
}

async fn the_waker_polled_last_is_woken(host: Host) {
    let (mut dialed, mut accepted) = small_pair(&host).await;
    let mut queued = fill(&mut dialed).await;
    let (mut reader, mut writer, _socket) = dialed.into_parts();

    // A task that is gone by now has polled both directions.
    let nobody = noop_waker();
    let read = Pin::new(&mut reader).poll_read(&mut Context::from_waker(&nobody), &mut [0]);
    assert!(read.is_pending());
    let written = Pin::new(&mut writer).poll_write(&mut Context::from_waker(&nobody), &[0]);
    if let Poll::Ready(bytes) = written {
        // The kernel has found room after all.
        queued += bytes.expect("write");
    }

    let (read_polled, reader_waits) = oneshot::channel();
    let reading = host.start(async move {
        assert!(poll_immediate(reader.read(&mut [0])).await.is_none());
        read_polled.send(()).expect("the case waits");
        reader.read_exact(&mut [0]).await
    });
    let (write_polled, writer_waits) = oneshot::channel();
    let writing = host.start(async move {
        let ahead = poll_immediate(writer.write(&[0])).await;
        write_polled.send(()).expect("the case waits");
        if ahead.is_none() { writer.write_all(&[0]).await } else { Ok(()) }
    });
    reader_waits.await.expect("the reader panicked");
    writer_waits.await.expect("the writer panicked");

    let mut heard = vec![0; queued + 1];
    accepted.read_exact(&mut heard).await.expect("read");
    writing.await.expect("the writer panicked").expect("write");
    accepted.write_all(&[0]).await.expect("write");
    reading.await.expect("the reader panicked").expect("read");
}
