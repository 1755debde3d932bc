//! Many seeds: the same each time, faults and their shrinking, what isn't deterministic.

mod common;

use anypea_runtime::{Clock, Runtime, Spawner};
use anypea_sim::{Crash, EventKind, FaultKind, Faults, Host, Hosts, Link, Sim, Summary, ms, secs};
use common::{accept, addr, dial, listen};
use futures_util::{AsyncReadExt, AsyncWriteExt, FutureExt};
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

/// A program that tells all hosts before it, again and again, the highest number that it knows.
#[derive(Clone, Default)]
struct Rumour(Arc<AtomicU64>);

async fn rumour(host: Host, number: usize) -> Rumour {
    let rumour = Rumour(Arc::new(AtomicU64::new(number as u64)));
    let mut listener = listen(&host).await;
    let (spawner, known) = (host.clone(), rumour.0.clone());
    host.spawn(Box::pin(async move {
        loop {
            let mut stream = accept(&mut listener).await;
            let known = known.clone();
            spawner.spawn(Box::pin(async move {
                let mut heard = [0; 8];
                while stream.read_exact(&mut heard).await.is_ok() {
                    known.fetch_max(u64::from_be_bytes(heard), SeqCst);
                }
            }));
        }
    }));
    let (teller, known) = (host.clone(), rumour.0.clone());
    host.spawn(Box::pin(async move {
        loop {
            let wait = ms(teller.random() % 1_000);
            teller.timer(teller.now() + wait).await;
            let to = teller.random() as usize % 10;
            let to = ([10, 0, 0, to as u8 + 1], common::PORT).into();
            let dialing = anypea_runtime::Network::connect(&teller, to, &Default::default());
            if let Ok(mut stream) = dialing.await {
                let _ = stream.write_all(&known.load(SeqCst).to_be_bytes()).await;
            }
        }
    }));
    rumour
}

fn all_know(hosts: &Hosts<Rumour>) -> bool {
    let running = hosts.running();
    running.len() == hosts.len() && running.iter().all(|(_, known)| known.0.load(SeqCst) >= 9)
}

fn gossip(seeds: std::ops::Range<u64>, jobs: usize) -> Summary {
    Sim::check(seeds)
        .link(Link::latency(ms(5)..ms(80)).loss(0.01))
        .faults(Faults::all().at_most(6))
        .deadline(secs(600))
        .jobs(jobs)
        .run(|sim| async move {
            let hosts = sim.hosts(10, rumour).await;
            sim.partition(hosts.range(..5), hosts.range(5..)).lasting(secs(20)).await;
            hosts.crash(7, Crash::PowerLoss);
            hosts.restart_after(7, secs(5));
            sim.sleep(secs(120)).await;
            sim.heal();
            sim.eventually(secs(120), || all_know(&hosts)).await;
        })
}

#[test]
fn a_seed_has_one_hash_on_any_number_of_threads() {
    let one = gossip(0..30, 1);
    assert_eq!(one, gossip(0..30, 2));
    assert_eq!(one.seeds, 30);
    assert_ne!(one.hash, gossip(30..60, 2).hash);
    println!("{one:?}");
}

#[test]
fn the_hash_is_the_same_on_every_machine_and_in_every_build() {
    // If this changes, so does what old seeds do. That is allowed, but never by accident.
    assert_eq!(format!("{:#018x}", gossip(0..3, 1).hash), "0xba47e794d48c97a2");
}

#[test]
fn a_thousand_repeats_have_one_hash() {
    let run = || {
        let simulation = anypea_sim::Options::seed(5).start();
        let sim = simulation.sim().clone();
        simulation.block_on(async move {
            let hosts = sim.hosts(5, rumour).await;
            sim.sleep(secs(5)).await;
            hosts.crash(2, Crash::Process);
            sim.sleep(secs(5)).await;
        });
        simulation.hash()
    };
    let first = run();
    assert!((0..1_000).all(|_| run() == first));
}

#[test]
fn payloads_are_in_the_hash_on_request() {
    let run = |payload: &'static [u8], wanted: bool| {
        let options = anypea_sim::Options::seed(5);
        let options = if wanted { options.hash_payloads() } else { options };
        let simulation = options.start();
        let sim = simulation.sim().clone();
        simulation.block_on(async move {
            let (mut a, mut b) = common::pair(&sim.host(), &sim.host()).await;
            a.write_all(payload).await.expect("write");
            b.read_exact(&mut [0; 3]).await.expect("read");
        });
        simulation.hash()
    };
    assert_eq!(run(b"one", false), run(b"two", false));
    assert_ne!(run(b"one", true), run(b"two", true));
}

