//! Listening: accept, check, hand over to set-up.

use crate::{
    ConnectError, ListenError, Node, Side,
    admission::{Slot, canonical, count_rejection},
    deadline::later,
    event::Event,
    node::Inner,
    setup,
    stats::count,
    tasks::{Abort, let_others_run},
};
use anypea_runtime::{ListenOptions, Listener, Stream};
use std::{future::poll_fn, io, net::SocketAddr, sync::Arc, task::Poll, time::Duration};

/// Pause after an error that shows a lack of something, descriptors for example; doubled each
/// time up to the maximum.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Connections accepted in a row before other tasks are let run.
const ACCEPTS_PER_POLL: u32 = 32;

#[derive(Default)]
pub(crate) enum Listening {
    #[default]
    No,
    Starting,
    On {
        addr: SocketAddr,
        task: Abort,
        stopped: Arc<Event>,
    },
}

impl Node {
    /// Starts to listen on the configured address, and returns the address with the port that the
    /// system has chosen, if it had to.
    ///
    /// Cancel safe: if the future is dropped before it is ready, the node doesn't listen.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn start_listening(&self) -> Result<SocketAddr, ListenError> {
        /// Takes the mark away that the node is about to listen.
        struct Starting<'a>(&'a Inner);

        impl Drop for Starting<'_> {
            fn drop(&mut self) {
                let mut listening = self.0.listening.lock();
                if matches!(*listening, Listening::Starting) {
                    *listening = Listening::No;
                }
            }
        }

        let inner = &self.inner;
        let addr = inner.config.listening_addr.ok_or(ListenError::NoAddress)?;
        if inner.table.lock().is_closed() {
            return Err(ListenError::ShuttingDown);
        }
        let _starting = {
            let mut listening = inner.listening.lock();
            if !matches!(*listening, Listening::No) {
                return Err(ListenError::AlreadyListening);
            }
            *listening = Listening::Starting;
            Starting(inner)
        };
        let mut options = ListenOptions::default();
        options.backlog = inner.config.backlog;
        options.reuse_port = inner.config.reuse_port;
        options.socket = inner.config.socket.clone();
        let failed = |error| ListenError::Io { addr, error };
        let listener = inner.runtime.listen(addr, &options).await.map_err(failed)?;
        let addr = listener.local_addr().map(canonical).map_err(failed)?;
        let stopped = Arc::new(Event::default());
        let on_stop = Stopped { inner: inner.clone(), event: stopped.clone() };
        // No lock is held here: a runtime that is gone drops the task, and `on_stop`, at once.
        let task =
            inner.spawn_abortable(accept(on_stop, listener)).ok_or(ListenError::ShuttingDown)?;
        let mut state = inner.listening.lock();
        if stopped.has_fired() {
            return Err(ListenError::RuntimeGone);
        }
        *state = Listening::On { addr, task, stopped };
        drop(state);
        tracing::debug!(parent: inner.span(), %addr, "listening");
        Ok(addr)
    }

    /// Stops to listen; returns once the port is free. Connections stay. Without effect if the
    /// node doesn't listen.
    pub async fn stop_listening(&self) {
        let (task, stopped) = match &*self.inner.listening.lock() {
            Listening::On { task, stopped, .. } => (task.clone(), stopped.clone()),
            _ => return,
        };
        task.abort();
        let mut key = None;
        poll_fn(|cx| stopped.poll(cx, &mut key)).await;
    }

    /// Returns the address that the node listens on; `None` if it doesn't.
    pub fn listening_addr(&self) -> Option<SocketAddr> {
        match *self.inner.listening.lock() {
            Listening::On { addr, .. } => Some(addr),
            _ => None,
        }
    }
}

/// Says, when dropped, that the node listens no more. The listener is dropped before it.
struct Stopped {
    inner: Arc<Inner>,
    event: Arc<Event>,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let mut state = self.inner.listening.lock();
        if matches!(&*state, Listening::On { stopped, .. } if Arc::ptr_eq(stopped, &self.event)) {
            *state = Listening::No;
        }
        // Under the lock: `start_listening` must see either both or neither.
        self.event.fire();
    }
}

async fn accept(stopped: Stopped, listener: Box<dyn Listener>) {
    // Declared in this order, so that the port is free before anybody is told.
    let inner = &stopped.inner;
    let mut listener = listener;
    let mut pause = FIRST_PAUSE;
    let mut in_a_row = 0;
    loop {
        wait_for_budget(inner).await;
        in_a_row += 1;
        if in_a_row % ACCEPTS_PER_POLL == 0 {
            let_others_run().await;
        }
        match poll_fn(|cx| listener.poll_accept(cx)).await {
            Ok((stream, addr)) => {
                pause = FIRST_PAUSE;
                if let Err(error) = receive(inner, stream, canonical(addr)) {
                    tracing::debug!("rejected a connection: {error}");
                }
            }
            Err(error) => {
                count(&inner.counters.accept_errors);
                tracing::warn!("can't accept a connection: {error}");
                if !concerns_one_connection(&error) {
                    inner.runtime.timer(later(inner.runtime.now(), pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// Waits until one more connection may be set up; meanwhile, others wait in the backlog.
async fn wait_for_budget(inner: &Inner) {
    let mut paused = false;
    poll_fn(|cx| {
        inner.budget.register(cx.waker());
        if inner.table.lock().has_inbound_budget(&inner.config) {
            return Poll::Ready(());
        }
        if !std::mem::replace(&mut paused, true) {
            count(&inner.counters.rejected_budget);
        }
        Poll::Pending
    })
    .await
}

fn receive(inner: &Arc<Inner>, stream: Stream, addr: SocketAddr) -> Result<(), ConnectError> {
    let side = Side::Responder;
    inner.ask_admission(addr, side).inspect_err(|error| {
        count_rejection(&inner.counters, error, true);
    })?;
    let slot = Slot::reserve(inner, addr, true)?;
    if inner.protocols().handshake.is_some() {
        inner.spawn_abortable(async move {
            if let Err(error) = setup::set_up(slot, side, stream).await {
                tracing::debug!("{error}");
            }
        });
        return Ok(());
    }
    let (slot, peer) = setup::begin(slot, side, &stream)?;
    setup::establish(slot, peer, stream).map(drop)
}

/// Whether the error is one of the connection that was to be accepted (accept(2)), so that the
/// next can be accepted at once.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
}
