//! A `Tokio` and its runtime: how it finds it, and what it leaves there.

use anypea_runtime::Clock;
use anypea_tokio::Tokio;
use std::{io, time::Duration};
use tokio::{
    runtime::{Builder, Handle},
    task::yield_now,
};

#[test]
fn outside_a_runtime_there_is_no_current_one() {
    let error = Tokio::current().expect_err("there is no runtime here");
    assert!(error.to_string().contains("Tokio::from(handle)"), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn inside_a_runtime_it_is_the_current_one() {
    Tokio::current().expect("there is a runtime here");
}

#[tokio::test]
async fn nothing_stays_in_the_runtime() {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let tokio = Tokio::current().expect("there is a runtime here");
    let timer = tokio.timer(tokio.now() + Duration::from_millis(1));
    drop(tokio);
    yield_now().await;
    assert_eq!(tasks(), 1, "the timer still has to learn of the runtime's end");
    timer.await;
    while tasks() > 0 {
        yield_now().await;
    }
}

#[test]
fn a_runtime_that_has_ended_is_met_without_panic() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a tokio runtime");
    let handle = runtime.handle().clone();
    drop(runtime);
    let tokio = Tokio::from(handle);
    let timer = tokio.timer(tokio.now() + Duration::from_secs(3600));
    // Any runtime can poll it.
    Builder::new_current_thread().build().expect("a tokio runtime").block_on(timer);
}