#[test]
fn an_observer_sees_what_happens() {
    let simulation = anypea_sim::Options::seed(5).start();
    let sim = simulation.sim().clone();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    sim.observe(move |event| notes.lock().expect("alone").push(*event));
    simulation.block_on(async move {
        let (mut a, b) = common::pair(&sim.host(), &sim.host()).await;
        a.write_all(b"unread").await.expect("write");
        sim.sleep(secs(1)).await;
        drop(b);
        a.read(&mut [0]).await.expect_err("a reset");
    });
    let seen = seen.lock().expect("alone");
    let mut kinds: Vec<_> = seen.iter().map(|event| event.kind()).collect();
    kinds.retain(|kind| !matches!(kind, EventKind::Poll | EventKind::Timer));
    use EventKind::{Data, Established, Reset, Syn, SynAck};
    assert_eq!(kinds, [Syn, SynAck, Established, Data, Reset]);
    assert!(seen.iter().any(|event| event.kind() == Data && event.detail() == 6));
    assert_eq!(seen.len() as u64, simulation.num_events());
}

#[test]
fn a_restarted_program_finds_its_disk() {
    Sim::check(0..5).deadline(secs(60)).run(|sim| async move {
        let hosts = sim
            .hosts(3, |host, _| async move {
                let starts = host.disk().get::<usize>();
                *starts.lock().expect("alone") += 1;
                host
            })
            .await;
        let old = hosts.get(1).expect("it is up");
        hosts.crash(1, Crash::PowerLoss);
        assert!(hosts.get(1).is_none() && !old.is_alive());
        hosts.restart_after(1, secs(5));
        sim.eventually(secs(6), || hosts.get(1).is_some()).await;
        let starts = |host: usize| *hosts.host(host).disk().get::<usize>().lock().expect("alone");
        assert_eq!([starts(0), starts(1)], [1, 2]);
    });
}

#[test]
fn what_ran_on_a_crashed_host_is_gone() {
    Sim::check(0..5).run(|sim| async move {
        let alive = Arc::new(());
        let held = alive.clone();
        let hosts = sim
            .hosts(2, move |host, _| {
                let held = held.clone();
                async move {
                    let task = host.clone();
                    host.spawn(Box::pin(async move {
                        let _held = held;
                        loop {
                            task.timer(task.now() + secs(1)).await;
                        }
                    }));
                }
            })
            .await;
        let before = Arc::strong_count(&alive);
        hosts.crash(0, Crash::Process);
        assert_eq!(Arc::strong_count(&alive), before - 1);
    });
}

#[test]
fn a_paused_host_is_late_and_a_skewed_one_is_wrong() {
    Sim::check(0..5).link(Link::latency(ms(1))).run(|sim| async move {
        let host = sim.host();
        let fired = Arc::new(Mutex::new(Vec::new()));
        let (ticks, task, clock) = (fired.clone(), host.clone(), sim.clone());
        host.spawn(Box::pin(async move {
            for _ in 0..10 {
                task.timer(task.now() + secs(1)).await;
                ticks.lock().expect("alone").push(clock.elapsed());
            }
        }));
        sim.sleep(ms(500)).await;
        sim.pause(host.index());
        sim.sleep(secs(2)).await;
        sim.resume(host.index());
        sim.sleep(ms(1)).await;
        assert_eq!(*fired.lock().expect("alone"), [ms(2_500)]);

        let (before, wall) = (host.now(), host.wall());
        let skew = anypea_sim::Skew { wall_secs: 3_600, drift_ppm: 100_000 };
        sim.skew(host.index(), skew);
        assert_eq!(host.now(), before, "the monotonic clock doesn't jump");
        assert_eq!(host.wall().duration_since(wall).expect("ahead"), secs(3_600));
        sim.sleep(secs(10)).await;
        assert_eq!(host.now() - before, secs(11));
        sim.heal();
        sim.sleep(secs(1)).await;
        assert_eq!(host.now() - before, secs(12));
    });
}

#[test]
fn a_reset_and_a_refusal_hit_whom_they_should() {
    Sim::check(0..5).link(Link::latency(ms(1))).run(|sim| async move {
        let (a, b, c) = (sim.host(), sim.host(), sim.host());
        let mut listener = listen(&a).await;
        let mut from_b = dial(&b, &a).await.expect("connect");
        let mut from_c = dial(&c, &a).await.expect("connect");
        let _ends = [accept(&mut listener).await, accept(&mut listener).await];
        sim.reset(b.index(), a.index());
        from_b.read(&mut [0]).await.expect_err("reset");
        from_c.write_all(b"fine").await.expect("write");
        let refusal = sim.refuse(a.index());
        dial(&b, &a).await.expect_err("refused");
        refusal.lift();
        dial(&b, &a).await.expect("connect");
        assert_eq!(addr(&a).ip(), a.ip());
    });
}

