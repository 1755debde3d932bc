//! Request and response, alone and beside a bulk stream.

use super::{Pace, flow};
use crate::{
    bed::Bed,
    contender::{Contender, Duty, Host, Link, Setup, Tuning},
    inbox::payload,
    measure::{Figure, Unit, percentile},
    volley::Volley,
};
use futures::channel::oneshot;
use std::{io, time::Duration};

const BULK_BYTES: usize = 32 * 1024;
/// Less has too few requests for a 99th percentile.
const AT_LEAST: Duration = Duration::from_millis(100);
/// Messages that are sent in bulk before it is looked whether there are enough.
const BULK_BATCH: u64 = 16;

fn latencies(sorted: &[Duration]) -> Vec<Figure> {
    let figure = |metric, percent| Figure {
        metric,
        value: percentile(sorted, percent),
        unit: Unit::Seconds,
    };
    vec![figure("p50", 50), figure("p99", 99)]
}

/// One asks, the other answers.
pub async fn request<C: Contender>(
    bytes: usize,
    tuning: Tuning,
    pace: &Pace,
) -> io::Result<Vec<Figure>> {
    let setup = Setup::new(tuning);
    let volley = Volley::new(payload(0, bytes), pace.time.max(AT_LEAST));
    let server = C::host(setup.listening(), Duty::Echo).await?;
    let client = C::host(setup, Duty::Volley(volley.clone())).await?;
    let link = client.converse(server.addr(), volley.open()).await?;
    let times = volley.times().await;
    link.close().await?;
    client.shut_down().await;
    server.shut_down().await;
    Ok(latencies(&times))
}

/// One asks and another answers, while the first sends in bulk to a third.
pub async fn beside_bulk<C: Contender>(
    bytes: usize,
    tuning: Tuning,
    pace: &Pace,
) -> io::Result<Vec<Figure>> {
    let (inbox, setup) = flow::prepare(1, BULK_BYTES, tuning);
    let volley = Volley::new(payload(0, bytes), pace.time.max(AT_LEAST));
    let sink = C::host(setup.listening(), Duty::Count(inbox.clone())).await?;
    let server = C::host(setup.listening(), Duty::Echo).await?;
    let client = C::host(setup, Duty::Volley(volley.clone())).await?;
    let mut lane = flow::Lane::new(client.dial(sink.addr()).await?, &inbox, 0, BULK_BYTES);
    let (done, sent) = oneshot::channel();
    let asking = volley.clone();
    C::Bed::spawn(async move {
        while !asking.is_over() {
            lane = match lane.send(BULK_BATCH).await {
                Ok(lane) => lane,
                Err(error) => return drop(done.send(Err(error))),
            };
        }
        drop(done.send(lane.link.close().await));
    });
    let talk = client.converse(server.addr(), volley.open()).await?;
    let times = volley.times().await;
    sent.await.map_err(io::Error::other)??;
    talk.close().await?;
    client.shut_down().await;
    server.shut_down().await;
    sink.shut_down().await;
    Ok(latencies(&times))
}
