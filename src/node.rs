//! The node: what its tasks and handles share, and the calls that concern all of it.

use crate::{
    Config, ConfigError, ConnectError, DisconnectReason, EnableError, Heuristics, NodeStats, Peer,
    Side, Target, Task,
    admission::{Slot, Table, canonical, count_rejection},
    context,
    deadline::{Deadline, later, within},
    ending::Manner,
    event::Event,
    listener::Listening,
    peer::Conn,
    protocols::Protocols,
    setup,
    stats::Counters,
    tasks::{Abort, Tasks},
};
use anypea_runtime::{
    IntoRuntime, Runtime, Stream,
    futures_io::{AsyncRead, AsyncWrite},
};
use futures::{channel::oneshot, task::AtomicWaker};
use parking_lot::Mutex;
use std::{
    any::Any,
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tracing::Span;

/// A node of a peer-to-peer network: it listens, dials, and keeps connections.
///
/// It is a cheap, clonable handle. What the connections do is said by the protocols that a
/// user's type around the node implements and enables: see [`Pea2Pea`](crate::Pea2Pea).
///
/// A node lives until it is [shut down](Self::shut_down), not until its last handle is dropped:
/// its hooks hold the user's type, and that holds the node.
///
/// ```
/// # #[cfg(feature = "tokio")]
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use anypea::{Config, Node, Tokio};
///
/// let listening_addr = Some("127.0.0.1:0".parse()?);
/// let alice = Node::new(Tokio::current()?, Config { listening_addr, ..Config::default() })?;
/// let bob = Node::new(Tokio::current()?, Config::default())?;
///
/// let peer = bob.connect(alice.start_listening().await?).await?;
/// assert!(peer.is_connected());
///
/// bob.shut_down().await;
/// alice.shut_down().await;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "tokio"))]
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

/// How [`Node::connect_with`] connects.
#[derive(Clone, Copy, Debug)]
pub struct ConnectOptions {
    /// The address to connect from; chosen by the system if `None`.
    pub local: Option<SocketAddr>,
    /// Which side of the connection the node is. The initiator, unless both ends dial each other
    /// at once, as they do to get through network address translators: then they have to agree.
    pub side: Side,
    /// How long the connection may take to stand; as configured if `None`.
    pub timeout: Option<Duration>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { local: None, side: Side::Initiator, timeout: None }
    }
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) runtime: Arc<dyn Runtime>,
    name: String,
    pub(crate) span: Span,
    pub(crate) table: Mutex<Table>,
    protocols: Mutex<Arc<Protocols>>,
    pub(crate) tasks: Tasks,
    pub(crate) listening: Mutex<Listening>,
    pub(crate) counters: Counters,
    /// The acceptor, while it waits for a set-up to be over.
    pub(crate) budget: AtomicWaker,
    connections: AtomicU64,
    over: Event,
}

impl Node {
    /// Makes a node that runs on `runtime`.
    ///
    /// # Errors
    /// [`ConfigError`], if a setting makes no sense.
    pub fn new(runtime: impl IntoRuntime, config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        let runtime = runtime.into_runtime();
        let name = match &config.name {
            Some(name) => name.clone(),
            None => format!("{:08x}", runtime.random() as u32),
        };
        let inner = Inner {
            span: tracing::info_span!("node", name),
            table: Mutex::new(Table::new(NodeStats::new(runtime.now()))),
            config,
            runtime,
            name,
            protocols: Mutex::default(),
            tasks: Tasks::default(),
            listening: Mutex::default(),
            counters: Counters::default(),
            budget: AtomicWaker::new(),
            connections: AtomicU64::new(0),
            over: Event::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns the node's name: the configured one, or a random one.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Returns the configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Returns the span in which the node's tasks run.
    pub fn span(&self) -> &Span {
        &self.inner.span
    }

    /// Returns the runtime that the node runs on.
    pub fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.inner.runtime
    }

    /// Connects to an address.
    ///
    /// Cancel safe: dropping the future gives the attempt up, unless the connection stands
    /// already.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self, addr: SocketAddr) -> Result<Peer, ConnectError> {
        self.connect_with(addr, ConnectOptions::default()).await
    }

