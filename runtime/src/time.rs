use std::{
    future::Future,
    pin::Pin,
    time::{Instant, SystemTime},
};

/// Tells the time and makes timers.
///
/// # Contract
/// - [`now`](Self::now) never goes back.
/// - [`timer`](Self::timer) works from any thread, also from one that the runtime doesn't know,
///   and the timer can be polled from any thread.
/// - Timers fire in the order of their instants, never before the instant, and accept instants
///   in the past (they fire at once) and in the far future (a century is nothing special).
pub trait Clock: Send + Sync + 'static {
    /// Returns the current instant of the monotonic clock.
    fn now(&self) -> Instant;

    /// Returns the current wall-clock time.
    fn wall(&self) -> SystemTime;

    /// Makes a timer that fires once `at` has been reached.
    fn timer(&self, at: Instant) -> Pin<Box<dyn Timer>>;
}

/// A future that completes at an instant, and that can be set anew as often as one likes.
///
/// # Contract
/// - Once fired, it goes on to be ready until it is reset.
/// - The timer of a runtime that is gone fires at once; it doesn't panic.
/// - Dropping it leaves nothing behind in the runtime.
pub trait Timer: Future<Output = ()> + Send {
    /// Sets the timer to fire at `at`, also after it has fired, keeping its allocation.
    ///
    /// The waker of an earlier poll need not be kept: poll again after a reset.
    fn reset(self: Pin<&mut Self>, at: Instant);
}
