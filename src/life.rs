//! The life of a connection, from top to bottom: greeted, read and written, ended, released.
//!
//! Two tasks carry it. The reader task is its conductor: it calls every hook, in order, and
//! decides how the connection ends. The writer task writes what the outbox holds.

use crate::{
    DisconnectReason, Hook, Peer,
    admission::Place,
    deadline::{Deadline, within},
    ending::Manner,
    frames::poll_discard,
    peer::Conn,
    protocols::{Protocols, Stop},
    stats::count,
    writer::WriterTask,
};
use anypea_runtime::BoxFuture;
use futures::FutureExt;
use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

/// The reader task, from registration to release.
///
/// The phases at both ends are boxed, so that they weigh nothing in the idle time between them.
pub(crate) async fn live(
    place: Place,
    protocols: Arc<Protocols>,
    mut reading: BoxFuture<'static, Stop>,
) {
    let conn = &*place.peer.conn;
    if protocols.on_connect.is_some() {
        let mut greeting = Box::pin(greet(&place.peer, &protocols));
        poll_fn(|cx| {
            // Polled before the end is looked for, so that whoever is seen off has been greeted.
            let greeted = greeting.as_mut().poll(cx);
            poll_unless_ending(conn, cx, |_| greeted).map(drop)
        })
        .await;
        let_go(conn, Hook::OnConnect, greeting);
    }
    let stop = poll_fn(|cx| {
        poll_unless_ending(conn, cx, |cx| {
            let polled = AssertUnwindSafe(|| reading.as_mut().poll(cx));
            catch_unwind(polled).map(|polled| polled.map(Some)).unwrap_or_else(|panic| {
                let reason = conn.inner.panicked(Hook::ProcessMessage, panic);
                conn.ending.begin(reason, Manner::Graceful);
                Poll::Ready(None)
            })
        })
    })
    .await;
    let_go(conn, Hook::ProcessMessage, reading);
    Box::pin(end(&place.peer, &protocols, stop.flatten())).await;
    drop(place);
}

/// Polls until the end of the connection is asked for: then `None`, and whatever hook is running
/// is to be dropped at its await.
fn poll_unless_ending<T>(
    conn: &Conn,
    cx: &mut Context<'_>,
    poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
) -> Poll<Option<T>> {
    conn.ending.register(cx.waker());
    if conn.ending.asked().is_some() { Poll::Ready(None) } else { poll(cx).map(Some) }
}

/// Drops a hook at its await: what it holds may panic, and the connection ends in order anyway.
fn let_go<T>(conn: &Conn, hook: Hook, future: T) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(future))) {
        conn.inner.panicked(hook, panic);
    }
}

async fn greet(peer: &Peer, protocols: &Protocols) {
    let Some(hook) = &protocols.on_connect else { return };
    let conn = &*peer.conn;
    let greeting = async { (hook.call)(peer.clone()).await };
    if let Err(reason) = call(conn, Hook::OnConnect, hook.limit, greeting).await {
        let manner = match reason {
            DisconnectReason::Panicked(_) => Manner::Graceful,
            _ => Manner::Abort,
        };
        conn.ending.begin(reason, manner);
    }
}

/// Ends the connection, in the manner asked for, up to the release of its socket and address.
async fn end(peer: &Peer, protocols: &Protocols, stop: Option<Stop>) {
    let conn = &*peer.conn;
    let mut input = Remains { fin: stop == Some(Stop::Fin), failed: false };
    see_off(peer, protocols, &mut input).await;
    let aborted = conn.ending.asked() == Some(Manner::Abort) || {
        conn.outbox.seal();
        linger(peer, protocols, &mut input).await
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
async fn linger(peer: &Peer, protocols: &Protocols, input: &mut Remains) -> bool {
    let conn = &*peer.conn;
    let (runtime, config) = (&*conn.inner.runtime, &conn.inner.config);
    let mut last = Deadline::after(runtime, config.close_timeout);
    let mut quiet = Deadline::default();
    let mut moved = None;
    // Where there is no writer task, there still is a FIN to send.
    let mut writing = protocols.writing.is_none().then(|| WriterTask::new(peer.clone()));
    poll_fn(|cx| {
        conn.ending.register(cx.waker());
        if conn.ending.asked() == Some(Manner::Abort) {
            return Poll::Ready(true);
        }
        if writing.as_mut().is_some_and(|task| task.poll_unpin(cx).is_ready()) {
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
    // What a hook holds may panic as well, when it is dropped at its time limit.
    let limited = AssertUnwindSafe(within(&*conn.inner.runtime, limit, future));
    match limited.catch_unwind().await {
        Ok(Some(())) => Ok(()),
        Err(panic) => Err(conn.inner.panicked(hook, panic)),
        Ok(None) => {
            count(&conn.inner.counters.hook_timeouts);
            tracing::warn!("{hook:?} was not over within {limit:?}");
            Err(DisconnectReason::TimedOut(hook))
        }
    }
}
