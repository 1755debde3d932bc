//! The life of a connection, from top to bottom: greeted, read and written, ended, released.
//!
//! Two tasks carry it. The reader task is its conductor: it calls every hook, in order, and
//! decides how the connection ends. The writer task writes what the outbox holds.

use crate::{
    DisconnectReason, Hook, Peer,
    admission::Slot,
    deadline::{Deadline, within},
    ending::Manner,
    frames::{self, poll_discard},
    peer::Conn,
    protocols::{Protocols, Stop},
    stats::count,
    writer::Drained,
};
use bytes::BytesMut;
use futures::FutureExt;
use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

/// Bytes for which a peer has the write timeout, each time anew.
const PROGRESS_BYTES: u64 = 256 * 1024;

/// The reader task. `write_timeout` is given if there is no writer task, to write as one at the
/// end: there is a FIN to send even where nothing else was.
///
/// The phases at both ends are boxed, so that they weigh nothing in the idle time between them.
pub(crate) async fn live(
    slot: Slot,
    peer: Peer,
    protocols: Arc<Protocols>,
    over_read: BytesMut,
    write_timeout: Option<Duration>,
) {
    let ending = &peer.conn.ending;
    let stop = {
        let mut work = pin!(greet_and_read(&peer, &protocols, over_read));
        poll_fn(|cx| {
            ending.register(cx.waker());
            match ending.asked() {
                // Whatever hook is running is dropped at its await.
                Some(_) => Poll::Ready(Stop::Asked),
                None => work.as_mut().poll(cx),
            }
        })
        .await
    };
    Box::pin(end(&peer, &protocols, stop, write_timeout)).await;
    drop(slot);
}

async fn greet_and_read(peer: &Peer, protocols: &Protocols, over_read: BytesMut) -> Stop {
    let conn = &*peer.conn;
    if protocols.on_connect.is_some()
        && let Err(stop) = Box::pin(greet(peer, protocols)).await
    {
        return stop;
    }
    let reading = match &protocols.reading {
        Some(read) => read(peer.clone(), over_read),
        None => Box::pin(frames::discard(peer.clone())),
    };
    AssertUnwindSafe(reading).catch_unwind().await.unwrap_or_else(|panic| {
        let reason = conn.inner.panicked(Hook::ProcessMessage, panic);
        conn.ending.begin(reason, Manner::Graceful);
        Stop::Asked
    })
}

async fn greet(peer: &Peer, protocols: &Protocols) -> Result<(), Stop> {
    let Some(hook) = &protocols.on_connect else { return Ok(()) };
    let conn = &*peer.conn;
    let greeting = async { (hook.call)(peer.clone()).await };
    call(conn, Hook::OnConnect, hook.limit, greeting).await.map_err(|reason| {
        let manner = match reason {
            DisconnectReason::Panicked(_) => Manner::Graceful,
            _ => Manner::Abort,
        };
        conn.ending.begin(reason, manner);
        Stop::Asked
    })
}

/// Ends the connection, in the manner asked for, up to the release of its socket and address.
async fn end(peer: &Peer, protocols: &Protocols, stop: Stop, write_timeout: Option<Duration>) {
    let conn = &*peer.conn;
    let mut input = Remains { fin: stop == Stop::Fin, failed: false };
    see_off(peer, protocols, &mut input).await;
    let aborted = conn.ending.asked() == Some(Manner::Abort) || {
        conn.outbox.seal();
        linger(peer, &mut input, write_timeout).await
    };
    let unwritten = conn.outbox.close() > 0;
    if (aborted || unwritten)
        && let Some(socket) = &*conn.socket.lock()
    {
        socket.abort();
    }
    let undelivered_bytes = conn.outbox.counts.lost.load(Relaxed);
    if !aborted && undelivered_bytes > 0 && conn.ending.is_clean() {
        count(&conn.inner.counters.lingers_expired);
        conn.ending.amend(DisconnectReason::LingerExpired { undelivered_bytes });
    }
    tracing::debug!(reason = conn.ending.reason().map(tracing::field::display), "released");
}

/// Calls `on_disconnect`, and reads on meanwhile: a peer that is itself full of unsent bytes
/// would otherwise not take its last words.
async fn see_off(peer: &Peer, protocols: &Protocols, input: &mut Remains) {
    let conn = &*peer.conn;
    let aborted = conn.ending.asked() == Some(Manner::Abort);
    if aborted {
        conn.outbox.close();
    }
    let Some(hook) = &protocols.on_disconnect else { return };
    let Some(reason) = conn.ending.reason() else { return };
    let farewell = async { (hook.call)(peer.clone(), reason).await };
    let mut farewell = pin!(call(conn, Hook::OnDisconnect, hook.limit, farewell));
    // Its errors are counted and logged, and the connection ends anyway.
    let _ = poll_fn(|cx| {
        if !aborted {
            input.poll(conn, cx);
        }
        farewell.as_mut().poll(cx)
    })
    .await;
}