/// Fails if host 3 and host 4 have both been down at some time.
fn needs_two_faults(seeds: std::ops::Range<u64>) -> Result<Summary, Box<anypea_sim::Failure>> {
    Sim::check(seeds)
        .faults(Faults::only([FaultKind::Crash, FaultKind::Slow, FaultKind::Pause]).at_most(20))
        .deadline(secs(60))
        .try_run(|sim| async move {
            let hosts = sim.hosts(6, |_, _| async {}).await;
            let mut down = [false; 6];
            for _ in 0..550 {
                sim.sleep(ms(100)).await;
                for (host, down) in down.iter_mut().enumerate() {
                    *down |= hosts.get(host).is_none();
                }
                assert!(!(down[3] && down[4]), "both have been down");
            }
        })
}

#[test]
fn a_failure_is_shrunk_and_replayed() {
    let failure = needs_two_faults(0..200).expect_err("some seed crashes both");
    assert!(failure.message.contains("both have been down"), "{failure}");
    assert_eq!(failure.faults.len(), 2, "{failure}");
    assert!(failure.faults.iter().all(|fault| fault.contains("Crash")), "{failure}");
    assert!(failure.replays <= 60, "{failure}");
    assert!(failure.place.as_ref().is_some_and(|place| place.contains("check.rs")), "{failure}");
    let replay = failure.replay();
    let line = format!("SIM_SEED={} SIM_FAULTS=", failure.seed);
    assert!(replay.starts_with(&line), "{replay}");
    assert!(replay.ends_with("cargo test a_failure_is_shrunk_and_replayed"), "{replay}");
    println!("{failure}");
}

#[test]
fn the_lowest_failing_seed_is_reported() {
    for jobs in [1, 4] {
        let check = Sim::check(0..100).jobs(jobs);
        let failure = check.try_run(|sim| async move { assert!(sim.seed() < 17) });
        assert_eq!(failure.expect_err("17 fails").seed, 17);
    }
}

#[test]
fn a_condition_that_never_comes_true_names_its_place() {
    let failure = Sim::check(0..1).try_run(|sim| async move {
        sim.eventually(secs(3), || false).await;
    });
    let message = failure.expect_err("it is never true").to_string();
    assert!(
        message.contains("not true within 3s") && message.contains("tests/check.rs"),
        "{message}"
    );
}

/// Runs a scenario with a leak, which has to be found, and returns the report.
fn leak(leak: impl Fn(&Host) -> u64 + Send + Sync + Copy + 'static) -> String {
    let failure = Sim::check(0..1).try_run(move |sim| async move {
        let host = sim.host();
        for _ in 0..50 {
            let wait = Duration::from_nanos(1 + leak(&host) % 1_000_000);
            host.timer(host.now() + wait).await;
        }
    });
    failure.expect_err("a leak goes unnoticed").to_string()
}

/// Both arms are ready; which one runs is up to the macro.
fn unbiased() -> u64 {
    let mut one = std::pin::pin!(async { 1 }.fuse());
    let mut two = std::pin::pin!(async { 2 }.fuse());
    let select = async {
        futures_util::select! { n = one => n, n = two => n }
    };
    select.now_or_never().expect("both are ready")
}

#[test]
fn planted_leaks_are_found_and_named() {
    static COUNTER: AtomicUsize = AtomicUsize::new(0);
    let start = Instant::now();
    let leaks: [(&str, String); 6] = [
        (
            "the order of a hash set",
            leak(|_| {
                let set: HashSet<u64> = (0..100).collect();
                set.into_iter().next().unwrap_or(0)
            }),
        ),
        ("real time", leak(move |_| start.elapsed().subsec_nanos().into())),
        ("a static counter", leak(|_| COUNTER.fetch_add(1, SeqCst) as u64)),
        ("randomness of the system", leak(|_| anypea_runtime::os_random())),
        ("a random number generator of its own", leak(|_| fastrand::u64(..))),
        ("an unbiased select", leak(|_| unbiased())),
    ];
    for (name, report) in leaks {
        assert!(report.contains("two runs of the same seed differ"), "{name}: {report}");
        assert!(report.contains("the first difference is event"), "{name}: {report}");
        assert!(report.contains("Timer"), "{name}: {report}");
    }
}

#[test]
fn what_the_host_draws_is_no_leak() {
    Sim::check(0..1).run(|sim| async move {
        let host = sim.host();
        for _ in 0..50 {
            let wait = Duration::from_nanos(1 + host.random() % 1_000_000);
            host.timer(host.now() + wait).await;
        }
    });
}

#[test]
fn an_idle_day_costs_nothing() {
    let start = Instant::now();
    Sim::check(0..1).run(|sim| async move {
        let _hosts = sim.hosts(100, rumourless).await;
        sim.sleep(secs(24 * 3600)).await;
    });
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

async fn rumourless(host: Host, _: usize) {
    let mut listener = listen(&host).await;
    host.spawn(Box::pin(async move { drop(accept(&mut listener).await) }));
}
