//! Comings and goings: connections made and ended, and a burst of them accepted.

use super::{Pace, wait_until};
use crate::{
    bed::Bed,
    clients,
    contender::{Contender, Duty, Host, Link, Setup, Tuning},
    measure::{Figure, Unit},
};
use futures::{channel::oneshot, future::try_join_all};
use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// Clients that connect and disconnect at one time, each again and again.
const CLIENTS: usize = 8;
/// Connections of a burst that may wait to be accepted: below any backlog, since a segment that
/// the kernel drops would cost a second.
const WAITING: usize = 2000;
/// Less would be mostly warming up, and more would use up the ports of one address.
const AT_LEAST: Duration = Duration::from_millis(150);
const PAUSE: Duration = Duration::from_micros(100);

/// Connects and disconnects. It is over when both ends of all connections are released.
pub async fn connect<C: Contender>(tuning: Tuning, pace: &Pace) -> io::Result<Vec<Figure>> {
    let setup = Setup { connections: 1024, ..Setup::new(tuning) };
    let server = C::host(setup.listening(), Duty::Discard).await?;
    let addr = server.addr();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Arc::new(C::host(setup, Duty::Discard).await?));
    }
    let start = Instant::now();
    let until = start + pace.time.max(AT_LEAST);
    let working = clients.iter().map(|client| {
        let (done, outcome) = oneshot::channel();
        let client = client.clone();
        C::Bed::spawn(async move {
            let work = async {
                let mut connections = 0;
                while Instant::now() < until {
                    client.dial(addr).await?.close().await?;
                    connections += 1;
                }
                Ok::<u32, io::Error>(connections)
            };
            let counted = work.await;
            drop(client);
            // Somebody waits for it, unless the run has failed.
            let _ = done.send(counted);
        });
        async { outcome.await.map_err(io::Error::other)? }
    });
    let connections: u32 = try_join_all(working.collect::<Vec<_>>()).await?.iter().sum();
    wait_until("all are released", || server.live() == 0)?;
    let rate = f64::from(connections) / start.elapsed().as_secs_f64();
    for client in clients {
        if let Some(client) = Arc::into_inner(client) {
            client.shut_down().await;
        }
    }
    server.shut_down().await;
    Ok(Figure::only(rate, Unit::PerSecond))
}

/// Accepts many at once. It is over when all are registered.
pub async fn accept<C: Contender>(connections: usize, tuning: Tuning) -> io::Result<Vec<Figure>> {
    let setup = Setup { connections, ..Setup::new(tuning) };
    let server = C::host(setup.listening(), Duty::Discard).await?;
    let addr = server.addr();
    let start = Instant::now();
    let (burst, registered) = thread::scope(|scope| {
        let server = &server;
        let dialing = scope.spawn(move || {
            let one = |number| {
                while number >= server.live() + WAITING {
                    thread::sleep(PAUSE);
                }
                clients::dial(addr, number)
            };
            (0..connections).map(one).collect::<io::Result<Vec<_>>>()
        });
        let registered = wait_until("all are accepted", || server.live() >= connections);
        let time = start.elapsed();
        (dialing.join().expect("the dialing thread"), registered.map(|()| time))
    });
    let time = registered?;
    drop(burst?);
    wait_until("all are released", || server.live() == 0)?;
    server.shut_down().await;
    Ok(Figure::only(connections as f64 / time.as_secs_f64(), Unit::PerSecond))
}
