//! Runtimes that are gone, or don't run what they are given.
//!
//! Whatever the runtime does, a call in a user's thread returns, with an error that says why, and
//! never hangs or panics. No runtime of the test suite can show that, so it is a program of its
//! own. Each test uses the node from a thread that no runtime knows.

#![cfg(any(feature = "smol", feature = "tokio"))]

use anypea::{
    Config, ConnectError, DisconnectReason, Disconnected, ListenError, Node, OnConnect,
    OnDisconnect, Pea2Pea, Peer, Reading, SendError, ShutDownState, Side, TaskEnded, Writing,
    bytes::Bytes,
    codec::LengthDelimited,
    runtime::{IntoRuntime, Stream},
};
use futures::{executor::block_on, io::Cursor};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    panic::resume_unwind,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

/// A guard against hangs only.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `calls` in a user's thread.
fn in_a_users_thread(calls: impl Future<Output = ()> + Send + 'static) {
    let (done, over) = mpsc::channel::<()>();
    let user = thread::spawn(move || {
        // Dropped by a panic, too.
        let _done = done;
        block_on(calls);
    });
    match over.recv_timeout(PATIENCE) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("a call hangs"),
        _ => user.join().unwrap_or_else(|panic| resume_unwind(panic)),
    }
}

/// A user's type, of which it can be told whether the node has let go of it.
#[derive(Clone)]
struct User {
    node: Node,
    state: Arc<()>,
}

impl User {
    fn new(runtime: impl IntoRuntime) -> Self {
        let config = Config {
            listening_addr: Some((Ipv4Addr::LOCALHOST, 0).into()),
            connect_timeout: Duration::from_millis(50),
            close_timeout: Duration::from_millis(50),
            linger_quiet: Duration::from_millis(50),
            ..Config::default()
        };
        let node = Node::new(runtime, config).expect("a configuration that makes sense");
        let user = Self { node, state: Arc::default() };
        user.enable_on_connect().expect("enable OnConnect");
        user.enable_on_disconnect().expect("enable OnDisconnect");
        user.enable_reading().expect("enable Reading");
        user.enable_writing().expect("enable Writing");
        user
    }

    /// Whether the node has let go of the user's type.
    fn is_released(&self) -> bool {
        Arc::strong_count(&self.state) == 1
    }
}

impl Pea2Pea for User {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl OnConnect for User {
    async fn on_connect(&self, _: &Peer) {}
}

impl OnDisconnect for User {
    async fn on_disconnect(&self, _: &Peer, _: DisconnectReason) {}

    fn on_disconnect_timeout(&self) -> Duration {
        Duration::from_millis(50)
    }
}

impl Reading for User {
    type Codec = LengthDelimited;

    fn codec(&self, _: &Peer) -> LengthDelimited {
        LengthDelimited::new(1024)
    }

    async fn process_message(&self, peer: &Peer, message: Bytes) -> io::Result<()> {
        let _ = self.unicast(peer, message);
        Ok(())
    }

    // The timer of a runtime that is gone fires at once: the reason would as well be that.
    fn idle_timeout(&self) -> Option<Duration> {
        None
    }
}

impl Writing for User {
    type Message = Bytes;
    type Codec = LengthDelimited;

    fn codec(&self, _: &Peer) -> LengthDelimited {
        LengthDelimited::new(1024)
    }
}

/// A port that completes connections, and says nothing.
fn silent() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
    let addr = listener.local_addr().expect("a local address");
    (listener, addr)
}

/// Makes every call that needs a runtime, of which there is none.
async fn every_call_says_so(user: &User) {
    let node = &user.node;
    let (_listener, addr) = silent();
    for _ in 0..2 {
        let error = node.connect(addr).await.unwrap_err();
        assert!(matches!(error, ConnectError::RuntimeGone(to) if to == addr), "{error}");
        assert_eq!(node.num_connecting(), 0);
    }
    let pipe = Stream::new(Cursor::new(vec![0; 4]));
    let error = node.adopt(pipe, addr, Side::Responder).await.unwrap_err();
    assert!(matches!(error, ConnectError::RuntimeGone(_)), "{error}");
    for _ in 0..2 {
        let error = node.start_listening().await.unwrap_err();
        assert!(matches!(error, ListenError::RuntimeGone | ListenError::Io { .. }), "{error}");
        assert_eq!(node.listening_addr(), None);
    }
    node.stop_listening().await;
    assert_eq!(node.spawn(async { 1 }).await, Err(TaskEnded));
    node.sleep(Duration::from_millis(1)).await;
    assert!(matches!(node.disconnect(addr).await, Disconnected::NotConnected));
    let error = user.unicast(addr, "hello".into()).unwrap_err();
    assert!(matches!(error, SendError::NotConnected(_)), "{error}");
    assert!(user.broadcast("hello".into()).is_empty());
    assert_eq!((node.num_connected(), node.num_connecting()), (0, 0));
    shuts_down(user).await;
}