    /// Connects to an address, from a given address, as a given side, or with a time limit of its
    /// own.
    ///
    /// Cancel safe, as [`connect`](Self::connect).
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect_with(
        &self,
        addr: SocketAddr,
        options: ConnectOptions,
    ) -> Result<Peer, ConnectError> {
        let inner = &self.inner;
        let addr = canonical(addr);
        if self.listening_addr().is_some_and(|own| leads_to(addr, own)) {
            return Err(ConnectError::OwnAddress(addr));
        }
        inner.ask_admission(addr, options.side)?;
        let slot = Slot::reserve(inner, addr, false)?;
        let mut socket = anypea_runtime::ConnectOptions::default();
        socket.local = options.local;
        socket.reuse_port = inner.config.reuse_port;
        socket.socket = inner.config.socket.clone();
        let time = options.timeout.unwrap_or(inner.config.connect_timeout);
        let set_up = setup::dial(slot, options.side, socket, time);
        inner.await_setup(addr, time, set_up).await
    }

    /// Takes a stream as a connection: a Unix socket, a pipe in memory, a tunnel, anything that
    /// reads and writes. It goes through the handshake like any other. `addr` is the name under
    /// which it is known, and by which it counts towards the limits.
    ///
    /// Cancel safe, as [`connect`](Self::connect).
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn adopt(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        addr: SocketAddr,
        side: Side,
    ) -> Result<Peer, ConnectError> {
        let inner = &self.inner;
        let addr = canonical(addr);
        let inbound = side == Side::Responder;
        // A stream of the runtime's keeps its native halves and its socket.
        let mut stream = Some(stream);
        let stream = match (&mut stream as &mut dyn Any).downcast_mut::<Option<Stream>>() {
            Some(stream) => stream.take(),
            None => stream.take().map(Stream::new),
        };
        let Some(stream) = stream else { unreachable!("it was put there just now") };
        inner.ask_admission(addr, side).inspect_err(|error| {
            count_rejection(&inner.counters, error, inbound);
        })?;
        let slot = Slot::reserve(inner, addr, inbound)?;
        inner.await_setup(addr, Duration::ZERO, setup::set_up(slot, side, stream)).await
    }

