use crate::BoxFuture;

/// Runs tasks.
///
/// This is the only trait that an application with an executor of its own has to implement, and
/// a closure will do: `|task| my_executor.spawn(task).detach()`.
///
/// # Contract
/// - The task is detached: it runs to its end whatever becomes of the spawner and of the
///   spawning task, unless the whole runtime ends.
/// - A task that panics harms no other task.
/// - `spawn` works from any thread, also from one that the runtime doesn't know.
/// - `spawn` neither blocks nor polls the task before it returns.
/// - A runtime that can't run the task any more drops it. The node notices.
pub trait Spawner: Send + Sync + 'static {
    /// Runs `task` to completion in the background, detached.
    fn spawn(&self, task: BoxFuture<'static, ()>);
}

impl<F> Spawner for F
where
    F: Fn(BoxFuture<'static, ()>) + Send + Sync + 'static,
{
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self(task)
    }
}
