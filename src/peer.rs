//! One live connection.

use crate::{
    DisconnectReason, PeerStats, Side,
    ending::{Ending, Manner},
    node::{Disconnect, Inner},
    outbox::Outbox,
};
use anypea_runtime::{ReadHalf, Socket};
use parking_lot::{Mutex, RwLock};
use std::{
    any::{Any, TypeId},
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};
use tracing::Span;

/// One connection: a cheap, clonable handle.
///
/// Hooks get a `&Peer`, and whatever sends or disconnects takes an address or a `&Peer`. Through
/// a `Peer` nothing can reach a stranger that later got the same address, and a send needs no
/// look-up.
///
/// Each `Peer` has a map from types to values, which the handshake fills with what it learns
/// (identity, keys, version), and which codecs and hooks read:
///
/// ```no_run
/// # use anypea::Peer;
/// struct PublicKey([u8; 32]);
///
/// fn known(peer: &Peer) -> bool {
///     peer.get::<PublicKey>().is_some_and(|key| key.0[0] == 42)
/// }
/// ```
#[derive(Clone)]
pub struct Peer {
    pub(crate) conn: Arc<Conn>,
}

/// What the tasks of a connection and its handles share.
pub(crate) struct Conn {
    pub(crate) inner: Arc<Inner>,
    pub(crate) id: u64,
    pub(crate) addr: SocketAddr,
    pub(crate) local_addr: Option<SocketAddr>,
    pub(crate) side: Side,
    pub(crate) since: Instant,
    pub(crate) span: Span,
    pub(crate) ending: Ending,
    pub(crate) outbox: Outbox,
    /// The read half; only the reader task uses it, and the release drops it.
    pub(crate) reader: Mutex<Option<ReadHalf>>,
    /// Dropped at the release, so that a handle that is kept keeps no descriptor open.
    pub(crate) socket: Mutex<Option<Arc<dyn Socket>>>,
    pub(crate) messages_received: AtomicU64,
    pub(crate) bytes_received: AtomicU64,
    values: RwLock<Vec<(TypeId, Arc<dyn Any + Send + Sync>)>>,
}

impl Conn {
    pub(crate) fn new(
        inner: Arc<Inner>,
        addr: SocketAddr,
        side: Side,
        socket: Arc<dyn Socket>,
    ) -> Self {
        let id = inner.next_id();
        let span = tracing::debug_span!(parent: inner.span(), "connection", %addr, ?side);
        Self {
            id,
            addr,
            local_addr: socket.local_addr().ok().map(crate::admission::canonical),
            side,
            since: inner.runtime.now(),
            span,
            inner,
            ending: Ending::default(),
            outbox: Outbox::default(),
            reader: Mutex::new(None),
            socket: Mutex::new(Some(socket)),
            messages_received: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            values: RwLock::new(Vec::new()),
        }
    }

    pub(crate) fn bytes_received(&self) -> u64 {
        self.bytes_received.load(Relaxed)
    }

    /// Frees all that the connection holds, and tells those who wait for its end.
    pub(crate) fn release(&self) {
        if self.outbox.is_ready() {
            // There is a reason by now, unless the runtime has dropped the reader task.
            self.ending.note(DisconnectReason::RuntimeGone);
        }
        self.outbox.close();
        self.outbox.drop_half();
        let (reader, socket) = (self.reader.lock().take(), self.socket.lock().take());
        drop((reader, socket));
    }

    pub(crate) fn received(&self, messages: u64, bytes: u64) {
        // Only the reader task writes these, so that no atomic addition is needed.
        let add = |counter: &AtomicU64, more| counter.store(counter.load(Relaxed) + more, Relaxed);
        add(&self.messages_received, messages);
        add(&self.bytes_received, bytes);
    }
}

impl Peer {
    /// Returns the connection's number, unique for the node: a later connection with the same
    /// address has another one.
    pub fn id(&self) -> u64 {
        self.conn.id
    }

    /// Returns the address of the peer, in canonical form: an IPv4 address is one also where the
    /// socket calls it an IPv4-mapped IPv6 address.
    pub fn addr(&self) -> SocketAddr {
        self.conn.addr
    }

    /// Returns the address of our end; `None` if there is no socket under the connection.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.conn.local_addr
    }

    /// Returns which side of the connection the node is.
    pub fn side(&self) -> Side {
        self.conn.side
    }

    /// Returns the span in which the connection's tasks run.
    pub fn span(&self) -> &Span {
        &self.conn.span
    }

    /// Tells whether the connection stands: it has been registered, and nothing has happened that
    /// ends it.
    pub fn is_connected(&self) -> bool {
        self.conn.outbox.is_ready() && self.conn.ending.reason().is_none()
    }

    /// Returns why the connection ends or has ended; `None` while nothing has happened that ends
    /// it.
    pub fn disconnect_reason(&self) -> Option<DisconnectReason> {
        self.conn.ending.reason()
    }

    /// Waits until the connection has ended and its address is free again.
    ///
    /// As [`disconnect`](Self::disconnect), but without asking for the end.
    pub fn closed(&self) -> Disconnect {
        Disconnect::of(self.conn.clone())
    }

    /// Ends the connection gracefully, as [`Node::disconnect`](crate::Node::disconnect) does.
    pub fn disconnect(&self) -> Disconnect {
        self.conn.ending.begin(DisconnectReason::User, Manner::Graceful);
        self.closed().within_limits()
    }

    /// Resets the connection, as [`Node::disconnect_now`](crate::Node::disconnect_now) does.
    pub fn disconnect_now(&self) -> Disconnect {
        self.conn.ending.begin(DisconnectReason::UserNow, Manner::Abort);
        self.closed().within_limits()
    }

    /// Returns what has passed over the connection so far.
    pub fn stats(&self) -> PeerStats {
        let sent = &self.conn.outbox.counts;
        PeerStats {
            since: self.conn.since,
            messages_received: self.conn.messages_received.load(Relaxed),
            bytes_received: self.conn.bytes_received.load(Relaxed),
            messages_sent: sent.messages_written.load(Relaxed),
            bytes_sent: sent.bytes_written.load(Relaxed),
            queued_bytes: sent.queued.load(Relaxed),
            max_queued_bytes: sent.most_queued.load(Relaxed),
        }
    }

    /// Lends the socket under the connection, for options that are not covered here. `None` once
    /// the connection has ended.
    pub fn with_socket<T>(&self, borrow: impl FnOnce(&dyn Socket) -> T) -> Option<T> {
        self.conn.socket.lock().as_deref().map(borrow)
    }

    /// Keeps a value with the connection, in place of an earlier one of the same type.
    pub fn insert<T: Send + Sync + 'static>(&self, value: T) {
        let (key, value) = (TypeId::of::<T>(), Arc::new(value));
        let mut values = self.conn.values.write();
        let former = match values.iter_mut().find(|(k, _)| *k == key) {
            Some((_, former)) => Some(std::mem::replace(former, value)),
            None => {
                values.push((key, value));
                None
            }
        };
        drop(values);
        // Outside the lock: the value's destructor may come back here.
        drop(former);
    }

    /// Returns the value of type `T` that is kept with the connection.
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let values = self.conn.values.read();
        let (_, value) = values.iter().find(|(key, _)| *key == TypeId::of::<T>())?;
        value.clone().downcast().ok()
    }
}

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.conn, &other.conn)
    }
}

impl Eq for Peer {}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Conn { id, addr, side, .. } = &*self.conn;
        f.debug_struct("Peer").field("id", id).field("addr", addr).field("side", side).finish()
    }
}
