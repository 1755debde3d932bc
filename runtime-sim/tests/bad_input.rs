//! What ends a run, and what the report says.

mod common;

use anypea_runtime::{Clock, ConnectOptions, Network, Spawner};
use anypea_sim::{Crash, Faults, Link, Options, Sim, ms, secs};
use common::{addr, dial, listen, panic_of, simulate, simulate_with};
use std::{
    future::pending,
    net::IpAddr,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

#[test]
fn a_panic_in_a_task_names_host_task_and_time() {
    let message = panic_of(|| {
        simulate(|sim| async move {
            sim.host();
            let host = sim.host();
            let task = host.clone();
            host.spawn(Box::pin(async move {
                task.timer(task.now() + secs(3)).await;
                panic!("oh no");
            }));
            sim.sleep(secs(10)).await;
        });
    });
    assert_says(&message, &["task 1 of host 1", "at 3s", "oh no"]);
}

#[test]
fn panics_can_be_contained() {
    simulate_with(Options::seed(1).contain_panics(), |sim| async move {
        sim.host().spawn(Box::pin(async { panic!("nobody minds") }));
        sim.sleep(secs(1)).await;
    });
}

#[test]
fn a_stall_lists_the_tasks_and_what_they_wait_for() {
    let message = panic_of(|| {
        simulate(|sim| async move {
            let (a, b) = (sim.host(), sim.host());
            let mut listener = listen(&b).await;
            b.spawn(Box::pin(async move {
                let _stream = common::accept(&mut listener).await;
                common::accept(&mut listener).await;
            }));
            let mut stream = dial(&a, &b).await.expect("connect");
            a.spawn(Box::pin(async move {
                let mut buf = [0];
                drop(futures_util::AsyncReadExt::read(&mut stream, &mut buf).await);
            }));
            pending::<()>().await;
        });
    });
    assert_says(
        &message,
        &[
            "stalled",
            "2 tasks live",
            "task 1 of host 1",
            "waits for connections to 10.0.0.2:7000",
            "task 2 of host 0",
            "waits for bytes from 10.0.0.2:7000",
        ],
    );
}

#[test]
fn the_deadline_lists_the_tasks() {
    let message = panic_of(|| {
        simulate_with(Options::seed(1).deadline(secs(5)), |sim| async move {
            let host = sim.host();
            let task = host.clone();
            host.spawn(Box::pin(async move { task.timer(task.now() + secs(99)).await }));
            sim.sleep(secs(60)).await;
        });
    });
    assert_says(&message, &["not over at the deadline, 5s", "task 1 of host 0", "waits for 99s"]);
}

#[test]
fn a_task_that_never_yields_is_named() {
    let message = panic_of(|| {
        simulate(|sim| async move {
            let host = sim.host();
            sim.sleep(secs(1)).await;
            host.spawn(Box::pin(async {
                loop {
                    yield_now().await;
                }
            }));
            sim.sleep(secs(1)).await;
        });
    });
    assert_says(&message, &["task 1 of host 0", "at 1s", "100000 times at one instant"]);
}

async fn yield_now() {
    let mut polled = false;
    std::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        if std::mem::replace(&mut polled, true) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

#[test]
fn tasks_that_spawn_tasks_without_end_are_noticed() {
    fn breed(host: anypea_sim::Host) {
        let next = host.clone();
        host.spawn(Box::pin(async move { breed(next) }));
    }
    let message = panic_of(|| {
        simulate_with(Options::seed(1).max_polls(100), |sim| async move {
            breed(sim.host());
            sim.sleep(secs(1)).await;
        });
    });
    assert_says(&message, &["a chain of tasks", "at 0ns"]);
}

#[test]
fn a_task_that_blocks_its_thread_is_named() {
    let (stop, stopped) = mpsc::channel::<()>();
    let stopped = Mutex::new(stopped);
    let check = Sim::check(7..8).options(|options| options.watchdog(Duration::from_millis(200)));
    let stopped = Arc::new(stopped);
    let failure = check.try_run(move |sim| {
        let stopped = stopped.clone();
        async move {
            let host = sim.host();
            let task = host.clone();
            host.spawn(Box::pin(async move {
                task.timer(task.now() + secs(2)).await;
                let _ = stopped.lock().expect("alone").recv();
            }));
            sim.sleep(secs(10)).await;
        }
    });
    let message = failure.expect_err("it blocks").to_string();
    assert_says(&message, &["task 1 of host 0", "at 2s", "blocked its thread", "SIM_SEED=7"]);
    drop(stop);
}

#[test]
fn a_host_cannot_be_used_from_another_thread() {
    let message = panic_of(|| {
        simulate(|sim| async move {
            let host = sim.host();
            let outside = host.clone();
            let refused = thread::Builder::new().name("the other".into()).spawn(move || {
                outside.spawn(Box::pin(async {}));
            });
            refused.expect("a thread").join().expect("it doesn't panic there");
            sim.sleep(secs(1)).await;
        });
    });
    assert_says(&message, &["spawn of host 0", "another thread (the other)"]);
}

#[test]
fn a_waker_cannot_be_woken_from_another_thread() {
    let message = panic_of(|| {
        simulate(|sim| async move {
            let mut once = false;
            std::future::poll_fn(|cx| {
                let waker = cx.waker().clone();
                if !std::mem::replace(&mut once, true) {
                    thread::spawn(move || waker.wake()).join().expect("it doesn't panic there");
                    return std::task::Poll::Pending;
                }
                std::task::Poll::Ready(())
            })
            .await;
            sim.sleep(secs(1)).await;
        });
    });
    assert_says(&message, &["a waker", "another thread"]);
}

#[test]
fn a_host_is_of_no_use_after_the_run() {
    let (host, other) = simulate(|sim| async move { (sim.host(), sim.host()) });
    let (alive, dropped) = mpsc::channel::<()>();
    host.spawn(Box::pin(async move {
        let _alive = alive;
        pending::<()>().await;
    }));
    dropped.recv().expect_err("the task is dropped");
    let options = ConnectOptions::default();
    let mut connect = host.connect(addr(&other), &options);
    let mut timer = host.timer(host.now() + secs(1));
    let waker = std::task::Waker::noop();
    let mut cx = std::task::Context::from_waker(waker);
    assert!(timer.as_mut().poll(&mut cx).is_ready());
    let std::task::Poll::Ready(Err(error)) = connect.as_mut().poll(&mut cx) else {
        panic!("it is over")
    };
    assert_says(&error.to_string(), &["its simulation is over"]);
}

#[test]
fn unknown_hosts_and_duplicate_addresses_are_named() {
    let message = panic_of(|| {
        simulate(|sim| async move {
            sim.host();
            sim.sleep(secs(1)).await;
            sim.crash(7, Crash::PowerLoss);
            sim.sleep(secs(1)).await;
        });
    });
    assert_says(&message, &["at 1s", "an unknown host: 7; there are 1"]);
    let message = panic_of(|| {
        simulate(|sim| async move {
            let ip = IpAddr::from([192, 0, 2, 1]);
            sim.host_at([ip]);
            sim.host_at([ip]);
        });
    });
    assert_says(&message, &["a duplicate address", "host 0 has 192.0.2.1"]);
}

#[test]
fn impossible_links_are_refused() {
    for (link, says) in [
        (Link::latency(ms(1)).bandwidth(0), "bandwidth is zero"),
        (Link::latency(ms(2)..ms(1)), "from 2ms to 1ms"),
        (Link::latency(ms(1)).loss(1.5), "loss is 1.5"),
    ] {
        let message = panic_of(|| drop(Options::seed(1).link(link.clone()).start()));
        assert_says(&message, &["an impossible link", says]);
        let failure = Sim::check(0..1).link(link).try_run(|_| async {}).expect_err("impossible");
        assert_says(&failure.to_string(), &["an impossible link", says]);
    }
}

#[test]
fn faults_need_no_hosts() {
    Sim::check(0..20).faults(Faults::all()).deadline(secs(60)).run(|sim| async move {
        sim.sleep(secs(50)).await;
    });
}