/// Waits until all is written and the peer has closed its side, or for as long as is reasonable.
/// Reading on keeps our close from becoming a reset, which would destroy our own last bytes (RFC
/// 2525, 2.17). Returns whether the connection is to be reset.
async fn linger(peer: &Peer, input: &mut Remains, write_timeout: Option<Duration>) -> bool {
    let conn = &*peer.conn;
    let (runtime, config) = (&*conn.inner.runtime, &conn.inner.config);
    let mut last = Deadline::after(runtime, config.close_timeout);
    let mut quiet = Deadline::default();
    let mut moved = None;
    let mut writing = write_timeout.map(|time| Box::pin(write(peer.clone(), time)));
    poll_fn(|cx| {
        conn.ending.register(cx.waker());
        if conn.ending.asked() == Some(Manner::Abort) {
            return Poll::Ready(true);
        }
        if writing.as_mut().is_some_and(|task| task.as_mut().poll(cx).is_ready()) {
            writing = None;
        }
        input.poll(conn, cx);
        if conn.outbox.is_finished() && (input.fin || input.failed) {
            return Poll::Ready(false);
        }
        let bytes = (conn.bytes_received(), conn.outbox.counts.bytes_written.load(Relaxed));
        if moved.replace(bytes) != Some(bytes) {
            quiet.set(runtime, config.linger_quiet);
        }
        match (last.poll(runtime, cx), quiet.poll(runtime, cx)) {
            (Poll::Pending, Poll::Pending) => Poll::Pending,
            _ => Poll::Ready(false),
        }
    })
    .await
}

/// What may still come in, and is discarded.
struct Remains {
    fin: bool,
    failed: bool,
}

impl Remains {
    fn poll(&mut self, conn: &Conn, cx: &mut Context<'_>) {
        if !self.fin && !self.failed {
            match poll_discard(conn, cx) {
                Poll::Ready(Ok(())) => self.fin = true,
                Poll::Ready(Err(_)) => self.failed = true,
                Poll::Pending => {}
            }
        }
    }
}

/// Calls a hook within its time limit; a reason to end the connection if it panics or takes
/// longer.
async fn call(
    conn: &Conn,
    hook: Hook,
    limit: Duration,
    future: impl Future<Output = ()>,
) -> Result<(), DisconnectReason> {
    match within(&*conn.inner.runtime, limit, AssertUnwindSafe(future).catch_unwind()).await {
        Some(Ok(())) => Ok(()),
        Some(Err(panic)) => Err(conn.inner.panicked(hook, panic)),
        None => {
            count(&conn.inner.counters.hook_timeouts);
            tracing::warn!("{hook:?} was not over within {limit:?}");
            Err(DisconnectReason::TimedOut(hook))
        }
    }
}

/// The writer task.
pub(crate) async fn write(peer: Peer, timeout: Duration) {
    /// Tells the reader task that the writer is gone, also if the runtime has dropped it.
    struct Done<'a>(&'a Conn);

    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.outbox.finish();
            self.0.ending.wake_reader();
        }
    }

    let conn = &*peer.conn;
    let done = Done(conn);
    let runtime = &*conn.inner.runtime;
    let mut stall = Deadline::default();
    let mut mark = 0;
    let written = poll_fn(|cx| {
        if conn.ending.asked() == Some(Manner::Abort) {
            return Poll::Ready(Some(Ok(())));
        }
        match conn.outbox.poll_write(cx) {
            Poll::Ready(Ok(Drained::Sealed)) => conn.outbox.poll_fin(cx).map(Some),
            Poll::Ready(Ok(Drained::Parked)) => {
                stall.clear();
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Pending => {
                let written = conn.outbox.counts.bytes_written.load(Relaxed);
                if !stall.is_set() || written - mark >= PROGRESS_BYTES {
                    stall.set(runtime, timeout);
                    mark = written;
                }
                stall.poll(runtime, cx).map(|()| None)
            }
        }
    })
    .await;
    match written {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            // Frames that arrived before may still be readable, so the reader goes on.
            conn.ending.note(DisconnectReason::of(error));
            conn.outbox.close();
        }
        None => {
            count(&conn.inner.counters.write_timeouts);
            conn.ending.begin(DisconnectReason::WriteTimedOut, Manner::Abort);
            conn.outbox.close();
        }
    }
    drop(done);
}
