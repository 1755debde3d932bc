//! The protocols: what a user's type may implement, each in a file of its own.
//!
//! Enabling a protocol stores one closure over a clone of the user's type. The closure is called
//! once per connection, and what it returns calls the user's methods statically: no message
//! passes through dynamic dispatch, a channel or a task of its own.

mod handshake;
mod on_connect;
mod on_disconnect;
mod reading;
mod writing;

pub use handshake::{Connection, Framed, Handshake};
pub use on_connect::OnConnect;
pub use on_disconnect::OnDisconnect;
pub use reading::Reading;
pub use writing::{Delivery, Queued, Writing};

pub(crate) use reading::Stop;

use crate::{DisconnectReason, Node, Peer, outbox::Sender};
use anypea_runtime::BoxFuture;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};

/// A type with a [`Node`] in it: the ground on which the protocols stand.
///
/// It is cloned once per protocol and again per connection, so it should be cheap to clone, its
/// own state behind an [`Arc`].
///
/// ```
/// use anypea::{Node, Pea2Pea};
///
/// #[derive(Clone)]
/// struct MyNode {
///     node: Node,
/// }
///
/// impl Pea2Pea for MyNode {
///     fn node(&self) -> &Node {
///         &self.node
///     }
/// }
/// ```
pub trait Pea2Pea: Clone + Send + Sync + 'static {
    /// Returns the node.
    fn node(&self) -> &Node;
}

impl Pea2Pea for Node {
    fn node(&self) -> &Node {
        self
    }
}

/// Which end of a connection a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// It dialed.
    Initiator,
    /// It accepted.
    Responder,
}

impl std::ops::Not for Side {
    type Output = Self;

    /// Returns the side of the other end.
    fn not(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }
}

/// What a message is sent to: an address, or exactly one connection.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// Whichever connection there is with the address.
    Addr(SocketAddr),
    /// This connection, and no later one with the same address.
    Peer(&'a Peer),
}

impl From<SocketAddr> for Target<'_> {
    fn from(addr: SocketAddr) -> Self {
        Self::Addr(addr)
    }
}

impl<'a> From<&'a Peer> for Target<'a> {
    fn from(peer: &'a Peer) -> Self {
        Self::Peer(peer)
    }
}

type Shared<F> = Option<Arc<F>>;

/// The enabled protocols, type-erased.
#[derive(Clone, Default)]
pub(crate) struct Protocols {
    pub(crate) admit: Shared<dyn Fn(SocketAddr, Side) -> bool + Send + Sync>,
    pub(crate) handshake: Shared<Timed<dyn Perform>>,
    pub(crate) reading: Shared<dyn Fn(Peer) -> BoxFuture<'static, Stop> + Send + Sync>,
    pub(crate) writing: Shared<dyn Fn(&Peer) -> Sender + Send + Sync>,
    pub(crate) on_connect: Shared<Timed<dyn Greet>>,
    pub(crate) on_disconnect: Shared<Timed<dyn Part>>,
}

/// Puts a hook in its place, and tells whether the place was free.
fn install<T: ?Sized>(place: &mut Shared<T>, hook: Arc<T>) -> bool {
    let free = place.is_none();
    place.get_or_insert(hook);
    free
}

pub(crate) trait Perform:
    Fn(Connection) -> BoxFuture<'static, io::Result<Connection>> + Send + Sync
{
}
impl<F> Perform for F where
    F: Fn(Connection) -> BoxFuture<'static, io::Result<Connection>> + Send + Sync
{
}

pub(crate) trait Greet: Fn(Peer) -> BoxFuture<'static, ()> + Send + Sync {}
impl<F> Greet for F where F: Fn(Peer) -> BoxFuture<'static, ()> + Send + Sync {}

pub(crate) trait Part:
    Fn(Peer, DisconnectReason) -> BoxFuture<'static, ()> + Send + Sync
{
}
impl<F> Part for F where F: Fn(Peer, DisconnectReason) -> BoxFuture<'static, ()> + Send + Sync {}

/// A hook and how long it may take.
pub(crate) struct Timed<F: ?Sized> {
    pub(crate) limit: Duration,
    pub(crate) call: F,
}