async fn shuts_down(user: &User) {
    assert_eq!(user.node.shut_down().await, ShutDownState::Ended);
    assert_eq!(user.node.shut_down().await, ShutDownState::Ended);
    assert!(user.is_released(), "others hold the user's type");
}

/// Checks that a connection has ended because its runtime has.
async fn ended_with_its_runtime(user: &User, peer: &Peer) {
    let ended = peer.closed().await;
    assert!(matches!(ended, Disconnected::Ended(DisconnectReason::RuntimeGone)), "{ended:?}");
    assert!(!peer.is_connected() && user.node.peer(peer.addr()).is_none());
    let error = user.unicast(peer, "late".into()).unwrap_err();
    assert!(matches!(error, SendError::NotConnected(_)), "{error}");
    let error = user.send(peer, "late".into()).await.unwrap_err();
    assert!(matches!(error, SendError::NotConnected(_)), "{error}");
    let ended = user.node.disconnect(peer).await;
    assert!(matches!(ended, Disconnected::Ended(DisconnectReason::RuntimeGone)), "{ended:?}");
}

#[cfg(feature = "tokio")]
mod tokio_ends {
    use super::*;
    use anypea::Tokio;
    use tokio::runtime::{Builder, Runtime};

    fn runtimes() -> [Runtime; 2] {
        [Builder::new_multi_thread().worker_threads(2), &mut Builder::new_current_thread()]
            .map(|builder| builder.enable_all().build().expect("a tokio runtime"))
    }

    #[test]
    fn before_the_node_is_made() {
        for runtime in runtimes() {
            let handle = runtime.handle().clone();
            drop(runtime);
            in_a_users_thread(async move {
                every_call_says_so(&User::new(Tokio::from(handle))).await;
            });
        }
    }

    #[test]
    fn before_the_node_is_used() {
        for runtime in runtimes() {
            let user = User::new(Tokio::from(runtime.handle().clone()));
            drop(runtime);
            in_a_users_thread(async move { every_call_says_so(&user).await });
        }
    }

    #[test]
    fn under_a_node_with_connections() {
        for runtime in runtimes() {
            let user = User::new(Tokio::from(runtime.handle().clone()));
            let other = User::new(Tokio::from(runtime.handle().clone()));
            let peers = runtime.block_on(async {
                let addr = user.node.start_listening().await.expect("listen");
                let there = other.node.connect(addr).await.expect("connect");
                let from = there.local_addr().expect("a local address");
                while user.node.peer(from).is_none() {
                    tokio::task::yield_now().await;
                }
                [there, user.node.peer(from).expect("it was there just now")]
            });
            drop(runtime);
            in_a_users_thread(async move {
                assert_eq!(user.node.listening_addr(), None);
                let [there, back] = peers;
                ended_with_its_runtime(&other, &there).await;
                ended_with_its_runtime(&user, &back).await;
                every_call_says_so(&user).await;
                shuts_down(&other).await;
            });
        }
    }

    #[test]
    fn while_calls_wait() {
        let [runtime, _] = runtimes();
        let user = User::new(Tokio::from(runtime.handle().clone()));
        let (listener, addr) = silent();
        let peer = runtime.block_on(user.node.connect(addr)).expect("connect");
        // The peer never reads: the queue stays full.
        user.send_encoded(&peer, Bytes::from_static(&[0; 32 * 1024 * 1024])).expect("queued");
        let last = user.send_encoded(&peer, Bytes::new());
        assert!(matches!(last, Err(SendError::Full(_))), "{last:?}");
        let (waiting, waits) = mpsc::channel();
        type Call = Box<dyn FnOnce(User, Peer) + Send>;
        let calls: [(&str, Call); 4] = [
            (
                "send",
                Box::new(|user, peer| {
                    let sent = block_on(user.send(&peer, "hello".into()));
                    assert!(matches!(sent, Err(SendError::NotConnected(_))), "{sent:?}");
                }),
            ),
            (
                "closed",
                Box::new(|_, peer| {
                    let ended = block_on(peer.closed());
                    let gone = Disconnected::Ended(DisconnectReason::RuntimeGone);
                    assert_eq!(format!("{ended:?}"), format!("{gone:?}"));
                }),
            ),
            ("sleep", Box::new(|user, _| block_on(user.node.sleep(PATIENCE * 2)))),
            (
                "spawn",
                Box::new(|user, _| {
                    let task = user.node.spawn(std::future::pending::<()>());
                    assert_eq!(block_on(task), Err(TaskEnded));
                }),
            ),
        ];
        let threads = calls.map(|(name, call)| {
            let (user, peer, waiting) = (user.clone(), peer.clone(), waiting.clone());
            let call = move || {
                waiting.send(()).expect("the test listens");
                call(user, peer);
            };
            (name, thread::spawn(call))
        });
        threads.iter().for_each(|_| waits.recv().expect("the thread lives"));
        // Whether they wait already or not: both must work.
        drop(runtime);
        in_a_users_thread(async move {
            for (name, thread) in threads {
                thread.join().unwrap_or_else(|panic| {
                    eprintln!("{name} panicked");
                    resume_unwind(panic)
                });
            }
            shuts_down(&user).await;
            drop(listener);
        });
    }

