//! anypea, on each runtime, with its default configuration but for limits that a workload needs
//! raised.

use super::ANY_PORT;
use crate::{
    bed::{self, Bed},
    contender::{self, Contender, Duty, Setup, Tuning},
};
use ::anypea::{
    Config, Node, Pea2Pea, Peer, Reading, SendError, Writing, codec::LengthDelimited,
    runtime::Runtime,
};
use bytes::{BufMut, Bytes, BytesMut};
use std::{io, marker::PhantomData, net::SocketAddr, sync::Arc};

/// anypea on a runtime.
pub struct Anypea<B>(PhantomData<B>);

/// A runtime that anypea has an adapter for.
pub trait Adapted: Bed {
    /// Returns the adapter.
    fn adapter() -> Arc<dyn Runtime>;
}

impl Adapted for bed::Tokio {
    fn adapter() -> Arc<dyn Runtime> {
        Arc::new(::anypea::Tokio::current().expect("within tokio"))
    }
}

impl Adapted for bed::Smol {
    fn adapter() -> Arc<dyn Runtime> {
        Arc::new(::anypea::Smol::executor(&bed::EXECUTOR))
    }
}

impl Adapted for bed::AsyncStd {
    fn adapter() -> Arc<dyn Runtime> {
        Arc::new(::anypea::AsyncStd)
    }
}

/// The node with its protocols.
#[derive(Clone)]
pub struct App {
    node: Node,
    duty: Duty,
    setup: Setup,
}

impl Pea2Pea for App {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for App {
    type Codec = LengthDelimited;

    fn codec(&self, _peer: &Peer) -> LengthDelimited {
        LengthDelimited::new(self.setup.max_frame_bytes())
    }

    async fn process_message(&self, peer: &Peer, message: Bytes) -> io::Result<()> {
        if let Some(answer) = self.duty.take(&message).bytes(|| message) {
            self.unicast(peer, answer)?;
        }
        Ok(())
    }

    fn max_buffered_bytes(&self) -> usize {
        (2 * self.setup.message_bytes).max(1024 * 1024)
    }
}

impl Writing for App {
    type Message = Bytes;
    type Codec = LengthDelimited;

    fn codec(&self, _peer: &Peer) -> LengthDelimited {
        LengthDelimited::new(self.setup.max_frame_bytes())
    }

    /// The inbox bounds what is under way, so the queue never is full.
    fn queue_bytes(&self) -> usize {
        self.setup.window_bytes.max(1024 * 1024)
    }
}

impl<B: Adapted> Contender for Anypea<B> {
    type Bed = B;
    type Host = App;

    const NAME: &'static str = "anypea";
    const TUNINGS: &'static [Tuning] = &[Tuning::Default];

    async fn host(setup: Setup, duty: Duty) -> io::Result<App> {
        let config = Config {
            listening_addr: setup.listens.then_some(ANY_PORT),
            backlog: super::BACKLOG,
            max_connections: setup.connections + 2,
            max_inbound: setup.connections + 1,
            max_inbound_setups: setup.connections.max(64),
            max_outbound_setups: setup.connections.max(64),
            ..Config::default()
        };
        let app = App { node: Node::new(B::adapter(), config)?, duty, setup };
        app.enable_reading()?;
        app.enable_writing()?;
        if setup.listens {
            app.node.start_listening().await?;
        }
        Ok(app)
    }
}

impl contender::Host for App {
    type Link = Link;

    fn addr(&self) -> SocketAddr {
        self.node.listening_addr().expect("a listening node")
    }

    fn live(&self) -> usize {
        self.node.num_connected()
    }

    async fn dial(&self, addr: SocketAddr) -> io::Result<Link> {
        Ok(Link { app: self.clone(), peer: self.node.connect(addr).await? })
    }

    async fn converse(&self, addr: SocketAddr, opening: Bytes) -> io::Result<Link> {
        let link = self.dial(addr).await?;
        self.unicast(&link.peer, opening)?;
        Ok(link)
    }

    async fn broadcast(&self, message: &Bytes) -> io::Result<()> {
        if self.setup.tuning == Tuning::EncodedOnce {
            let mut frame = BytesMut::with_capacity(4 + message.len());
            frame.put_u32(message.len() as u32);
            frame.put_slice(message);
            let frame = frame.freeze();
            for peer in self.node.peers() {
                self.send_encoded(&peer, frame.clone())?;
            }
            return Ok(());
        }
        for (_, queued) in Writing::broadcast(self, message.clone()) {
            queued?;
        }
        Ok(())
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    async fn shut_down(self) {
        self.node.shut_down().await;
    }
}

/// A connection.
pub struct Link {
    app: App,
    peer: Peer,
}

impl contender::Link for Link {
    #[inline]
    async fn feed(&mut self, message: &Bytes) -> io::Result<()> {
        let queued = match self.app.setup.tuning {
            Tuning::ByAddress => self.app.unicast(self.peer.addr(), message.clone()),
            _ => self.app.unicast(&self.peer, message.clone()),
        };
        match queued {
            Ok(_) => Ok(()),
            Err(SendError::Full(message)) => {
                self.app.send(&self.peer, message).await?;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn close(self) -> io::Result<()> {
        self.peer.disconnect().await;
        Ok(())
    }
}
