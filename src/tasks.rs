//! The node's tasks: spawned, counted, ended.
//!
//! Runtimes differ in what becomes of a task whose handle is dropped, and in what a panic does.
//! Here it is always the same: tasks are detached, a panic is caught and logged, and a guard
//! inside each task tells when it is gone, also when the runtime has dropped it.

use crate::{DisconnectReason, Hook, Peer, TaskEnded, context, node::Inner, stats::count};
use anypea_runtime::BoxFuture;
use futures::{FutureExt, channel::oneshot, task::AtomicWaker};
use indexmap::IndexMap;
use parking_lot::Mutex;
use std::{
    any::Any,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::*},
    },
    task::{Context, Poll},
};

#[derive(Default)]
pub(crate) struct Tasks(Mutex<State>);

#[derive(Default)]
struct State {
    live: usize,
    last_key: u64,
    /// The tasks that end when the node shuts down.
    abortable: IndexMap<u64, Abort>,
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
        aborted.values().for_each(Abort::abort);
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

/// Ends a task from outside.
#[derive(Clone)]
pub(crate) struct Abort(Arc<Abortable>);

struct Abortable {
    aborted: AtomicBool,
    waker: AtomicWaker,
    work: Mutex<Option<Run>>,
}

impl Abort {
    /// Drops the task's future here and now, even if its runtime never polls it again; or, if it
    /// is being polled at this moment, as soon as that is over. Not to be called under a lock:
    /// what the task owns is dropped as well.
    pub(crate) fn abort(&self) {
        self.0.aborted.store(true, Release);
        let work = self.0.work.try_lock().and_then(|mut work| work.take());
        drop_caught(work);
        self.0.waker.wake();
    }
}

/// An abortable task as it is given to the runtime.
struct Spawned(Arc<Abortable>);

impl Future for Spawned {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Abortable { aborted, waker, work } = &*self.0;
        waker.register(cx.waker());
        let mut work = work.lock();
        let polled = match &mut *work {
            Some(run) if !aborted.load(Acquire) => run.poll_unpin(cx),
            _ => Poll::Ready(()),
        };
        if polled.is_pending() && !aborted.load(Acquire) {
            return Poll::Pending;
        }
        let spent = work.take();
        drop(work);
        drop_caught(spent);
        Poll::Ready(())
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let spent = self.0.work.lock().take();
        drop_caught(spent);
    }
}

/// Drops a task; what a user's future does in its destructor is not its surroundings' fault.
fn drop_caught(run: Option<Run>) {
    let Some(run) = run else { return };
    let inner = run.counted.scope.inner().clone();
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(run))) {
        inner.log_panic("a task's destructor", panic);
    }
}

/// Lets other tasks run, once.
pub(crate) async fn let_others_run() {
    let mut done = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut done, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
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
    ) -> Option<Abort> {
        let abortable = Abortable {
            aborted: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            work: Mutex::new(None),
        };
        let shared = Arc::new(abortable);
        let task: BoxFuture<'static, ()> = Box::pin(task);
        {
            let mut state = self.tasks.0.lock();
            if state.closed {
                return None;
            }
            state.last_key += 1;
            let key = state.last_key;
            state.live += 1;
            state.abortable.insert(key, Abort(shared.clone()));
            let counted = Counted { scope: Scope::Node(self.clone()), key };
            *shared.work.lock() = Some(Run { task, counted });
        }
        self.runtime.spawn(Box::pin(Spawned(shared.clone())));
        Some(Abort(shared))
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