    #[test]
    fn in_the_midst_of_a_shut_down() {
        let [runtime, _] = runtimes();
        let user = User::new(Tokio::from(runtime.handle().clone()));
        let (listener, addr) = silent();
        runtime.block_on(user.node.connect(addr)).expect("connect");
        // It waits for the silent peer to close.
        let end = user.node.shut_down();
        runtime.shutdown_background();
        in_a_users_thread(async move {
            // The runtime ends in the background; its timers are the first to go.
            let mut state = end.await;
            while state == ShutDownState::InProgress {
                state = user.node.shut_down().await;
            }
            shuts_down(&user).await;
            drop(listener);
        });
    }
}

#[cfg(feature = "smol")]
mod spawner {
    use super::*;
    use anypea::{Smol, runtime::BoxFuture};
    use smol::Executor;
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    #[test]
    fn that_drops_every_task() {
        let user = User::new(Smol::with_spawner(drop));
        in_a_users_thread(async move { every_call_says_so(&user).await });
    }

    /// With each of the tasks that two nodes and a connection have in turn dropped, nothing
    /// hangs, and what goes wrong is named.
    #[test]
    fn that_drops_one_task() {
        for dropped in 0..8 {
            let count = AtomicUsize::new(0);
            let user = User::new(Smol::with_spawner(move |task| {
                if count.fetch_add(1, SeqCst) == dropped {
                    drop(task);
                } else {
                    smol::spawn(task).detach();
                }
            }));
            in_a_users_thread(async move {
                let other = User::new(Smol::global());
                let addr = other.node.start_listening().await.expect("listen");
                match user.node.start_listening().await {
                    Ok(_) | Err(ListenError::RuntimeGone) => {}
                    Err(error) => panic!("{error}"),
                }
                match user.node.connect(addr).await {
                    Ok(peer) => {
                        // Either it works, or it has ended with its task.
                        let _ = user.unicast(&peer, "hello".into());
                        let replied = || peer.stats().messages_received > 0;
                        while !replied() && peer.is_connected() {
                            smol::Timer::after(Duration::from_millis(1)).await;
                        }
                        let ended = user.node.disconnect(&peer).await;
                        assert!(
                            matches!(
                                ended,
                                Disconnected::Ended(
                                    DisconnectReason::User | DisconnectReason::RuntimeGone
                                )
                            ),
                            "{dropped}: {ended:?}"
                        );
                    }
                    Err(ConnectError::RuntimeGone(to)) => assert_eq!(to, addr),
                    Err(error) => panic!("{dropped}: {error}"),
                }
                shuts_down(&user).await;
                shuts_down(&other).await;
            });
        }
    }

    type Shelf = Arc<Mutex<Vec<BoxFuture<'static, ()>>>>;

    /// A spawner that keeps its tasks and never polls them.
    fn idle() -> (Smol, Shelf) {
        let shelf = Shelf::default();
        let keep = Arc::clone(&shelf);
        let runtime = Smol::with_spawner(move |task| {
            keep.lock().expect("nobody panics").push(task);
        });
        (runtime, shelf)
    }

    #[test]
    fn that_never_polls_a_dial() {
        let (runtime, _shelf) = idle();
        let user = User::new(runtime);
        in_a_users_thread(async move {
            let (_listener, addr) = silent();
            let error = user.node.connect(addr).await.unwrap_err();
            assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
            user.node.sleep(Duration::from_millis(1)).await;
        });
    }

    #[test]
    fn that_never_polls_the_acceptor() {
        let (runtime, _shelf) = idle();
        let user = User::new(runtime);
        in_a_users_thread(async move {
            user.node.start_listening().await.expect("the system listens, if not the node");
            user.node.stop_listening().await;
            assert_eq!(user.node.listening_addr(), None);
        });
    }