    /// Ends a connection gracefully: what is queued is written and a FIN is sent, while what
    /// still comes in is discarded. A hook of the connection's that is running is dropped at its
    /// await.
    ///
    /// It acts at once. The returned future only waits, and need not be awaited.
    pub fn disconnect<'a>(&self, peer: impl Into<Target<'a>>) -> Disconnect {
        match self.inner.resolve(peer.into()) {
            Some(peer) => peer.disconnect(),
            None => Disconnect { conn: None, key: None, patience: Patience::endless() },
        }
    }

    /// Resets a connection: what is queued on either side is thrown away.
    ///
    /// It acts at once. The returned future only waits, and need not be awaited.
    pub fn disconnect_now<'a>(&self, peer: impl Into<Target<'a>>) -> Disconnect {
        match self.inner.resolve(peer.into()) {
            Some(peer) => peer.disconnect_now(),
            None => Disconnect { conn: None, key: None, patience: Patience::endless() },
        }
    }

    /// Shuts the node down: it stops to listen, gives up what is being set up, ends every
    /// connection gracefully, and lets go of the hooks and with them of the user's type. After
    /// that nothing of the node is left but its handles.
    ///
    /// It acts at once, and can be called again. The returned future only waits, and need not be
    /// awaited.
    pub fn shut_down(&self) -> ShutDown {
        let inner = &self.inner;
        let patience = Patience::for_an_end(inner);
        let live = inner.table.lock().close();
        for peer in live {
            peer.conn.ending.begin(DisconnectReason::Shutdown, Manner::Graceful);
        }
        if inner.tasks.close() {
            inner.end();
        }
        ShutDown { inner: inner.clone(), key: None, patience }
    }

    /// Returns the connection with an address, if there is one.
    pub fn peer(&self, addr: SocketAddr) -> Option<Peer> {
        self.inner.table.lock().peer(canonical(addr)).cloned()
    }

    /// Returns all connections, from registration to release.
    pub fn peers(&self) -> Vec<Peer> {
        self.inner.table.lock().peers()
    }

    /// Tells whether there is a connection with an address. A connection that is ending still is
    /// one.
    pub fn is_connected(&self, addr: SocketAddr) -> bool {
        self.inner.table.lock().peer(canonical(addr)).is_some()
    }

    /// Returns the number of connections, those that are ending included.
    pub fn num_connected(&self) -> usize {
        self.inner.table.lock().num_live()
    }

    /// Returns the number of connections that are being set up.
    pub fn num_connecting(&self) -> usize {
        self.inner.table.lock().num_setups()
    }

    /// Returns what has passed over all connections so far, former ones included.
    pub fn stats(&self) -> NodeStats {
        self.inner.table.lock().stats()
    }

    /// Returns how often something happened that no hook can see.
    pub fn heuristics(&self) -> Heuristics {
        self.inner.counters.read()
    }

    /// Runs a task on the node's runtime. It is dropped at its await when the node shuts down,
    /// and not run at all after that.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        Task::spawn(&self.inner, task)
    }

    /// Waits for a time, on the node's runtime.
    pub async fn sleep(&self, time: Duration) {
        let runtime = &self.inner.runtime;
        runtime.timer(later(runtime.now(), time)).await
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.inner.name)
            .field("listening_addr", &self.listening_addr())
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    pub(crate) fn protocols(&self) -> Arc<Protocols> {
        self.protocols.lock().clone()
    }

    /// Returns a number for the next connection; the first is 1.
    pub(crate) fn next_id(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed) + 1
    }

    /// Enables a protocol with `install`, which says whether it was free.
    pub(crate) fn enable(
        &self,
        name: &'static str,
        install: impl FnOnce(&mut Protocols) -> bool,
    ) -> Result<(), EnableError> {
        // Both locks, so that no connection comes up in between and lacks the protocol.
        let table = self.table.lock();
        if table.is_closed() {
            return Err(EnableError::ShuttingDown(name));
        }
        let mut protocols = self.protocols.lock();
        let mut changed = Protocols::clone(&protocols);
        if !install(&mut changed) {
            return Err(EnableError::AlreadyEnabled(name));
        }
        if !table.is_empty() {
            return Err(EnableError::ConnectionsExist(name));
        }
        *protocols = Arc::new(changed);
        Ok(())
    }

    /// Asks the user whether to have to do with an address at all.
    pub(crate) fn ask_admission(&self, addr: SocketAddr, side: Side) -> Result<(), ConnectError> {
        let Some(admit) = self.protocols().admit.clone() else { return Ok(()) };
        match catch_unwind(AssertUnwindSafe(|| admit(addr, side))) {
            Ok(true) => Ok(()),
            Ok(false) => Err(ConnectError::NotAdmitted(addr)),
            Err(panic) => {
                self.panicked(crate::Hook::Handshake, panic);
                Err(ConnectError::Panicked(addr))
            }
        }
    }

    /// Returns the connection that a target means, if it is one of this node's.
    #[inline]
    pub(crate) fn resolve<'a>(self: &Arc<Self>, target: Target<'a>) -> Option<Cow<'a, Peer>> {
        match target {
            Target::Addr(addr) => self.table.lock().peer(canonical(addr)).cloned().map(Cow::Owned),
            Target::Peer(peer) => {
                Arc::ptr_eq(&peer.conn.inner, self).then_some(Cow::Borrowed(peer))
            }
        }
    }

    /// Runs a set-up in a task of its own, so that it goes on while nobody polls for it, and gives
    /// it up when the caller does.
    async fn await_setup(
        self: &Arc<Self>,
        addr: SocketAddr,
        time: Duration,
        set_up: impl Future<Output = Result<Peer, ConnectError>> + Send + 'static,
    ) -> Result<Peer, ConnectError> {
        /// Aborts the task when dropped.
        struct GiveUp(Abort);

        impl Drop for GiveUp {
            fn drop(&mut self) {
                self.0.abort();
            }
        }

        let (sender, outcome) = oneshot::channel();
        let task = async move {
            // Nobody listens any more if the caller has just given up.
            let _ = sender.send(set_up.await);
        };
        let Some(task) = self.spawn_abortable(task) else {
            return Err(ConnectError::ShuttingDown(addr));
        };
        let _give_up = GiveUp(task);
        // The task keeps its own time limits. This one is for a runtime that never runs it.
        let handshake = self.protocols().handshake.as_ref().map_or(Duration::ZERO, |h| h.limit);
        let whole = time.saturating_add(handshake).saturating_add(MARGIN);
        match within(&*self.runtime, whole, outcome).await {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) if self.table.lock().is_closed() => Err(ConnectError::ShuttingDown(addr)),
            Some(Err(_)) => Err(ConnectError::RuntimeGone(addr)),
            None => Err(ConnectError::TimedOut { addr, after: whole }),
        }
    }

    /// The last thing that happens to a node that shuts down: no task is left.
    pub(crate) fn end(&self) {
        let hooks = std::mem::take(&mut *self.protocols.lock());
        drop(hooks);
        self.over.fire();
    }
}

