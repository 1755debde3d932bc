//! pea2pea 0.57, as its users write it.
//!
//! Its queues are counted in messages, at compile time, so there is a type for each depth that is
//! tried. It sends with `unicast_fast`, which gives no feedback and is the faster. A full queue is
//! waited for by yielding, since it has no way to wait. `TCP_NODELAY` is set on dialed sockets,
//! and on accepted ones in a handshake where these are to answer.

use super::ANY_PORT;
use crate::{
    bed,
    contender::{self, Contender, Duty, Setup, Tuning},
    framing::Framing,
};
use ::pea2pea::{
    Config, Connection, ConnectionSide, Node, Pea2Pea,
    protocols::{Handshake, Reading, Writing},
};
use bytes::Bytes;
use std::{io, net::SocketAddr};
use tokio::net::TcpSocket;

/// pea2pea on tokio.
pub struct Peas;

/// The node with its protocols.
#[derive(Clone)]
pub struct App<const DEPTH: usize> {
    node: Node,
    duty: Duty,
    setup: Setup,
}

impl<const DEPTH: usize> Pea2Pea for App<DEPTH> {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl<const DEPTH: usize> Handshake for App<DEPTH> {
    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        self.borrow_stream(&mut conn).set_nodelay(true)?;
        Ok(conn)
    }
}

impl<const DEPTH: usize> Reading for App<DEPTH> {
    const MESSAGE_QUEUE_DEPTH: usize = DEPTH;

    type Message = Bytes;
    type Codec = Framing;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Framing {
        Framing::new(self.setup.max_frame_bytes(), true)
    }

    async fn process_message(&self, source: SocketAddr, message: Bytes) {
        if let Some(answer) = self.duty.take(&message).bytes(|| message) {
            self.unicast_fast(source, answer).expect("an answer finds its way");
        }
    }
}

impl<const DEPTH: usize> Writing for App<DEPTH> {
    const MESSAGE_QUEUE_DEPTH: usize = DEPTH;

    type Message = Bytes;
    type Codec = Framing;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Framing {
        Framing::new(self.setup.max_frame_bytes(), true)
    }
}

impl<const DEPTH: usize> App<DEPTH> {
    async fn new(setup: Setup, duty: Duty) -> io::Result<Self> {
        let connections = u16::try_from(setup.connections + 2).map_err(io::Error::other)?;
        let config = Config {
            listener_addr: setup.listens.then_some(ANY_PORT),
            listener_backlog: super::BACKLOG,
            max_connections: connections,
            max_connections_per_ip: connections,
            max_connecting: connections,
            ..Config::default()
        };
        let answers = !matches!(duty, Duty::Count(_) | Duty::Discard);
        let app = Self { node: Node::new(config), duty, setup };
        if answers {
            app.enable_handshake().await;
        }
        app.enable_reading().await;
        app.enable_writing().await;
        if setup.listens {
            app.node.toggle_listener().await?;
        }
        Ok(app)
    }

    async fn connect(&self, addr: SocketAddr) -> io::Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.set_nodelay(true)?;
        self.node.connect_using_socket(addr, socket).await
    }

    async fn queue(&self, addr: SocketAddr, message: &Bytes) -> io::Result<()> {
        loop {
            match self.unicast_fast(addr, message.clone()) {
                Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => {
                    tokio::task::yield_now().await;
                }
                queued => return queued,
            }
        }
    }
}

/// A node of one of the depths that are tried.
#[derive(Clone)]
pub enum AnyDepth {
    /// The default one.
    Default(App<64>),
    /// A deeper one.
    Deep(App<1024>),
    /// One deep enough for any window.
    Deepest(App<65536>),
}

/// Does the same with a node of any depth.
macro_rules! each {
    ($host:expr, $app:ident => $do:expr) => {
        match $host {
            AnyDepth::Default($app) => $do,
            AnyDepth::Deep($app) => $do,
            AnyDepth::Deepest($app) => $do,
        }
    };
}

impl Contender for Peas {
    type Bed = bed::Tokio;
    type Host = AnyDepth;

    const NAME: &'static str = "pea2pea";
    const TUNINGS: &'static [Tuning] =
        &[Tuning::Default, Tuning::Depth(1024), Tuning::Depth(65536)];

    async fn host(setup: Setup, duty: Duty) -> io::Result<AnyDepth> {
        Ok(match setup.tuning {
            Tuning::Depth(1024) => AnyDepth::Deep(App::new(setup, duty).await?),
            Tuning::Depth(65536) => AnyDepth::Deepest(App::new(setup, duty).await?),
            _ => AnyDepth::Default(App::new(setup, duty).await?),
        })
    }
}

impl contender::Host for AnyDepth {
    type Link = Link;

    fn addr(&self) -> SocketAddr {
        let listening = each!(self, app => app.node.listening_addr());
        futures::executor::block_on(listening).expect("a listening node")
    }

    fn live(&self) -> usize {
        each!(self, app => app.node.num_connected())
    }

    async fn dial(&self, addr: SocketAddr) -> io::Result<Link> {
        each!(self, app => app.connect(addr).await)?;
        Ok(Link { host: self.clone(), addr })
    }

    async fn converse(&self, addr: SocketAddr, opening: Bytes) -> io::Result<Link> {
        let link = self.dial(addr).await?;
        each!(self, app => app.unicast_fast(addr, opening))?;
        Ok(link)
    }

    async fn broadcast(&self, message: &Bytes) -> io::Result<()> {
        // What its documentation says to do; its own `broadcast` is deprecated.
        each!(self, app => for addr in app.node.connected_addrs() {
            app.queue(addr, message).await?;
        });
        Ok(())
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    async fn shut_down(self) {
        each!(self, app => app.node.shut_down().await);
    }
}

/// A connection.
pub struct Link {
    host: AnyDepth,
    addr: SocketAddr,
}

impl contender::Link for Link {
    #[inline]
    async fn feed(&mut self, message: &Bytes) -> io::Result<()> {
        each!(&self.host, app => app.queue(self.addr, message).await)
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn close(self) -> io::Result<()> {
        each!(&self.host, app => app.node.disconnect(self.addr).await);
        Ok(())
    }
}
