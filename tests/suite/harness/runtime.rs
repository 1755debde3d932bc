//! A runtime that counts what is made through it, and what tests need of a runtime.

use super::{Setup, TestNode, message};
use anypea::{
    Config, Node,
    futures_io::{AsyncRead, AsyncWrite, IoSlice, IoSliceMut},
    runtime::{
        BoxFuture, Clock, ConnectOptions, ListenOptions, Listener, Network, ReadHalf, Runtime,
        Socket, Spawner, Stream, Timer, WriteHalf, socket2::SockRef,
    },
};
use futures::{
    FutureExt,
    channel::oneshot,
    future::{Either, join_all, select},
};
use std::{
    any::Any,
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    panic::{AssertUnwindSafe, resume_unwind},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant, SystemTime},
};

/// How long a condition may take to come true. It bounds a failure and is no measure of anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// The runtime of a test: the one under it, counted, and helpers.
#[derive(Clone)]
pub struct TestRuntime {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Arc<dyn Runtime>,
    live: Arc<Counters>,
    nodes: Mutex<Vec<Node>>,
    expected_panics: AtomicU64,
    /// What has failed in a task that nobody awaits.
    failures: Mutex<Vec<String>>,
}

/// What is alive of that which nodes made. What the helpers of [`TestRuntime`] make is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    pub tasks: usize,
    pub timers: usize,
    /// Streams of which a half, or a handle to the socket, is alive.
    pub streams: usize,
    pub listeners: usize,
}

impl Live {
    pub const NOTHING: Self = Self { tasks: 0, timers: 0, streams: 0, listeners: 0 };
}

#[derive(Default)]
struct Counters {
    tasks: AtomicUsize,
    timers: AtomicUsize,
    streams: AtomicUsize,
    listeners: AtomicUsize,
    /// Tasks of [`TestRuntime::spawn`].
    jobs: AtomicUsize,
}

/// One thing that is counted, until dropped.
struct Count {
    counters: Arc<Counters>,
    which: fn(&Counters) -> &AtomicUsize,
}

impl Count {
    fn new(counters: &Arc<Counters>, which: fn(&Counters) -> &AtomicUsize) -> Self {
        which(counters).fetch_add(1, SeqCst);
        Self { counters: Arc::clone(counters), which }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        (self.which)(&self.counters).fetch_sub(1, SeqCst);
    }
}

impl TestRuntime {
    pub(super) fn new(runtime: Arc<dyn Runtime>) -> Self {
        let inner = Inner {
            runtime,
            live: Arc::default(),
            nodes: Mutex::default(),
            expected_panics: AtomicU64::new(0),
            failures: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Makes a node that is shut down after the test. It does not listen before it is told to.
    pub fn node(&self, config: Config) -> Node {
        let node = Node::new(self.clone(), config).expect("a configuration that makes sense");
        lock(&self.inner.nodes).push(node.clone());
        node
    }

    /// Starts to describe a test node.
    pub fn setup(&self) -> Setup {
        Setup::new(self)
    }

    /// Starts a test node that listens, with all protocols but Handshake.
    pub async fn start(&self) -> TestNode {
        self.setup().start().await
    }

    /// Says that hooks panic as often as this in the course of the test, all nodes together.
    pub fn expect_hook_panics(&self, count: u64) {
        self.inner.expected_panics.store(count, SeqCst);
    }

    /// Returns the local address, with port 0.
    pub fn localhost(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), 0)
    }

