//! From an address, or an accepted stream, to a live connection.

use crate::{
    ConnectError, Connection, Hook, Peer, Side,
    admission::{Slot, canonical},
    context,
    deadline::within,
    frames, life,
    peer::Conn,
    stats::count,
    writer::WriterTask,
};
use anypea_runtime::{ConnectOptions, Stream};
use futures::FutureExt;
use std::{
    future::poll_fn,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

pub(crate) async fn dial(
    slot: Slot,
    side: Side,
    options: ConnectOptions,
    time: Duration,
) -> Result<Peer, ConnectError> {
    let addr = slot.addr;
    let runtime = slot.inner.runtime.clone();
    let stream = match within(&*runtime, time, runtime.connect(addr, &options)).await {
        Some(Ok(stream)) => stream,
        Some(Err(error)) => return Err(ConnectError::Io { addr, error }),
        None => return Err(ConnectError::TimedOut { addr, after: time }),
    };
    set_up(slot, side, stream).await
}

/// Shakes hands, if that is enabled, and registers the connection.
pub(crate) async fn set_up(slot: Slot, side: Side, stream: Stream) -> Result<Peer, ConnectError> {
    let (slot, peer) = begin(slot, side, &stream)?;
    let Some(hook) = slot.inner.protocols().handshake.clone() else {
        return establish(slot, peer, stream);
    };
    let addr = slot.addr;
    let inner = slot.inner.clone();
    let conn = Connection::new(peer.clone(), stream);
    let handshake = async { (hook.call)(conn).await };
    let handshake = AssertUnwindSafe(within(&*inner.runtime, hook.limit, handshake));
    let handshake = unless_ended(&peer, handshake.catch_unwind());
    let failed = |error| {
        // The other end has found out first, and hung up.
        if slot.leads_back() {
            return slot.own_address();
        }
        count(&inner.counters.handshake_errors);
        ConnectError::Handshake { addr, error }
    };
    let conn = match handshake.await.map_err(failed)? {
        Ok(Some(conn)) => conn.map_err(failed)?,
        Err(panic) => {
            inner.panicked(Hook::Handshake, panic);
            return Err(ConnectError::Panicked(addr));
        }
        Ok(None) => {
            count(&inner.counters.handshake_timeouts);
            return Err(ConnectError::HandshakeTimedOut { addr, after: hook.limit });
        }
    };
    let stream = conn.finish(&peer).map_err(failed)?;
    establish(slot, peer, stream)
}

/// Polls a handshake as a hook of its connection, until it has disconnected itself.
async fn unless_ended<T>(peer: &Peer, handshake: impl Future<Output = T>) -> io::Result<T> {
    let conn = &peer.conn;
    let mut handshake = pin!(handshake);
    poll_fn(|cx| {
        let _context = context::enter(&conn.inner, conn.id);
        conn.ending.register(cx.waker());
        let polled = handshake.as_mut().poll(cx);
        match conn.ending.asked() {
            Some(_) => Poll::Ready(Err(io::Error::other("disconnected during the handshake"))),
            None => polled.map(Ok),
        }
    })
    .await
}

/// Makes the connection of a stream, unless both of its ends are ours.
pub(crate) fn begin(
    mut slot: Slot,
    side: Side,
    stream: &Stream,
) -> Result<(Slot, Peer), ConnectError> {
    let conn = Conn::new(slot.inner.clone(), slot.addr, side, stream.socket().clone());
    let peer = Peer { conn: Arc::new(conn) };
    slot.peer = Some(peer.clone());
    slot.locate(peer.local_addr().map(canonical))?;
    Ok((slot, peer))
}

/// Registers the connection and starts its tasks. There is no await in here: a connection is
/// either fully there or fully gone.
pub(crate) fn establish(slot: Slot, peer: Peer, stream: Stream) -> Result<Peer, ConnectError> {
    let inner = slot.inner.clone();
    let protocols = inner.protocols();
    let open = || protocols.writing.as_ref().map(|open| open(&peer));
    let sender = catch_unwind(AssertUnwindSafe(open)).map_err(|panic| {
        inner.panicked(Hook::Handshake, panic);
        ConnectError::Panicked(slot.addr)
    })?;
    let (reader, writer, _) = stream.into_parts();
    *peer.conn.reader.lock() = Some(reader);
    peer.conn.outbox.open(writer, sender);
    let place = slot.register(&peer)?;
    tracing::debug!(parent: &peer.conn.span, "connected");
    if protocols.writing.is_some() {
        inner.spawn_connected(peer.clone(), Box::pin(WriterTask::new(peer.clone())));
    }
    let reading = match &protocols.reading {
        Some(read) => read(peer.clone()),
        None => Box::pin(frames::discard(peer.clone())),
    };
    inner.spawn_connected(peer.clone(), Box::pin(life::live(place, protocols, reading)));
    Ok(peer)
}
