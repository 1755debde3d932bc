use crate::AsyncStd;
use anypea_runtime::{BoxFuture, Spawner};

impl Spawner for AsyncStd {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        // async-std detaches a task whose handle is dropped, and its executor catches panics.
        drop(async_std::task::spawn(task));
    }
}
