//! A node for tests: all protocols, hooks that a test plugs in, and a record of what they saw.

use super::TestRuntime;
use anypea::{
    Config, Connection, DisconnectReason, Handshake, Node, OnConnect, OnDisconnect, Pea2Pea, Peer,
    Reading, Side, Writing,
    asynchronous_codec::{Decoder, Encoder},
    bytes::{Bytes, BytesMut},
    codec::LengthDelimited,
    runtime::BoxFuture,
};
use std::{
    io,
    net::SocketAddr,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

/// A node and what its hooks do and have seen.
#[derive(Clone)]
pub struct TestNode {
    node: Node,
    state: Arc<State>,
}

pub struct State {
    hooks: Hooks,
    knobs: Knobs,
    seen: Mutex<Vec<Seen>>,
}

/// What a hook has seen, on the connection of this number.
#[derive(Clone, Debug)]
pub enum Seen {
    /// `on_connect` was called.
    Connected(u64),
    /// `process_message` ended, without an error.
    Message(u64, Bytes),
    /// `on_disconnect` was called.
    Disconnected(u64, DisconnectReason),
    /// The test itself wrote this down.
    Note(&'static str),
}

/// What the protocols ask for.
#[derive(Clone, Debug)]
pub struct Knobs {
    pub max_frame_bytes: usize,
    pub max_buffered_bytes: usize,
    pub idle_timeout: Option<Duration>,
    pub process_timeout: Option<Duration>,
    pub queue_bytes: usize,
    pub write_timeout: Duration,
    pub encode_error_is_fatal: bool,
    pub handshake_timeout: Duration,
    pub on_connect_timeout: Duration,
    pub on_disconnect_timeout: Duration,
}

type Encode = Box<dyn FnMut(Bytes, &mut BytesMut) -> io::Result<()> + Send>;
type Decode = Box<dyn FnMut(&mut BytesMut) -> io::Result<Option<Bytes>> + Send>;
type Hook<Input, Output> = Option<Box<dyn Fn(TestNode, Input) -> Output + Send + Sync>>;

/// What the hooks do beside recording; nothing by default.
#[derive(Default)]
pub struct Hooks {
    admit: Hook<(SocketAddr, Side), bool>,
    handshake: Hook<Connection, BoxFuture<'static, io::Result<Connection>>>,
    on_connect: Hook<Peer, BoxFuture<'static, ()>>,
    on_message: Hook<(Peer, Bytes), BoxFuture<'static, io::Result<()>>>,
    on_disconnect: Hook<(Peer, DisconnectReason), BoxFuture<'static, ()>>,
    encoder: Hook<Peer, Encode>,
    decoder: Hook<Peer, Decode>,
}

/// A test node in the making.
pub struct Setup {
    rt: TestRuntime,
    config: Config,
    knobs: Knobs,
    hooks: Hooks,
    listens: bool,
    reads: bool,
    writes: bool,
}

impl Setup {
    pub(super) fn new(rt: &TestRuntime) -> Self {
        let knobs = Knobs {
            max_frame_bytes: 16 * 1024 * 1024,
            max_buffered_bytes: 32 * 1024 * 1024,
            idle_timeout: None,
            process_timeout: None,
            queue_bytes: 64 * 1024 * 1024,
            write_timeout: Duration::from_secs(60),
            encode_error_is_fatal: false,
            handshake_timeout: Duration::from_secs(60),
            on_connect_timeout: Duration::from_secs(60),
            on_disconnect_timeout: Duration::from_secs(60),
        };
        // Time limits must not depend on how fast a machine is, so they are out of the way
        // unless a test wants one.
        let config = Config {
            listening_addr: Some(rt.localhost()),
            connect_timeout: Duration::from_secs(60),
            close_timeout: Duration::from_secs(120),
            linger_quiet: Duration::from_secs(60),
            ..Config::default()
        };
        let hooks = Hooks::default();
        Self { rt: rt.clone(), config, knobs, hooks, listens: true, reads: true, writes: true }
    }

    /// Changes the configuration.
    pub fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Changes what the protocols ask for.
    pub fn knobs(mut self, change: impl FnOnce(&mut Knobs)) -> Self {
        change(&mut self.knobs);
        self
    }

    /// Doesn't start to listen.
    pub fn not_listening(mut self) -> Self {
        self.listens = false;
        self
    }

    /// Doesn't enable Reading.
    pub fn without_reading(mut self) -> Self {
        self.reads = false;
        self
    }

    /// Doesn't enable Writing.
    pub fn without_writing(mut self) -> Self {
        self.writes = false;
        self
    }

    /// Enables Handshake, with this as `admit`.
    pub fn admit(
        mut self,
        admit: impl Fn(TestNode, SocketAddr, Side) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.hooks.admit = Some(Box::new(move |node, (addr, side)| admit(node, addr, side)));
        self
    }

    /// Enables Handshake, with this as `perform_handshake`.
    pub fn handshake<F>(
        mut self,
        hook: impl Fn(TestNode, Connection) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = io::Result<Connection>> + Send + 'static,
    {
        self.hooks.handshake = Some(Box::new(move |node, conn| Box::pin(hook(node, conn))));
        self
    }

    /// Called at the end of `on_connect`.
    pub fn on_connect<F>(
        mut self,
        hook: impl Fn(TestNode, Peer) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.hooks.on_connect = Some(Box::new(move |node, peer| Box::pin(hook(node, peer))));
        self
    }

    /// Called by `process_message`, before the message is recorded.
    pub fn on_message<F>(
        mut self,
        hook: impl Fn(TestNode, Peer, Bytes) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        self.hooks.on_message =
            Some(Box::new(move |node, (peer, message)| Box::pin(hook(node, peer, message))));
        self
    }

    /// Called at the end of `on_disconnect`.
    pub fn on_disconnect<F>(
        mut self,
        hook: impl Fn(TestNode, Peer, DisconnectReason) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.hooks.on_disconnect =
            Some(Box::new(move |node, (peer, reason)| Box::pin(hook(node, peer, reason))));
        self
    }

    /// Replaces the encoder: called once for each connection, it returns what encodes.
    pub fn encoder<E>(mut self, make: impl Fn(TestNode, Peer) -> E + Send + Sync + 'static) -> Self
    where
        E: FnMut(Bytes, &mut BytesMut) -> io::Result<()> + Send + 'static,
    {
        self.hooks.encoder = Some(Box::new(move |node, peer| Box::new(make(node, peer))));
        self
    }

    /// Replaces the decoder: called once for each connection, it returns what decodes.
    pub fn decoder<D>(mut self, make: impl Fn(TestNode, Peer) -> D + Send + Sync + 'static) -> Self
    where
        D: FnMut(&mut BytesMut) -> io::Result<Option<Bytes>> + Send + 'static,
    {
        self.hooks.decoder = Some(Box::new(move |node, peer| Box::new(make(node, peer))));
        self
    }

    /// Makes the node, enables its protocols, and starts to listen.
    pub async fn start(self) -> TestNode {
        let shakes_hands = self.hooks.admit.is_some() || self.hooks.handshake.is_some();
        let state = State { hooks: self.hooks, knobs: self.knobs, seen: Mutex::default() };
        let node = TestNode { node: self.rt.node(self.config), state: Arc::new(state) };
        node.enable_on_connect().expect("enable OnConnect");
        node.enable_on_disconnect().expect("enable OnDisconnect");
        if shakes_hands {
            node.enable_handshake().expect("enable Handshake");
        }
        if self.reads {
            node.enable_reading().expect("enable Reading");
        }
        if self.writes {
            node.enable_writing().expect("enable Writing");
        }
        if self.listens {
            node.start_listening().await.expect("listen");
        }
        node
    }
}

impl TestNode {
    /// Returns the address that the node listens on.
    pub fn addr(&self) -> SocketAddr {
        self.listening_addr().expect("the node listens")
    }

    /// Returns all that was recorded, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.record().clone()
    }

    /// Writes something down among what the hooks have seen.
    pub fn note(&self, note: &'static str) {
        self.record().push(Seen::Note(note));
    }

    /// Tells whether the test has written this down.
    pub fn has_noted(&self, note: &str) -> bool {
        self.record().iter().any(|seen| matches!(seen, Seen::Note(n) if *n == note))
    }

    /// Returns the messages that were processed, of all connections, in order.
    pub fn messages(&self) -> Vec<Bytes> {
        let record = self.record();
        let messages = record.iter().filter_map(|seen| match seen {
            Seen::Message(_, message) => Some(message.clone()),
            _ => None,
        });
        messages.collect()
    }

    /// Returns how many messages were processed.
    pub fn num_messages(&self) -> usize {
        self.record().iter().filter(|seen| matches!(seen, Seen::Message(..))).count()
    }

    /// Returns how often `on_connect` was called.
    pub fn num_connects(&self) -> usize {
        self.record().iter().filter(|seen| matches!(seen, Seen::Connected(_))).count()
    }

    /// Returns the reasons with which `on_disconnect` was called, in order.
    pub fn reasons(&self) -> Vec<DisconnectReason> {
        let record = self.record();
        let reasons = record.iter().filter_map(|seen| match seen {
            Seen::Disconnected(_, reason) => Some(reason.clone()),
            _ => None,
        });
        reasons.collect()
    }

    /// Returns the only connection, once there is one.
    pub async fn only_peer(&self, rt: &TestRuntime) -> Peer {
        rt.until("there is a connection", || self.num_connected() > 0).await;
        let mut peers = self.peers();
        assert_eq!(peers.len(), 1, "there is more than one connection");
        peers.remove(0)
    }

    /// Returns what tells whether the node's type is still held by something.
    pub fn downgrade(&self) -> Weak<State> {
        Arc::downgrade(&self.state)
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        self.state.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has `dialer` connect with `dialed`, and returns the handles of both, once both have one.
pub async fn meet(rt: &TestRuntime, dialer: &TestNode, dialed: &TestNode) -> (Peer, Peer) {
    let there = dialer.connect(dialed.addr()).await.expect("connect");
    let from = there.local_addr().expect("a local address");
    rt.until("the dialed node has the connection", || dialed.is_connected(from)).await;
    let back = dialed.peer(from).expect("it was there just now");
    (there, back)
}

/// Returns a frame with this payload, as [`LengthDelimited`] writes it.
pub fn frame(payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).expect("a small payload");
    [&length.to_be_bytes(), payload].concat()
}

impl Deref for TestNode {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Pea2Pea for TestNode {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Handshake for TestNode {
    async fn perform_handshake(&self, conn: Connection) -> io::Result<Connection> {
        match &self.state.hooks.handshake {
            Some(hook) => hook(self.clone(), conn).await,
            None => Ok(conn),
        }
    }

    fn admit(&self, addr: SocketAddr, side: Side) -> bool {
        self.state.hooks.admit.as_ref().is_none_or(|admit| admit(self.clone(), (addr, side)))
    }

    fn handshake_timeout(&self) -> Duration {
        self.state.knobs.handshake_timeout
    }
}

impl OnConnect for TestNode {
    async fn on_connect(&self, peer: &Peer) {
        self.record().push(Seen::Connected(peer.id()));
        if let Some(hook) = &self.state.hooks.on_connect {
            hook(self.clone(), peer.clone()).await;
        }
    }

    fn on_connect_timeout(&self) -> Duration {
        self.state.knobs.on_connect_timeout
    }
}

impl Reading for TestNode {
    type Codec = TestCodec;

    fn codec(&self, peer: &Peer) -> TestCodec {
        TestCodec::of(self, peer)
    }

    async fn process_message(&self, peer: &Peer, message: Bytes) -> io::Result<()> {
        if let Some(hook) = &self.state.hooks.on_message {
            hook(self.clone(), (peer.clone(), message.clone())).await?;
        }
        self.record().push(Seen::Message(peer.id(), message));
        Ok(())
    }

    fn idle_timeout(&self) -> Option<Duration> {
        self.state.knobs.idle_timeout
    }

    fn process_timeout(&self) -> Option<Duration> {
        self.state.knobs.process_timeout
    }

    fn max_buffered_bytes(&self) -> usize {
        self.state.knobs.max_buffered_bytes
    }
}

impl Writing for TestNode {
    type Message = Bytes;
    type Codec = TestCodec;

    fn codec(&self, peer: &Peer) -> TestCodec {
        TestCodec::of(self, peer)
    }

    fn queue_bytes(&self) -> usize {
        self.state.knobs.queue_bytes
    }

    fn write_timeout(&self) -> Duration {
        self.state.knobs.write_timeout
    }

    fn encode_error_is_fatal(&self) -> bool {
        self.state.knobs.encode_error_is_fatal
    }
}

impl OnDisconnect for TestNode {
    async fn on_disconnect(&self, peer: &Peer, reason: DisconnectReason) {
        self.record().push(Seen::Disconnected(peer.id(), reason.clone()));
        if let Some(hook) = &self.state.hooks.on_disconnect {
            hook(self.clone(), (peer.clone(), reason)).await;
        }
    }

    fn on_disconnect_timeout(&self) -> Duration {
        self.state.knobs.on_disconnect_timeout
    }
}

/// [`LengthDelimited`], unless the test has replaced one of its sides.
pub struct TestCodec {
    frames: LengthDelimited,
    encode: Option<Encode>,
    decode: Option<Decode>,
}

impl TestCodec {
    fn of(node: &TestNode, peer: &Peer) -> Self {
        let State { hooks, knobs, .. } = &*node.state;
        Self {
            frames: LengthDelimited::new(knobs.max_frame_bytes),
            encode: hooks.encoder.as_ref().map(|make| make(node.clone(), peer.clone())),
            decode: hooks.decoder.as_ref().map(|make| make(node.clone(), peer.clone())),
        }
    }
}

impl Encoder for TestCodec {
    type Item<'a> = Bytes;
    type Error = io::Error;

    fn encode(&mut self, message: Bytes, dst: &mut BytesMut) -> io::Result<()> {
        match &mut self.encode {
            Some(encode) => encode(message, dst),
            None => self.frames.encode(message, dst),
        }
    }
}

impl Decoder for TestCodec {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        match &mut self.decode {
            Some(decode) => decode(src),
            None => self.frames.decode(src),
        }
    }

    // The default turns leftover bytes into an error; here they are what the node makes of them.
    fn decode_eof(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        self.decode(src)
    }
}
