//! Tasks, and randomness.

use super::{Case, Ended, Harness, host::Host};
use futures_channel::oneshot;
use futures_util::future::join_all;
use std::{
    cell::Cell,
    collections::BTreeSet,
    future::{pending, ready},
    sync::mpsc,
};

pub(super) const CASES: &[Case] = &[
    Case::inside("a_task_outlives_who_spawned_it", |host| {
        Box::pin(a_task_outlives_who_spawned_it(host))
    }),
    Case::inside("many_tasks_all_run", |host| Box::pin(many_tasks_all_run(host))),
    Case::inside("spawning_polls_nothing", |host| Box::pin(spawning_polls_nothing(host))),
    Case::inside("a_panicking_task_harms_no_other", |host| {
        Box::pin(a_panicking_task_harms_no_other(host))
    }),
    Case::inside("random_numbers_differ", |host| Box::pin(random_numbers_differ(host))),
    Case::outside("the_end_of_the_runtime_drops_tasks", the_end_of_the_runtime_drops_tasks),
];

async fn a_task_outlives_who_spawned_it(host: Host) {
    let (go, gone) = oneshot::channel();
    let (report, outcome) = oneshot::channel();
    let spawner = host.clone();
    let parent = host.start(async move {
        spawner.spawn(Box::pin(async move {
            report.send(gone.await).expect("the case waits");
        }));
    });
    parent.await.expect("the parent panicked");
    go.send(7).expect("the child was cancelled");
    assert_eq!(outcome.await.expect("the child was cancelled"), Ok(7));
}

async fn many_tasks_all_run(host: Host) {
    let tasks = (0..1000).map(|number| host.start(ready(number)));
    let numbers = join_all(tasks.collect::<Vec<_>>()).await;
    let numbers = numbers.into_iter().map(|number| number.expect("a task panicked"));
    assert!(numbers.eq(0..1000));
}

async fn spawning_polls_nothing(host: Host) {
    thread_local! { static SPAWNING: Cell<bool> = const { Cell::new(false) } }
    for _ in 0..100 {
        SPAWNING.set(true);
        let inline = host.start(async { SPAWNING.get() });
        SPAWNING.set(false);
        assert!(!inline.await.expect("the task panicked"), "the task ran inside `spawn`");
    }
}

async fn a_panicking_task_harms_no_other(host: Host) {
    let (go, gone) = oneshot::channel::<()>();
    let bystander = host.start(gone);
    // More than any runtime has threads.
    let panics = 64;
    let mut panicked = Vec::new();
    for _ in 0..panics {
        // The report is dropped without a word when the task unwinds.
        panicked.push(host.start(async { std::panic::resume_unwind(Box::new("on purpose")) }));
    }
    for task in panicked {
        let outcome: Result<(), _> = task.await;
        assert!(outcome.is_err());
    }
    go.send(()).expect("the bystander was cancelled");
    bystander.await.expect("the bystander was cancelled").expect("the word to go");
    host.start(ready(())).await.expect("a task after the panics");
}

async fn random_numbers_differ(host: Host) {
    let numbers: BTreeSet<_> = (0..16).map(|_| host.random()).collect();
    assert_eq!(numbers.len(), 16);
}

fn the_end_of_the_runtime_drops_tasks(harness: Box<dyn Harness>) {
    let host = Host::of(&*harness);
    let (polled, running) = oneshot::channel();
    let before = watched(&host, Some(polled));
    harness.block_on(Box::pin(async { running.await.expect("the task runs") }));
    if harness.end() == Ended::Nothing {
        return;
    }
    before.recv().expect_err("the task is dropped and says nothing");
    let after = watched(&host, None);
    after.recv().expect_err("a task that comes too late is dropped");
}

/// Spawns a task that never ends, and returns a channel that ends with it.
fn watched(host: &Host, polled: Option<oneshot::Sender<()>>) -> mpsc::Receiver<()> {
    let (alive, end) = mpsc::channel::<()>();
    host.spawn(Box::pin(async move {
        let _alive = alive;
        polled.map(|polled| polled.send(()));
        pending::<()>().await;
    }));
    end
}
