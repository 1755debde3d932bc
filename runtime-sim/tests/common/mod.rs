//! What the tests of the simulator share.

#![allow(dead_code, reason = "no test needs all of it")]

use anypea_runtime::{ConnectOptions, ListenOptions, Listener, Network, Stream};
use anypea_sim::{Host, Link, Options, Sim, ms};
use std::{future::poll_fn, io, net::SocketAddr};

/// The port that all listeners have.
pub const PORT: u16 = 7000;

/// Runs a scenario for one seed, on links that take 10 ms.
pub fn simulate<F: Future<Output = T>, T>(scenario: impl FnOnce(Sim) -> F) -> T {
    simulate_with(Options::seed(1).link(Link::latency(ms(10))), scenario)
}

pub fn simulate_with<F: Future<Output = T>, T>(
    options: Options,
    scenario: impl FnOnce(Sim) -> F,
) -> T {
    let simulation = options.start();
    let sim = simulation.sim().clone();
    simulation.block_on(scenario(sim))
}

/// The message of a panic.
pub fn panic_of(run: impl FnOnce()) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    let panic = panic.expect_err("it should fail");
    let text = panic.downcast_ref::<String>().cloned();
    text.unwrap_or_else(|| (*panic.downcast_ref::<&str>().expect("a text")).to_owned())
}

pub fn addr(host: &Host) -> SocketAddr {
    (host.ip(), PORT).into()
}

pub async fn listen(host: &Host) -> Box<dyn Listener> {
    listen_with(host, &ListenOptions::default()).await
}

pub async fn listen_with(host: &Host, options: &ListenOptions) -> Box<dyn Listener> {
    host.listen(addr(host), options).await.expect("listen")
}

pub async fn accept(listener: &mut Box<dyn Listener>) -> Stream {
    poll_fn(|cx| listener.poll_accept(cx)).await.expect("accept").0
}

pub async fn dial(from: &Host, to: &Host) -> io::Result<Stream> {
    from.connect(addr(to), &ConnectOptions::default()).await
}

/// Returns both ends of a new connection, the dialed one first.
pub async fn pair(from: &Host, to: &Host) -> (Stream, Stream) {
    let mut listener = listen(to).await;
    let dialed = dial(from, to).await.expect("connect");
    (dialed, accept(&mut listener).await)
}