    #[test]
    fn that_never_polls_while_the_node_shuts_down() {
        let (runtime, _shelf) = idle();
        let user = User::new(runtime);
        in_a_users_thread(async move {
            user.node.start_listening().await.expect("the system listens, if not the node");
            let (_listener, addr) = silent();
            user.node.connect(addr).await.unwrap_err();
            let task = user.node.spawn(async {});
            shuts_down(&user).await;
            assert_eq!(task.await, Err(TaskEnded));
        });
    }

    #[test]
    fn that_polls_no_more() {
        let executor = Arc::new(Executor::new());
        let user = User::new(Smol::executor(&executor));
        let (_listener, addr) = silent();
        let peer = smol::block_on(executor.run(user.node.connect(addr))).expect("connect");
        in_a_users_thread(async move {
            // From here on nobody drives the executor, but it still is there.
            let error = user.node.connect(silent().1).await.unwrap_err();
            assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
            // What is queued stays so, and in the end there is no room.
            while user.unicast(&peer, vec![0; 1024].into()).is_ok() {}
            let ended = user.node.disconnect(&peer).await;
            assert!(matches!(ended, Disconnected::InProgress), "{ended:?}");
            assert!(!peer.is_connected());
            let ended = peer.disconnect_now().await;
            assert!(matches!(ended, Disconnected::InProgress), "{ended:?}");
            assert_eq!(user.node.shut_down().await, ShutDownState::InProgress);
            // Once the executor is gone, so is all that it had.
            drop(executor);
            assert!(matches!(peer.closed().await, Disconnected::Ended(_)));
            shuts_down(&user).await;
        });
    }

    #[test]
    fn whose_executor_is_dropped() {
        let executor = Arc::new(Executor::new());
        let user = User::new(Smol::executor(&executor));
        drop(executor);
        in_a_users_thread(async move { every_call_says_so(&user).await });
    }

    #[test]
    fn whose_executor_is_dropped_under_connections() {
        let executor = Arc::new(Executor::new());
        let user = User::new(Smol::executor(&executor));
        let other = User::new(Smol::executor(&executor));
        let peers = smol::block_on(executor.run(async {
            let addr = user.node.start_listening().await.expect("listen");
            let there = other.node.connect(addr).await.expect("connect");
            let from = there.local_addr().expect("a local address");
            while user.node.peer(from).is_none() {
                smol::future::yield_now().await;
            }
            [there, user.node.peer(from).expect("it was there just now")]
        }));
        drop(executor);
        in_a_users_thread(async move {
            assert_eq!(user.node.listening_addr(), None);
            let [there, back] = peers;
            ended_with_its_runtime(&other, &there).await;
            ended_with_its_runtime(&user, &back).await;
            every_call_says_so(&user).await;
            shuts_down(&other).await;
        });
    }

    #[test]
    fn whose_thread_has_ended() {
        let (tasks, received) = mpsc::channel::<BoxFuture<'static, ()>>();
        let tasks = Mutex::new(tasks);
        let user = User::new(Smol::with_spawner(move |task| {
            // Without a receiver, the task comes back, and is dropped.
            let _ = tasks.lock().expect("nobody panics").send(task);
        }));
        let executor = thread::spawn(move || received.into_iter().take(3).for_each(block_on));
        in_a_users_thread(async move {
            for i in 0..3 {
                assert_eq!(user.node.spawn(async move { i }).await, Ok(i));
            }
            executor.join().expect("the executor's thread");
            every_call_says_so(&user).await;
        });
    }

    #[test]
    fn that_runs_each_task_in_a_thread() {
        let threads = |task| drop(thread::spawn(|| block_on(task)));
        let [user, other] = [(); 2].map(|()| User::new(Smol::with_spawner(threads)));
        in_a_users_thread(async move {
            let addr = user.node.start_listening().await.expect("listen");
            // From a thread that ends while the connection goes on.
            let dialer = other.node.clone();
            let dial = thread::spawn(move || block_on(dialer.connect(addr)));
            let peer = dial.join().expect("the dialing thread").expect("connect");
            other.unicast(&peer, "hello".into()).expect("queue a message").await.expect("sent");
            while peer.stats().messages_received == 0 {
                smol::Timer::after(Duration::from_millis(1)).await;
            }
            drop(peer.disconnect());
            assert!(matches!(peer.closed().await, Disconnected::Ended(DisconnectReason::User)));
            shuts_down(&user).await;
            shuts_down(&other).await;
        });
    }
}