    /// Returns the local IP address.
    pub fn ip(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    /// Listens on a free port, as a peer that is no node.
    pub async fn listen_raw(&self) -> RawListener {
        self.listen_raw_with(self.localhost(), &ListenOptions::default()).await
    }

    /// Listens, as a peer that is no node.
    pub async fn listen_raw_with(&self, addr: SocketAddr, options: &ListenOptions) -> RawListener {
        let listener = self.inner.runtime.listen(addr, options).await.expect("listen");
        let addr = listener.local_addr().expect("a local address");
        RawListener { listener, addr }
    }

    /// Connects, as a peer that is no node. Its stream is read and written with `AsyncReadExt`
    /// and `AsyncWriteExt` of `futures`; a graceful end is `close`.
    pub async fn dial_raw(&self, addr: SocketAddr) -> Stream {
        self.try_dial_raw(addr, &ConnectOptions::default()).await.expect("connect")
    }

    /// Connects from `local`, as a peer that is no node.
    pub async fn dial_raw_from(&self, local: SocketAddr, addr: SocketAddr) -> Stream {
        let mut options = ConnectOptions::default();
        options.local = Some(local);
        self.try_dial_raw(addr, &options).await.expect("connect")
    }

    /// Tries to connect, as a peer that is no node.
    pub async fn try_dial_raw(
        &self,
        addr: SocketAddr,
        options: &ConnectOptions,
    ) -> io::Result<Stream> {
        self.inner.runtime.connect(addr, options).await
    }

    /// Runs a task. A panic of it reaches who awaits the job, or else fails the test. It must
    /// have ended when the test ends.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Job<T> {
        let (sender, outcome) = oneshot::channel();
        let rt = self.clone();
        let count = Count::new(&self.inner.live, |live| &live.jobs);
        self.inner.runtime.spawn(Box::pin(async move {
            let outcome = AssertUnwindSafe(task).catch_unwind().await;
            if let Err(Err(panic)) = sender.send(outcome) {
                lock(&rt.inner.failures).push(message(&*panic));
            }
            drop(rt);
            drop(count);
        }));
        Job(outcome)
    }

    /// Waits for a time.
    pub async fn sleep(&self, time: Duration) {
        let runtime = &self.inner.runtime;
        runtime.timer(runtime.now() + time).await
    }

    /// Waits for `future`, for a time at most; `None` if it was not ready by then.
    pub async fn timeout<T>(&self, time: Duration, future: impl Future<Output = T>) -> Option<T> {
        match select(pin!(future), pin!(self.sleep(time))).await {
            Either::Left((output, _)) => Some(output),
            Either::Right(_) => None,
        }
    }

    /// Waits until a condition is true.
    ///
    /// # Panics
    /// If it is not within a minute, with `what`.
    pub async fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let start = self.inner.runtime.now();
        let mut pause = Duration::from_micros(200);
        while !condition() {
            let waited = self.inner.runtime.now().saturating_duration_since(start);
            assert!(waited < PATIENCE, "waited in vain: {what}; alive: {:?}", self.live());
            self.sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    /// Waits for `future`.
    ///
    /// # Panics
    /// If it is not ready within a minute, with `what`.
    pub async fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        match self.timeout(PATIENCE, future).await {
            Some(output) => output,
            None => panic!("waited in vain: {what}; alive: {:?}", self.live()),
        }
    }

    /// Returns what is alive of that which nodes made.
    pub fn live(&self) -> Live {
        let Counters { tasks, timers, streams, listeners, .. } = &*self.inner.live;
        Live {
            tasks: tasks.load(SeqCst),
            timers: timers.load(SeqCst),
            streams: streams.load(SeqCst),
            listeners: listeners.load(SeqCst),
        }
    }

    /// Waits until nothing is left of what nodes made.
    pub async fn until_nothing_is_left(&self) {
        self.until("nothing of the nodes is left", || self.live() == Live::NOTHING).await;
    }

    /// What is done and checked after each test.
    pub(super) async fn finish(&self) {
        let nodes = std::mem::take(&mut *lock(&self.inner.nodes));
        let ends = join_all(nodes.iter().map(Node::shut_down));
        self.within("all nodes have shut down", ends).await;
        self.until_nothing_is_left().await;
        let jobs = &self.inner.live.jobs;
        self.until("all jobs of the test have ended", || jobs.load(SeqCst) == 0).await;
        let panics: u64 = nodes.iter().map(|node| node.heuristics().hook_panics).sum();
        let expected = self.inner.expected_panics.load(SeqCst);
        assert_eq!(panics, expected, "panics of hooks, and how many the test expects");
        let failures = lock(&self.inner.failures);
        assert!(failures.is_empty(), "tasks have failed: {failures:?}");
    }

