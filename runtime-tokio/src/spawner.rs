use crate::Tokio;
use anypea_runtime::{BoxFuture, Spawner};

impl Spawner for Tokio {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        // tokio detaches a task whose handle is dropped, and catches its panics.
        drop(self.handle.spawn(task));
    }
}
