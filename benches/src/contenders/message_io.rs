//! message-io 0.19 with its framed TCP: a thread for each node, callbacks, and a varint in place
//! of the length of four bytes. Sending writes at once, with a system call for the length and
//! another for the message, and spins while the socket is full. It has no way to set
//! `TCP_NODELAY`, nor the backlog.

use super::ANY_PORT;
use crate::{
    bed,
    contender::{self, Contender, Duty, Setup, Tuning},
};
use ::message_io::{
    network::{Endpoint, NetEvent, ResourceId, SendStatus, Transport},
    node::{self, NodeHandler, NodeTask},
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::*},
    },
};

/// message-io.
pub struct Framed;

/// A node.
pub struct Host {
    handler: NodeHandler<()>,
    addr: Option<SocketAddr>,
    shared: Arc<Shared>,
    task: Mutex<NodeTask>,
}

#[derive(Default)]
struct Shared {
    live: AtomicUsize,
    accepted: Mutex<HashMap<ResourceId, Endpoint>>,
}

impl Contender for Framed {
    type Bed = bed::Threads;
    type Host = Host;

    const NAME: &'static str = "message-io";
    const TUNINGS: &'static [Tuning] = &[Tuning::Default];

    async fn host(setup: Setup, duty: Duty) -> io::Result<Host> {
        let (handler, listener) = node::split::<()>();
        let mut addr = None;
        if setup.listens {
            let (_, bound) = handler.network().listen(Transport::FramedTcp, ANY_PORT)?;
            addr = Some(bound);
        }
        let shared = Arc::new(Shared::default());
        let (network, seen) = (handler.clone(), shared.clone());
        let task = listener.for_each_async(move |event| match event.network() {
            NetEvent::Connected(..) => {}
            NetEvent::Accepted(endpoint, _) => {
                seen.accepted.lock().insert(endpoint.resource_id(), endpoint);
                seen.live.fetch_add(1, SeqCst);
            }
            NetEvent::Message(endpoint, message) => {
                let answer = duty.take(message);
                if let Some(answer) = answer.bytes(|| Bytes::copy_from_slice(message)) {
                    network.network().send(endpoint, &answer);
                }
            }
            NetEvent::Disconnected(endpoint) => {
                if seen.accepted.lock().remove(&endpoint.resource_id()).is_some() {
                    seen.live.fetch_sub(1, SeqCst);
                }
            }
        });
        Ok(Host { handler, addr, shared, task: Mutex::new(task) })
    }
}

fn sent(status: SendStatus) -> io::Result<()> {
    match status {
        SendStatus::Sent => Ok(()),
        other => Err(io::Error::other(format!("not sent: {other:?}"))),
    }
}

impl contender::Host for Host {
    type Link = Link;

    fn addr(&self) -> SocketAddr {
        self.addr.expect("a listening host")
    }

    fn live(&self) -> usize {
        self.shared.live.load(SeqCst)
    }

    async fn dial(&self, addr: SocketAddr) -> io::Result<Link> {
        let (endpoint, _) = self.handler.network().connect_sync(Transport::FramedTcp, addr)?;
        Ok(Link { handler: self.handler.clone(), endpoint })
    }

    async fn converse(&self, addr: SocketAddr, opening: Bytes) -> io::Result<Link> {
        let link = self.dial(addr).await?;
        sent(self.handler.network().send(link.endpoint, &opening))?;
        Ok(link)
    }

    async fn broadcast(&self, message: &Bytes) -> io::Result<()> {
        for endpoint in self.shared.accepted.lock().values() {
            sent(self.handler.network().send(*endpoint, message))?;
        }
        Ok(())
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    async fn shut_down(self) {
        self.handler.stop();
        self.task.lock().wait();
    }
}

/// A connection.
pub struct Link {
    handler: NodeHandler<()>,
    endpoint: Endpoint,
}

impl contender::Link for Link {
    #[inline]
    async fn feed(&mut self, message: &Bytes) -> io::Result<()> {
        sent(self.handler.network().send(self.endpoint, message))
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn close(self) -> io::Result<()> {
        self.handler.network().remove(self.endpoint.resource_id());
        Ok(())
    }
}
