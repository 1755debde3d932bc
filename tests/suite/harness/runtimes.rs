//! The runtimes on which every test runs. To add one, write a function and list it.

use anypea::runtime::Runtime;
use futures::future::LocalBoxFuture;
use std::sync::Arc;

#[cfg(feature = "async-std")]
use anypea::AsyncStd;
#[cfg(feature = "smol")]
use anypea::Smol;
#[cfg(feature = "tokio")]
use anypea::Tokio;
#[cfg(feature = "smol")]
use futures::executor::{ThreadPool, block_on};
#[cfg(feature = "smol")]
use smol::Executor;
#[cfg(feature = "tokio")]
use tokio::runtime::Builder;

/// What a runtime is given to run.
pub type Main = Box<dyn FnOnce(Arc<dyn Runtime>) -> LocalBoxFuture<'static, ()>>;

/// A way to run a body.
pub struct Kind {
    pub name: &'static str,
    /// Makes a runtime, runs the body in it, and ends it.
    pub run: fn(Main),
}

pub static KINDS: &[Kind] = &[
    #[cfg(feature = "tokio")]
    Kind { name: "tokio", run: tokio },
    #[cfg(feature = "tokio")]
    Kind { name: "tokio_current", run: tokio_current },
    #[cfg(feature = "async-std")]
    Kind { name: "async_std", run: async_std },
    #[cfg(feature = "smol")]
    Kind { name: "smol_1", run: smol_1 },
    #[cfg(feature = "smol")]
    Kind { name: "smol_2", run: smol_2 },
    #[cfg(feature = "smol")]
    Kind { name: "thread_pool", run: thread_pool },
    #[cfg(feature = "sim")]
    Kind { name: "sim", run: simulated },
];

#[cfg(feature = "tokio")]
fn tokio(main: Main) {
    on_tokio(Builder::new_multi_thread().worker_threads(2), main);
}

#[cfg(feature = "tokio")]
fn tokio_current(main: Main) {
    on_tokio(&mut Builder::new_current_thread(), main);
}

#[cfg(feature = "tokio")]
fn on_tokio(builder: &mut Builder, main: Main) {
    let runtime = builder.enable_all().build().expect("a tokio runtime");
    runtime.block_on(main(Arc::new(Tokio::from(runtime.handle().clone()))));
}

#[cfg(feature = "async-std")]
fn async_std(main: Main) {
    async_std::task::block_on(main(Arc::new(AsyncStd)));
}

#[cfg(feature = "smol")]
fn smol_1(main: Main) {
    let executor = Arc::new(Executor::new());
    smol::block_on(executor.run(main(Arc::new(Smol::executor(&executor)))));
}

#[cfg(feature = "smol")]
fn smol_2(main: Main) {
    let executor = Arc::new(Executor::new());
    let (stop, stopped) = smol::channel::bounded::<()>(1);
    std::thread::scope(|scope| {
        // Also when the body panics: the other thread would run for ever.
        let _stop = stop;
        scope.spawn(|| smol::block_on(executor.run(stopped.recv())));
        smol::block_on(executor.run(main(Arc::new(Smol::executor(&executor)))));
    });
}

/// As a third party would bring an executor of its own.
#[cfg(feature = "smol")]
fn thread_pool(main: Main) {
    let pool = ThreadPool::builder().pool_size(2).create().expect("a thread pool");
    let runtime = Smol::with_spawner(move |task| pool.spawn_ok(task));
    block_on(main(Arc::new(runtime)));
}

/// On one simulated host. Bodies cause panics, as on any other runtime.
/// `SIM_SEED` chooses another order of tasks, other latencies and other short reads and writes.
#[cfg(feature = "sim")]
fn simulated(main: Main) {
    let seed = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let options = anypea::sim::Options::seed(seed).short_io(1.0 / 16.0);
    let simulation = options.contain_panics().start();
    // Some bodies ask the system which address the host has.
    let host = match outside_address() {
        Some(ip) => simulation.host_at([ip]),
        None => simulation.host(),
    };
    simulation.block_on(main(host.runtime()));
}

/// The address from which this machine would dial others. Nothing is sent.
#[cfg(feature = "sim")]
fn outside_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("203.0.113.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}