    fn count(&self, which: fn(&Counters) -> &AtomicUsize) -> Count {
        Count::new(&self.inner.live, which)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A task of [`TestRuntime::spawn`]. Dropping it detaches the task.
pub struct Job<T>(oneshot::Receiver<Result<T, Box<dyn Any + Send>>>);

impl<T> Future for Job<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match ready!(self.0.poll_unpin(cx)).expect("the runtime has dropped a job") {
            Ok(output) => Poll::Ready(output),
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// A listener that is no node.
pub struct RawListener {
    listener: Box<dyn Listener>,
    pub addr: SocketAddr,
}

impl RawListener {
    /// Accepts a connection.
    pub async fn accept(&mut self) -> Stream {
        poll_fn(|cx| self.listener.poll_accept(cx)).await.expect("accept").0
    }
}

impl Spawner for TestRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        let count = self.count(|live| &live.tasks);
        let both = (task, count);
        self.inner.runtime.spawn(Box::pin(async move {
            let (task, count) = both;
            task.await;
            drop(count);
        }));
    }
}

impl Clock for TestRuntime {
    fn now(&self) -> Instant {
        self.inner.runtime.now()
    }

    fn wall(&self) -> SystemTime {
        self.inner.runtime.wall()
    }

    fn timer(&self, at: Instant) -> Pin<Box<dyn Timer>> {
        let timer = self.inner.runtime.timer(at);
        Box::pin(Counted { it: timer, _count: self.count(|live| &live.timers) })
    }
}

impl Network for TestRuntime {
    fn listen(
        &self,
        addr: SocketAddr,
        options: &ListenOptions,
    ) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        let listening = self.inner.runtime.listen(addr, options);
        Box::pin(async move {
            let listener = listening.await?;
            let count = self.count(|live| &live.listeners);
            let rt = self.clone();
            Ok(Box::new(Port { it: listener, rt, _count: count }) as Box<dyn Listener>)
        })
    }

    fn connect(
        &self,
        addr: SocketAddr,
        options: &ConnectOptions,
    ) -> BoxFuture<'_, io::Result<Stream>> {
        let connecting = self.inner.runtime.connect(addr, options);
        Box::pin(async move { Ok(self.stream(connecting.await?)) })
    }
}

impl Runtime for TestRuntime {
    fn random(&self) -> u64 {
        self.inner.runtime.random()
    }
}

impl TestRuntime {
    fn stream(&self, stream: Stream) -> Stream {
        let count = Arc::new(self.count(|live| &live.streams));
        let (reader, writer, socket) = stream.into_parts();
        Stream::from_parts(
            Box::new(Counted { it: reader, _count: Arc::clone(&count) }),
            Box::new(Counted { it: writer, _count: Arc::clone(&count) }),
            Arc::new(Counted { it: socket, _count: count }),
        )
    }
}

/// Something, and what counts it. What it counts is dropped first.
struct Counted<T, C> {
    it: T,
    _count: C,
}

impl Future for Counted<Pin<Box<dyn Timer>>, Count> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.it.as_mut().poll(cx)
    }
}

impl Timer for Counted<Pin<Box<dyn Timer>>, Count> {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.it.as_mut().reset(at);
    }
}

impl AsyncRead for Counted<ReadHalf, Arc<Count>> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.it).poll_read(cx, buf)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.it).poll_read_vectored(cx, bufs)
    }
}

impl AsyncWrite for Counted<WriteHalf, Arc<Count>> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.it).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.it).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.it).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.it).poll_close(cx)
    }
}

impl Socket for Counted<Arc<dyn Socket>, Arc<Count>> {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.it.local_addr()
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.it.peer_addr()
    }

    fn abort(&self) {
        self.it.abort();
    }

    fn sock_ref(&self) -> Option<SockRef<'_>> {
        self.it.sock_ref()
    }
}

struct Port {
    it: Box<dyn Listener>,
    rt: TestRuntime,
    _count: Count,
}

impl Listener for Port {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, SocketAddr)>> {
        self.it.poll_accept(cx).map_ok(|(stream, addr)| (self.rt.stream(stream), addr))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.it.local_addr()
    }
}
