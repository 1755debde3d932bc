//! Messages that flow one way: stream, fan-in and broadcast.

use super::Pace;
use crate::{
    bed::Bed,
    contender::{Contender, Duty, Host, Link, Setup, Tuning},
    inbox::{Credit, Inbox, payload},
    measure::{Figure, Unit},
};
use bytes::Bytes;
use futures::{channel::oneshot, future::try_join_all};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

const HEADER_BYTES: usize = 4;
/// What one connection alone may have under way, and all of many together.
const WINDOW_BYTES: usize = 256 * 1024;
const WINDOWS_BYTES: usize = 4 * 1024 * 1024;
/// How much of a run goes before what is measured.
const WARM_UP: f64 = 0.2;

/// Makes the inbox and the setup for a workload.
pub fn prepare(peers: usize, bytes: usize, tuning: Tuning) -> (Arc<Inbox>, Setup) {
    let frame = HEADER_BYTES + bytes;
    let window_bytes = if peers == 1 { WINDOW_BYTES } else { WINDOWS_BYTES / peers };
    let inbox = Inbox::new(peers, bytes, window_bytes / frame);
    let setup = Setup {
        connections: peers,
        message_bytes: bytes,
        window_bytes: inbox.window() * frame,
        ..Setup::new(tuning)
    };
    (inbox, setup)
}

/// Many send to one, or one to one.
pub async fn inward<C: Contender>(
    senders: usize,
    bytes: usize,
    tuning: Tuning,
    pace: &Pace,
) -> io::Result<Vec<Figure>> {
    let (inbox, setup) = prepare(senders, bytes, tuning);
    let server = C::host(setup.listening(), Duty::Count(inbox.clone())).await?;
    let (mut clients, mut lanes) = (Vec::new(), Vec::new());
    for number in 0..senders {
        let client = C::host(setup, Duty::Discard).await?;
        let link = client.dial(server.addr()).await?;
        lanes.push(Lane::new(link, &inbox, number, bytes));
        clients.push(client);
    }
    let mut messages = inbox.window() as u64;
    let mut rate = 0.0;
    // The first and the second time to warm up, and to learn how many make up the time.
    for next in [WARM_UP, 1.0, 0.0] {
        inbox.expect(messages);
        let start = Instant::now();
        let sending = lanes.into_iter().map(|lane| apart::<C::Bed, _>(lane.send(messages)));
        lanes = try_join_all(sending).await?;
        let time = inbox.reached().await - start;
        rate = messages as f64 / time.as_secs_f64();
        messages = enough(rate, pace.time.mul_f64(next), inbox.window());
    }
    for lane in lanes {
        lane.link.close().await?;
    }
    for client in clients {
        client.shut_down().await;
    }
    server.shut_down().await;
    Ok(Figure::only(rate * senders as f64, Unit::PerSecond))
}

/// One sends the same to many.
pub async fn outward<C: Contender>(
    peers: usize,
    bytes: usize,
    tuning: Tuning,
    pace: &Pace,
) -> io::Result<Vec<Figure>> {
    let (_, setup) = prepare(peers, bytes, tuning);
    let window = setup.window_bytes / (HEADER_BYTES + bytes);
    let server = C::host(Setup { broadcasts: true, ..setup }.listening(), Duty::Discard).await?;
    let (mut clients, mut links, mut inboxes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..peers {
        let inbox = Inbox::new(1, bytes, window);
        let client = C::host(setup, Duty::Count(inbox.clone())).await?;
        links.push(client.dial(server.addr()).await?);
        clients.push(client);
        inboxes.push(inbox);
    }
    super::wait_until("all are accepted", || server.live() == peers)?;
    let credits = inboxes.iter().map(|inbox| Credit::new(inbox, 0)).collect();
    let mut tower = Tower { host: server, credits, message: payload(0, bytes) };
    let mut messages = window as u64;
    let mut rate = 0.0;
    for next in [WARM_UP, 1.0, 0.0] {
        inboxes.iter().for_each(|inbox| inbox.expect(messages));
        let start = Instant::now();
        tower = apart::<C::Bed, _>(tower.send(messages)).await?;
        let mut last = start;
        for inbox in &inboxes {
            last = last.max(inbox.reached().await);
        }
        rate = messages as f64 / (last - start).as_secs_f64();
        messages = enough(rate, pace.time.mul_f64(next), window);
    }
    tower.host.shut_down().await;
    for link in links {
        link.close().await?;
    }
    for client in clients {
        client.shut_down().await;
    }
    Ok(Figure::only(rate * peers as f64, Unit::PerSecond))
}

/// Runs a job in a task of its own, and waits for it.
async fn apart<B: Bed, T: Send + 'static>(
    job: impl Future<Output = io::Result<T>> + Send + 'static,
) -> io::Result<T> {
    let (done, outcome) = oneshot::channel();
    B::spawn(async move {
        // Somebody waits for it, unless the run has failed.
        let _ = done.send(job.await);
    });
    outcome.await.map_err(io::Error::other)?
}

/// How many messages a run of a given length needs.
fn enough(rate: f64, time: Duration, window: usize) -> u64 {
    ((rate * time.as_secs_f64()) as u64).max(window as u64)
}

/// A sender and its connection.
pub struct Lane<L> {
    pub link: L,
    credit: Credit,
    message: Bytes,
}

impl<L: Link> Lane<L> {
    pub fn new(link: L, inbox: &Arc<Inbox>, number: usize, bytes: usize) -> Self {
        Self { link, credit: Credit::new(inbox, number), message: payload(number, bytes) }
    }

    pub async fn send(mut self, messages: u64) -> io::Result<Self> {
        let Self { link, credit, message } = &mut self;
        for _ in 0..messages {
            while !credit.take() {
                link.flush().await?;
                credit.wait().await;
            }
            link.feed(message).await?;
        }
        link.flush().await?;
        Ok(self)
    }
}

/// A sender to all.
struct Tower<H> {
    host: H,
    credits: Vec<Credit>,
    message: Bytes,
}

impl<H: Host> Tower<H> {
    async fn send(mut self, messages: u64) -> io::Result<Self> {
        let Self { host, credits, message } = &mut self;
        for _ in 0..messages {
            for credit in &mut *credits {
                while !credit.take() {
                    host.flush().await?;
                    credit.wait().await;
                }
            }
            host.broadcast(message).await?;
        }
        host.flush().await?;
        Ok(self)
    }
}
