//! The runtimes, each with one thread per core, as contenders of it share them.

use futures::executor::block_on;
use smol::Executor;
use std::{
    sync::{Arc, LazyLock},
    thread,
};

/// What a contender runs on.
pub trait Bed: Send + Sync + 'static {
    /// Its name in tables.
    const NAME: &'static str;

    /// Runs `work` to its end in the current thread, which isn't one of the runtime's own.
    fn run<T>(work: impl Future<Output = T>) -> T;

    /// Runs a task in the background. Only to be called from within [`run`](Self::run).
    fn spawn(task: impl Future<Output = ()> + Send + 'static);
}

/// How many threads a runtime gets.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(2, Into::into)
}

/// tokio, multi-threaded, made anew for each run.
pub struct Tokio;

impl Bed for Tokio {
    const NAME: &'static str = "tokio";

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(cores())
            .enable_all()
            .build()
            .expect("tokio starts")
            .block_on(work)
    }

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }
}

/// smol's executor on threads of ours; its global one has a single thread by default.
pub struct Smol;

pub(crate) static EXECUTOR: LazyLock<Arc<Executor<'static>>> = LazyLock::new(|| {
    let executor = Arc::new(Executor::new());
    for _ in 0..cores() {
        let executor = executor.clone();
        thread::spawn(move || smol::block_on(executor.run(futures::future::pending::<()>())));
    }
    executor
});

impl Bed for Smol {
    const NAME: &'static str = "smol";

    fn run<T>(work: impl Future<Output = T>) -> T {
        // Not smol's `block_on`, which would drive the sockets in this thread, too.
        block_on(work)
    }

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        EXECUTOR.spawn(task).detach();
    }
}

/// async-std, which has one thread per core by default.
pub struct AsyncStd;

impl Bed for AsyncStd {
    const NAME: &'static str = "async-std";

    fn run<T>(work: impl Future<Output = T>) -> T {
        block_on(work)
    }

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        async_std::task::spawn(task);
    }
}

/// No runtime: a thread for each task.
pub struct Threads;

impl Bed for Threads {
    const NAME: &'static str = "threads";

    fn run<T>(work: impl Future<Output = T>) -> T {
        block_on(work)
    }

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        thread::spawn(|| block_on(task));
    }
}
