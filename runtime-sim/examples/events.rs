//! How many events a second the simulator handles: hosts that ping each other on bare streams.
//! With 0 links, they connect and close instead, one after the other, as fast as they can.
//!
//! `cargo run --release -p anypea-sim --example events -- [hosts] [links] [seconds]`

use anypea_runtime::{
    Clock, ConnectOptions, ListenOptions, Listener, Network, Runtime, Spawner, Stream,
};
use anypea_sim::{Host, Link, Options, ms, secs};
use futures_util::{AsyncReadExt, AsyncWriteExt};
use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

const PORT: u16 = 7000;
const PING: [u8; 64] = [7; 64];

fn main() {
    let mut args = std::env::args().skip(1).filter_map(|arg| arg.parse::<u64>().ok());
    let mut next = |default| args.next().unwrap_or(default);
    let (hosts, links, seconds) = (next(200) as usize, next(4) as usize, next(60));
    let simulation = Options::seed(1).link(Link::latency(ms(5)..ms(50))).start();
    let sim = simulation.sim().clone();
    let start = Instant::now();
    let closed = Arc::new(AtomicU64::new(0));
    let count = closed.clone();
    let (wall, events) = simulation.block_on(async move {
        let all = sim.hosts(hosts, |host, _| async move { echo(&host).await }).await;
        for i in 0..hosts {
            if links == 0 {
                let (host, to) = (all.host(i), all.ip((i + 1) % hosts));
                let dialer = host.clone();
                host.spawn(Box::pin(come_and_go(dialer, (to, PORT).into(), count.clone())));
            }
            for link in 1..=links {
                let (host, to) = (all.host(i), all.ip((i + link * link) % hosts));
                let dialer = host.clone();
                host.spawn(Box::pin(async move { ping(dialer, (to, PORT).into()).await }));
            }
        }
        sim.sleep(secs(2)).await;
        count.store(0, Relaxed);
        println!("{hosts} hosts x {links} links are up after {:.2?}", start.elapsed());
        let (start, before) = (Instant::now(), sim.num_events());
        sim.sleep(secs(seconds)).await;
        (start.elapsed().as_secs_f64(), sim.num_events() - before)
    });
    let rss = rss().unwrap_or(0);
    println!(
        "virtual_s {seconds} wall_s {wall:.2} ratio {:.1} events {events} events_per_s {:.0} \
         ns_per_event {:.0} rss_mib {} hash {:016x}",
        seconds as f64 / wall,
        events as f64 / wall,
        wall * 1e9 / events as f64,
        rss >> 20,
        simulation.hash(),
    );
    if links == 0 {
        let closed = closed.load(Relaxed);
        println!("connections {closed} connections_per_s {:.0}", closed as f64 / wall);
    }
}

/// Accepts connections, and sends back what comes.
async fn echo(host: &Host) {
    let addr = SocketAddr::from(([0, 0, 0, 0], PORT));
    let mut listener = host.listen(addr, &ListenOptions::default()).await.expect("listen");
    let spawner = host.clone();
    host.spawn(Box::pin(async move {
        while let Ok((stream, _)) = accept(&mut listener).await {
            spawner.spawn(Box::pin(answer(stream)));
        }
    }));
}

async fn accept(listener: &mut Box<dyn Listener>) -> std::io::Result<(Stream, SocketAddr)> {
    poll_fn(|cx| listener.poll_accept(cx)).await
}

async fn answer(mut stream: Stream) {
    let mut heard = [0; 64];
    while stream.read_exact(&mut heard).await.is_ok() {
        stream.write_all(&heard).await.expect("write");
    }
}

/// Sends one message a second, and waits for its echo.
async fn ping(host: Host, addr: SocketAddr) {
    let mut stream = host.connect(addr, &ConnectOptions::default()).await.expect("connect");
    let mut at = host.now() + ms(host.random() % 1000);
    let mut timer = host.timer(at);
    loop {
        timer.as_mut().await;
        stream.write_all(&PING).await.expect("write");
        stream.read_exact(&mut [0; 64]).await.expect("read");
        at += secs(1);
        timer.as_mut().reset(at);
    }
}

/// Connects and closes without end.
async fn come_and_go(host: Host, addr: SocketAddr, count: Arc<AtomicU64>) {
    loop {
        let mut stream = host.connect(addr, &ConnectOptions::default()).await.expect("connect");
        stream.close().await.expect("close");
        assert_eq!(stream.read(&mut [0]).await.expect("read"), 0);
        count.fetch_add(1, Relaxed);
    }
}

fn rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(status.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
}
