//! How a connection ends: FIN, reset, and what sends neither.

use super::{
    Case,
    host::Host,
    streams::{fill, small_pair},
};
use futures_util::{AsyncReadExt, AsyncWriteExt};
use std::io;

pub(super) const CASES: &[Case] = &[
    Case::inside("close_sends_a_fin", |host| Box::pin(close_sends_a_fin(host))),
    Case::inside("closing_again_is_harmless", |host| Box::pin(closing_again_is_harmless(host))),
    Case::inside("a_closed_direction_leaves_the_other_open", |host| {
        Box::pin(a_closed_direction_leaves_the_other_open(host))
    }),
    Case::inside("dropping_the_read_half_sends_nothing", |host| {
        Box::pin(dropping_the_read_half_sends_nothing(host))
    }),
    Case::inside("dropping_the_write_half_sends_nothing", |host| {
        Box::pin(dropping_the_write_half_sends_nothing(host))
    }),
    Case::inside("dropping_all_of_a_stream_ends_it", |host| {
        Box::pin(dropping_all_of_a_stream_ends_it(host))
    }),
    Case::inside("abort_resets", |host| Box::pin(abort_resets(host))),
    Case::inside("abort_resets_what_is_full", |host| Box::pin(abort_resets_what_is_full(host))),
];

async fn close_sends_a_fin(host: Host) {
    let (mut dialed, mut accepted) = host.pair().await;
    dialed.write_all(b"last words").await.expect("write");
    dialed.close().await.expect("close");
    let mut heard = Vec::new();
    accepted.read_to_end(&mut heard).await.expect("read up to the FIN");
    assert_eq!(heard, b"last words");
    assert!(dialed.write_all(b"afterthought").await.is_err(), "nothing follows a FIN");
}

async fn closing_again_is_harmless(host: Host) {
    let (mut dialed, mut accepted) = host.pair().await;
    dialed.close().await.expect("close");
    dialed.close().await.expect("close again");
    assert_eq!(accepted.read(&mut [0]).await.expect("read"), 0);
    accepted.close().await.expect("close the other direction");
    assert_eq!(dialed.read(&mut [0]).await.expect("read"), 0);
    dialed.close().await.expect("close what has ended");
    drop(accepted);
    dialed.close().await.expect("close what the peer has dropped");

    let (mut dialed, accepted) = host.pair().await;
    accepted.socket().abort();
    drop(accepted);
    dialed.read(&mut [0]).await.expect_err("read a reset");
    dialed.close().await.expect("close what was reset");
}

async fn a_closed_direction_leaves_the_other_open(host: Host) {
    let (mut dialed, mut accepted) = host.pair().await;
    dialed.close().await.expect("close");
    assert_eq!(accepted.read(&mut [0]).await.expect("read"), 0);
    accepted.write_all(b"still here").await.expect("write");
    accepted.close().await.expect("close");
    let mut heard = Vec::new();
    dialed.read_to_end(&mut heard).await.expect("read");
    assert_eq!(heard, b"still here");
}

async fn dropping_the_read_half_sends_nothing(host: Host) {
    let (dialed, mut accepted) = host.pair().await;
    let (reader, mut writer, _socket) = dialed.into_parts();
    drop(reader);
    // A FIN would come before these bytes, and a reset in place of them.
    writer.write_all(b"alive").await.expect("write");
    let mut heard = [0; 5];
    accepted.read_exact(&mut heard).await.expect("read");
    assert_eq!(&heard, b"alive");
    writer.close().await.expect("close");
    assert_eq!(accepted.read(&mut heard).await.expect("read"), 0);
}

async fn dropping_the_write_half_sends_nothing(host: Host) {
    let (dialed, mut accepted) = host.pair().await;
    let (mut reader, writer, socket) = dialed.into_parts();
    drop(writer);
    accepted.write_all(b"alive").await.expect("write");
    let mut heard = [0; 5];
    reader.read_exact(&mut heard).await.expect("read");
    assert_eq!(&heard, b"alive");
    // Had there been a FIN, the peer would find it before the reset.
    socket.abort();
    drop((reader, socket));
    let end = accepted.read(&mut heard).await;
    assert!(is_reset(&end), "the peer got {end:?} instead of a reset");
}

async fn dropping_all_of_a_stream_ends_it(host: Host) {
    let (dialed, mut accepted) = host.pair().await;
    let (reader, writer, socket) = dialed.into_parts();
    drop(socket);
    drop(reader);
    drop(writer);
    assert_eq!(accepted.read(&mut [0]).await.expect("read"), 0);
}

async fn abort_resets(host: Host) {
    let (dialed, mut accepted) = host.pair().await;
    dialed.socket().abort();
    drop(dialed);
    let end = accepted.read(&mut [0]).await;
    assert!(is_reset(&end), "the peer got {end:?} instead of a reset");
    assert!(accepted.write_all(b"too late").await.is_err(), "nothing follows a reset");
}

async fn abort_resets_what_is_full(host: Host) {
    let (mut dialed, mut accepted) = small_pair(&host).await;
    fill(&mut dialed).await;
    dialed.socket().abort();
    drop(dialed);
    // What had arrived before may still be readable.
    let end = accepted.read_to_end(&mut Vec::new()).await;
    assert!(is_reset(&end), "the peer got {end:?} instead of a reset");
}

fn is_reset<T>(end: &io::Result<T>) -> bool {
    matches!(end, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
}
