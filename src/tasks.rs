//! The node's tasks: spawned, counted, ended.
//!
//! Runtimes differ in what becomes of a task whose handle is dropped, and in what a panic does.
//! Here it is always the same: tasks are detached, a panic is caught and logged, and a guard
//! inside each task tells when it is gone, also when the runtime has dropped it.

use crate::{DisconnectReason, Hook, Peer, TaskEnded, context, node::Inner, stats::count};
use anypea_runtime::BoxFuture;
use futures::{
    FutureExt,
    channel::oneshot,
    future::{AbortHandle, abortable},
};
use indexmap::IndexMap;
use parking_lot::Mutex;
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

#[derive(Default)]
pub(crate) struct Tasks(Mutex<State>);

#[derive(Default)]
struct State {
    live: usize,
    last_key: u64,
    /// The tasks that end when the node shuts down, at their next await.
    abortable: IndexMap<u64, AbortHandle>,
    closed: bool,
}

impl Tasks {
    /// Aborts what is abortable, and refuses more of it. Returns whether no task is left.
    pub(crate) fn close(&self) -> bool {
        let (aborted, live) = {
            let mut state = self.0.lock();
            state.closed = true;
            (std::mem::take(&mut state.abortable), state.live)
        };
        aborted.values().for_each(AbortHandle::abort);
        live == 0
    }
}

/// Lives in a task and counts it.
struct Counted {
    scope: Scope,
    /// The number under which it can be aborted; 0 if it can't be.
    key: u64,
}

/// Whose task it is.
enum Scope {
    Node(Arc<Inner>),
    Connection(Peer),
}

impl Scope {
    fn inner(&self) -> &Arc<Inner> {
        match self {
            Self::Node(inner) => inner,
            Self::Connection(peer) => &peer.conn.inner,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let inner = self.scope.inner();
        let mut state = inner.tasks.0.lock();
        state.live -= 1;
        let spent = state.abortable.swap_remove(&self.key);
        let last = state.closed && state.live == 0;
        drop(state);
        drop(spent);
        if last {
            inner.end();
        }
    }
}

/// A task as it is given to the runtime.
struct Run {
    // Dropped before the guard that counts it, also if it is never polled: what it owns may be
    // the last of the node.
    task: BoxFuture<'static, ()>,
    counted: Counted,
}

impl Future for Run {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { task, counted } = &mut *self;
        let inner = counted.scope.inner();
        let (span, connection) = match &counted.scope {
            Scope::Node(inner) => (&inner.span, 0),
            Scope::Connection(peer) => (&peer.conn.span, peer.conn.id),
        };
        let _context = context::enter(inner, connection);
        let _span = span.enter();
        catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(cx))).unwrap_or_else(|panic| {
            inner.log_panic("a task", panic);
            Poll::Ready(())
        })
    }
}

impl Inner {
    /// Runs a task of a connection to its end.
    pub(crate) fn spawn_connected(&self, peer: Peer, task: BoxFuture<'static, ()>) {
        self.tasks.0.lock().live += 1;
        let counted = Counted { scope: Scope::Connection(peer), key: 0 };
        self.runtime.spawn(Box::pin(Run { task, counted }));
    }

    /// Runs a task that ends with the node; `None` if the node is shutting down.
    pub(crate) fn spawn_abortable(
        self: &Arc<Self>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Option<AbortHandle> {
        let (task, handle) = abortable(task);
        let counted = {
            let mut state = self.tasks.0.lock();
            if state.closed {
                return None;
            }
            state.last_key += 1;
            let key = state.last_key;
            state.live += 1;
            state.abortable.insert(key, handle.clone());
            Counted { scope: Scope::Node(self.clone()), key }
        };
        self.runtime.spawn(Box::pin(Run { task: Box::pin(task.map(drop)), counted }));
        Some(handle)
    }

    /// Counts and logs a hook's panic, and returns the reason that it gives.
    pub(crate) fn panicked(&self, hook: Hook, panic: Box<dyn Any + Send>) -> DisconnectReason {
        self.log_panic(&format!("{hook:?}"), panic);
        DisconnectReason::Panicked(hook)
    }

    /// Counts and logs a panic.
    pub(crate) fn log_panic(&self, what: &str, panic: Box<dyn Any + Send>) {
        count(&self.counters.hook_panics);
        let message = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("a value that is no text");
        tracing::error!(parent: &self.span, "{what} panicked: {message}");
    }
}

/// A task of [`Node::spawn`](crate::Node::spawn). Dropping it detaches the task.
#[derive(Debug)]
pub struct Task<T> {
    output: oneshot::Receiver<T>,
}

impl<T: Send + 'static> Task<T> {
    pub(crate) fn spawn(
        inner: &Arc<Inner>,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Self {
        let (sender, output) = oneshot::channel();
        inner.spawn_abortable(task.map(|output| drop(sender.send(output))));
        Self { output }
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskEnded>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.output.poll_unpin(cx).map_err(|_| TaskEnded)
    }
}
