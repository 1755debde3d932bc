use crate::Smol;
use anypea_runtime::{BoxFuture, Spawner};
use async_executor::Executor;
use std::sync::Weak;

impl Spawner for Smol {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.spawner.spawn(task);
    }
}

// smol cancels a task whose handle is dropped, so each is detached. Its executors catch panics.

#[cfg(feature = "global")]
pub(crate) fn global(task: BoxFuture<'static, ()>) {
    smol::spawn(task).detach();
}

/// Spawns on an executor as long as that is there.
pub(crate) struct Weakly(pub(crate) Weak<Executor<'static>>);

impl Spawner for Weakly {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        if let Some(executor) = self.0.upgrade() {
            executor.spawn(task).detach();
        }
    }
}