/// Whether dialing `addr` leads to a listener of ours on `own`.
fn leads_to(addr: SocketAddr, own: SocketAddr) -> bool {
    // Dialing the unspecified address leads to the local host (on Linux, and where it works).
    let local = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    let any = own.ip().is_unspecified() || addr.ip().is_unspecified();
    addr.port() == own.port()
        && (addr.ip() == own.ip() || any && local(addr.ip()) && local(own.ip()))
}

/// Waits for the end of a connection. Dropping it changes nothing.
pub struct Disconnect {
    conn: Option<Peer>,
    key: Option<u64>,
    patience: Patience,
}

/// For how long a future waits for what the runtime's tasks have to do: not for ever, if the
/// runtime has stopped to run them.
struct Patience {
    limit: Option<Duration>,
    deadline: Deadline,
}

impl Patience {
    /// Enough for the end of a connection, whatever the peer and the hooks do.
    fn for_an_end(inner: &Inner) -> Self {
        let hook = inner.protocols().on_disconnect.as_ref().map_or(Duration::ZERO, |h| h.limit);
        let limit = inner.config.close_timeout.saturating_add(hook);
        Self { limit: Some(limit.saturating_add(MARGIN)), deadline: Deadline::default() }
    }

    fn endless() -> Self {
        Self { limit: None, deadline: Deadline::default() }
    }

    /// Ready when it has come to its end.
    fn poll(&mut self, inner: &Inner, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else { return Poll::Pending };
        if !self.deadline.is_set() {
            self.deadline.set(&*inner.runtime, limit);
        }
        self.deadline.poll(&*inner.runtime, cx)
    }
}

/// What the waiting futures grant beyond the time limits of what they wait for.
const MARGIN: Duration = Duration::from_secs(1);

/// What [`Disconnect`] has to say.
#[derive(Clone, Debug)]
pub enum Disconnected {
    /// There was no such connection.
    NotConnected,
    /// The connection is ending, and waits for the very hook that asks: it would wait for itself.
    /// Or its end takes longer than all time limits allow: its runtime has stopped to run it.
    InProgress,
    /// The connection has ended, and its address is free again.
    Ended(DisconnectReason),
}

impl Disconnect {
    pub(crate) fn of(conn: Arc<Conn>) -> Self {
        Self { conn: Some(Peer { conn }), key: None, patience: Patience::endless() }
    }

    pub(crate) fn within_limits(mut self) -> Self {
        if let Some(peer) = &self.conn {
            self.patience = Patience::for_an_end(&peer.conn.inner);
        }
        self
    }
}

impl Future for Disconnect {
    type Output = Disconnected;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Disconnected> {
        let Self { conn, key, patience } = &mut *self;
        let Some(Peer { conn }) = conn else { return Poll::Ready(Disconnected::NotConnected) };
        if !conn.ending.over.has_fired() && context::in_connection(&conn.inner, conn.id) {
            return Poll::Ready(Disconnected::InProgress);
        }
        match (conn.ending.over.poll(cx, key), conn.ending.reason()) {
            (Poll::Ready(()), Some(reason)) => Poll::Ready(Disconnected::Ended(reason)),
            (Poll::Ready(()), None) => Poll::Ready(Disconnected::NotConnected),
            _ => patience.poll(&conn.inner, cx).map(|()| Disconnected::InProgress),
        }
    }
}

impl Drop for Disconnect {
    fn drop(&mut self) {
        if let Some(peer) = &self.conn {
            peer.conn.ending.over.forget(self.key);
        }
    }
}

/// Waits for the end of a node. Dropping it changes nothing.
pub struct ShutDown {
    inner: Arc<Inner>,
    key: Option<u64>,
    patience: Patience,
}

/// What [`ShutDown`] has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutDownState {
    /// The node is shutting down, and waits for the very task that asks: it would wait for itself.
    /// Or that takes longer than all time limits allow: its runtime has stopped to run it.
    InProgress,
    /// Nothing of the node is left.
    Ended,
}

impl Future for ShutDown {
    type Output = ShutDownState;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ShutDownState> {
        let Self { inner, key, patience } = &mut *self;
        if !inner.over.has_fired() && context::in_node(inner) {
            return Poll::Ready(ShutDownState::InProgress);
        }
        match inner.over.poll(cx, key) {
            Poll::Ready(()) => Poll::Ready(ShutDownState::Ended),
            Poll::Pending => patience.poll(inner, cx).map(|()| ShutDownState::InProgress),
        }
    }
}

impl Drop for ShutDown {
    fn drop(&mut self) {
        self.inner.over.forget(self.key);
    }
}
