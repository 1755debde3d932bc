//! smol passes the conformance kit, on executors of each kind.

use anypea_runtime::{
    BoxFuture, Runtime,
    kit::{self, Ended, Harness},
};
use anypea_smol::Smol;
use smol::{Executor, channel};
use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

/// An executor that runs in the case's own thread and in some more.
struct OnThreads {
    executor: Arc<Executor<'static>>,
    stop: channel::Sender<()>,
    threads: Vec<JoinHandle<()>>,
}

impl OnThreads {
    fn new(more: usize) -> Self {
        let executor = Arc::new(Executor::new());
        let (stop, stopped) = channel::bounded::<()>(1);
        let threads = (0..more).map(|_| {
            let (executor, stopped) = (Arc::clone(&executor), stopped.clone());
            thread::spawn(move || {
                smol::block_on(executor.run(stopped.recv())).expect_err("nothing is sent");
            })
        });
        let threads = threads.collect();
        Self { executor, stop, threads }
    }
}

impl Harness for OnThreads {
    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(Smol::executor(&self.executor))
    }

    fn block_on(&self, body: BoxFuture<'static, ()>) {
        smol::block_on(self.executor.run(body));
    }

    fn end(self: Box<Self>) -> Ended {
        self.stop.close();
        for thread in self.threads {
            thread.join().expect("a task's panic ended a thread of the executor");
        }
        Ended::Tasks
    }
}

#[test]
fn one_thread_conforms() {
    kit::run(|| OnThreads::new(0));
}

#[test]
fn many_threads_conform() {
    kit::run(|| OnThreads::new(3));
}

struct On(fn() -> Smol);

impl Harness for On {
    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(self.0())
    }

    fn block_on(&self, body: BoxFuture<'static, ()>) {
        smol::block_on(body);
    }
}

#[test]
fn the_global_executor_conforms() {
    kit::run(|| On(Smol::global));
}

#[test]
fn a_thread_for_each_task_conforms() {
    fn on_threads() -> Smol {
        Smol::with_spawner(|task| {
            thread::spawn(|| smol::block_on(task));
        })
    }
    kit::run(|| On(on_threads));
}
