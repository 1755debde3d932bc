//! Settings that make no sense, and calls at the wrong time.

use super::bystander::{Bystander, end_of};
use crate::harness::{Case, ON_PURPOSE, TestRuntime, case, meet};
use anypea::{
    Config, ConfigError, ConnectError, DisconnectReason, Disconnected, EnableError, Handshake,
    ListenError, Node, OnConnect, OnDisconnect, Pea2Pea, Peer, Reading, SendError, ShutDownState,
    Side, TaskEnded, Writing, bytes::Bytes, codec::LengthDelimited, runtime::Stream,
};
use futures::{future::join_all, io::Cursor};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

pub fn cases() -> Vec<Case> {
    vec![
        case(a_setting_of_zero_is_refused_by_name),
        case(contradictory_limits_are_refused_with_the_bound),
        case(the_smallest_settings_make_a_node),
        case(protocol_settings_of_zero_are_refused_by_name),
        case(listening_without_an_address_is_refused),
        case(listening_twice_is_refused),
        case(listening_on_a_taken_port_is_refused),
        case(listening_on_a_foreign_address_is_refused),
        case(a_failed_start_of_listening_can_be_repeated),
        case(stopping_to_listen_twice_is_harmless),
        case(enabling_a_protocol_twice_is_refused),
        case(enabling_a_protocol_after_connections_is_refused),
        case(enabling_a_protocol_during_a_set_up_is_refused),
        case(every_call_after_shut_down_says_so),
        case(shutting_down_twice_at_once_is_harmless),
        case(a_node_that_did_nothing_shuts_down),
        case(a_panicking_task_is_reported_to_whoever_awaits_it),
    ]
}

type Change = fn(&mut Config);

fn error_of(rt: &TestRuntime, change: impl FnOnce(&mut Config)) -> Option<ConfigError> {
    let mut config = Config::default();
    change(&mut config);
    Node::new(rt.clone(), config).err()
}

async fn a_setting_of_zero_is_refused_by_name(rt: &TestRuntime) {
    let zeros: [(&str, Change); 9] = [
        ("backlog", |config| config.backlog = 0),
        ("max_connections", |config| config.max_connections = 0),
        ("max_per_ip", |config| config.max_per_ip = 0),
        ("max_per_prefix", |config| config.max_per_prefix = 0),
        ("max_inbound_setups", |config| config.max_inbound_setups = 0),
        ("max_outbound_setups", |config| config.max_outbound_setups = 0),
        ("connect_timeout", |config| config.connect_timeout = Duration::ZERO),
        ("close_timeout", |config| config.close_timeout = Duration::ZERO),
        ("linger_quiet", |config| config.linger_quiet = Duration::ZERO),
    ];
    for (setting, zero) in zeros {
        let error = error_of(rt, zero).expect(setting);
        assert_eq!(error, ConfigError::Zero(setting));
        assert!(error.to_string().contains(setting), "{error}");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
    }
}

async fn contradictory_limits_are_refused_with_the_bound(rt: &TestRuntime) {
    let contradictions: [(&str, usize, usize, Change); 5] = [
        ("max_inbound", 100, 99, |config| config.max_inbound = config.max_connections),
        ("max_inbound", 90, 0, |config| config.max_connections = 1),
        ("max_per_ip", 33, 32, |config| config.max_per_ip = 33),
        ("ipv4_prefix_bits", 33, 32, |config| config.ipv4_prefix_bits = 33),
        ("ipv6_prefix_bits", 129, 128, |config| config.ipv6_prefix_bits = 129),
    ];
    for (name, is, most, contradict) in contradictions {
        let error = error_of(rt, contradict).expect(name);
        let ConfigError::TooLarge { setting, value, bound, .. } = error else {
            panic!("{error}");
        };
        assert_eq!((setting, value, bound), (name, is, most));
        assert!(error.to_string().contains(name), "{error}");
    }
}

async fn the_smallest_settings_make_a_node(rt: &TestRuntime) {
    let node = rt
        .setup()
        .config(|config| {
            config.backlog = 1;
            config.max_connections = 2;
            config.max_inbound = 1;
            config.max_per_ip = 1;
            config.max_per_prefix = 1;
            config.ipv4_prefix_bits = 0;
            config.ipv6_prefix_bits = 0;
            config.max_inbound_setups = 1;
            config.max_outbound_setups = 1;
        })
        .start()
        .await;
    let other = rt.start().await;
    let (there, _) = meet(rt, &other, &node).await;
    other.unicast(&there, "hello".into()).unwrap();
    rt.until("the message has come", || node.messages() == ["hello"]).await;
    // One that accepts nobody may still dial.
    let dialer = rt.setup().config(|config| (config.max_connections, config.max_inbound) = (1, 0));
    let dialer = dialer.start().await;
    meet(rt, &dialer, &other).await;
}

/// A node of which one protocol's setting is zero.
#[derive(Clone)]
struct Zero(Node, &'static str);

impl Zero {
    fn or<T>(&self, setting: &str, zero: T, usual: T) -> T {
        if self.1 == setting { zero } else { usual }
    }

    fn time(&self, setting: &str) -> Duration {
        self.or(setting, Duration::ZERO, Duration::from_secs(1))
    }
}

impl Pea2Pea for Zero {
    fn node(&self) -> &Node {
        &self.0
    }
}

impl Handshake for Zero {
    async fn perform_handshake(&self, conn: anypea::Connection) -> io::Result<anypea::Connection> {
        Ok(conn)
    }

    fn handshake_timeout(&self) -> Duration {
        self.time("handshake_timeout")
    }
}

impl OnConnect for Zero {
    async fn on_connect(&self, _: &Peer) {}

    fn on_connect_timeout(&self) -> Duration {
        self.time("on_connect_timeout")
    }
}

impl OnDisconnect for Zero {
    async fn on_disconnect(&self, _: &Peer, _: DisconnectReason) {}

    fn on_disconnect_timeout(&self) -> Duration {
        self.time("on_disconnect_timeout")
    }
}

impl Reading for Zero {
    type Codec = LengthDelimited;

    fn codec(&self, _: &Peer) -> LengthDelimited {
        LengthDelimited::new(1)
    }

    async fn process_message(&self, _: &Peer, _: Bytes) -> io::Result<()> {
        Ok(())
    }

    fn idle_timeout(&self) -> Option<Duration> {
        Some(self.time("idle_timeout"))
    }

    fn process_timeout(&self) -> Option<Duration> {
        Some(self.time("process_timeout"))
    }

    fn max_buffered_bytes(&self) -> usize {
        self.or("max_buffered_bytes", 0, 1)
    }
}

impl Writing for Zero {
    type Message = Bytes;
    type Codec = LengthDelimited;

    fn codec(&self, _: &Peer) -> LengthDelimited {
        LengthDelimited::new(1)
    }

    fn queue_bytes(&self) -> usize {
        self.or("queue_bytes", 0, 1)
    }

    fn write_timeout(&self) -> Duration {
        self.time("write_timeout")
    }
}

async fn protocol_settings_of_zero_are_refused_by_name(rt: &TestRuntime) {
    type Enable = fn(&Zero) -> Result<(), EnableError>;
    let settings: [(&str, Enable); 8] = [
        ("handshake_timeout", Zero::enable_handshake),
        ("on_connect_timeout", Zero::enable_on_connect),
        ("on_disconnect_timeout", Zero::enable_on_disconnect),
        ("idle_timeout", Zero::enable_reading),
        ("process_timeout", Zero::enable_reading),
        ("max_buffered_bytes", Zero::enable_reading),
        ("queue_bytes", Zero::enable_writing),
        ("write_timeout", Zero::enable_writing),
    ];
    for (setting, enable) in settings {
        let node = rt.node(Config::default());
        assert_eq!(enable(&Zero(node.clone(), setting)), Err(EnableError::Zero(setting)));
        // Nothing was enabled by half.
        assert_eq!(enable(&Zero(node, "")), Ok(()));
    }
}

async fn listening_without_an_address_is_refused(rt: &TestRuntime) {
    let node = rt.node(Config::default());
    let error = node.start_listening().await.unwrap_err();
    assert!(matches!(error, ListenError::NoAddress), "{error}");
    assert!(error.to_string().contains("listening_addr"), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
    assert_eq!(node.listening_addr(), None);
    let other = rt.start().await;
    node.connect(other.addr()).await.expect("it can still dial");
}

async fn listening_twice_is_refused(rt: &TestRuntime) {
    let node = rt.start().await;
    let addr = node.addr();
    let error = node.start_listening().await.unwrap_err();
    assert!(matches!(error, ListenError::AlreadyListening), "{error}");
    assert_eq!(node.addr(), addr);
    Bystander::of(rt, &node).await;
    // Also at the same time.
    let node = rt.setup().not_listening().start().await;
    let twice = join_all([node.start_listening(), node.start_listening()]).await;
    assert_eq!(twice.iter().filter(|started| started.is_ok()).count(), 1, "{twice:?}");
    Bystander::of(rt, &node).await;
}

async fn listening_on_a_taken_port_is_refused(rt: &TestRuntime) {
    let raw = rt.listen_raw().await;
    let config = Config { listening_addr: Some(raw.addr), ..Config::default() };
    let node = rt.node(config);
    let error = node.start_listening().await.unwrap_err();
    let ListenError::Io { addr, error: cause } = &error else { panic!("{error}") };
    assert_eq!((*addr, cause.kind()), (raw.addr, io::ErrorKind::AddrInUse));
    assert!(error.to_string().contains(&raw.addr.to_string()), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::AddrInUse);
    assert_eq!(node.listening_addr(), None);
}

async fn listening_on_a_foreign_address_is_refused(rt: &TestRuntime) {
    // Set aside for documentation (RFC 5737), so it is nobody's.
    let foreign = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 1), 0));
    let node = rt.node(Config { listening_addr: Some(foreign), ..Config::default() });
    let error = node.start_listening().await.unwrap_err();
    let ListenError::Io { addr, error } = error else { panic!("{error}") };
    assert_eq!((addr, error.kind()), (foreign, io::ErrorKind::AddrNotAvailable));
}

async fn a_failed_start_of_listening_can_be_repeated(rt: &TestRuntime) {
    let raw = rt.listen_raw().await;
    let addr = raw.addr;
    let node = rt.setup().not_listening().config(|config| config.listening_addr = Some(addr));
    let node = node.start().await;
    node.start_listening().await.unwrap_err();
    drop(raw);
    // Not every runtime closes a socket within the drop.
    let mut last = None;
    for _ in 0..1_000 {
        match node.start_listening().await {
            Ok(started) => {
                assert_eq!(started, addr);
                Bystander::of(rt, &node).await;
                return;
            }
            Err(error) => last = Some(error),
        }
        rt.sleep(Duration::from_millis(5)).await;
    }
    panic!("{last:?}");
}

async fn stopping_to_listen_twice_is_harmless(rt: &TestRuntime) {
    let node = rt.start().await;
    let (first, bystander) = (node.addr(), Bystander::of(rt, &node).await);
    join_all([node.stop_listening(), node.stop_listening()]).await;
    node.stop_listening().await;
    assert_eq!(node.listening_addr(), None);
    // Whoever has the port by now, it isn't this node.
    let greeted = node.num_connects();
    let _ = rt.setup().not_listening().start().await.connect(first).await;
    assert_eq!((node.num_connects(), node.num_connected()), (greeted, 1));
    bystander.talks(rt, &node).await;
    node.start_listening().await.expect("it can listen again");
    bystander.is_unharmed(rt, &node).await;
}

async fn enabling_a_protocol_twice_is_refused(rt: &TestRuntime) {
    let node = rt.setup().handshake(|_, conn| async { Ok(conn) }).start().await;
    let twice = [
        ("Handshake", node.enable_handshake()),
        ("OnConnect", node.enable_on_connect()),
        ("OnDisconnect", node.enable_on_disconnect()),
        ("Reading", node.enable_reading()),
        ("Writing", node.enable_writing()),
    ];
    for (protocol, enabled) in twice {
        assert_eq!(enabled, Err(EnableError::AlreadyEnabled(protocol)));
        assert!(enabled.unwrap_err().to_string().contains(protocol));
    }
    Bystander::of(rt, &node).await;
    assert_eq!(node.num_connects(), 2, "each connection is greeted once");
}

async fn enabling_a_protocol_after_connections_is_refused(rt: &TestRuntime) {
    let node = Zero(rt.node(Config::default()), "");
    let other = rt.start().await;
    node.0.connect(other.addr()).await.unwrap();
    let late = [
        ("Handshake", node.enable_handshake()),
        ("OnConnect", node.enable_on_connect()),
        ("OnDisconnect", node.enable_on_disconnect()),
        ("Reading", node.enable_reading()),
        ("Writing", node.enable_writing()),
    ];
    for (protocol, enabled) in late {
        assert_eq!(enabled, Err(EnableError::ConnectionsExist(protocol)));
        assert!(enabled.unwrap_err().to_string().contains(protocol));
    }
    let sent = node.unicast(other.addr(), "x".into()).unwrap_err();
    assert!(matches!(sent, SendError::NotEnabled(_)), "{sent}");
    // Once they have gone, it is possible.
    node.0.disconnect(other.addr()).await;
    assert_eq!(node.enable_writing(), Ok(()));
    node.0.connect(other.addr()).await.unwrap();
    node.unicast(other.addr(), "y".into()).unwrap();
    rt.until("the message has come", || other.messages() == ["y"]).await;
}

async fn enabling_a_protocol_during_a_set_up_is_refused(rt: &TestRuntime) {
    let node = rt.setup().without_writing().handshake(|node, conn| async move {
        node.note("shakes hands");
        while !node.has_noted("go on") {
            node.sleep(Duration::from_millis(1)).await;
        }
        Ok(conn)
    });
    let node = node.start().await;
    let raw = rt.dial_raw(node.addr()).await;
    rt.until("a connection is being set up", || node.has_noted("shakes hands")).await;
    assert_eq!((node.num_connecting(), node.num_connected()), (1, 0));
    assert_eq!(node.enable_writing(), Err(EnableError::ConnectionsExist("Writing")));
    node.note("go on");
    node.only_peer(rt).await;
    drop(raw);
}

async fn every_call_after_shut_down_says_so(rt: &TestRuntime) {
    let node = rt.start().await;
    let addr = node.addr();
    let bystander = Bystander::of(rt, &node).await;
    let former = bystander.peer().clone();
    let task = node.spawn(std::future::pending::<()>());
    assert_eq!(node.shut_down().await, ShutDownState::Ended);
    assert_eq!(task.await, Err(TaskEnded));

    let other = rt.start().await;
    let error = node.connect(other.addr()).await.unwrap_err();
    assert!(matches!(error, ConnectError::ShuttingDown(to) if to == other.addr()), "{error}");
    let error = node.connect_with(other.addr(), Default::default()).await.unwrap_err();
    assert!(matches!(error, ConnectError::ShuttingDown(_)), "{error}");
    let pipe = Stream::new(Cursor::new(vec![0; 4]));
    let error = node.adopt(pipe, addr, Side::Responder).await.unwrap_err();
    assert!(matches!(error, ConnectError::ShuttingDown(to) if to == addr), "{error}");

    let error = node.start_listening().await.unwrap_err();
    assert!(matches!(error, ListenError::ShuttingDown), "{error}");
    node.stop_listening().await;
    assert_eq!(node.listening_addr(), None);

    assert!(matches!(node.disconnect(former.addr()).await, Disconnected::NotConnected));
    assert!(matches!(node.disconnect_now(former.addr()).await, Disconnected::NotConnected));
    for ended in [node.disconnect(&former), node.disconnect_now(&former), former.closed()] {
        let ended = ended.await;
        assert!(matches!(ended, Disconnected::Ended(DisconnectReason::Shutdown)), "{ended:?}");
    }

    let refused = [
        node.unicast(&former, "late".into()).map(drop).unwrap_err(),
        node.unicast(former.addr(), "late".into()).map(drop).unwrap_err(),
        node.send(&former, "late".into()).await.map(drop).unwrap_err(),
        node.send_encoded(&former, "late".into()).map(drop).unwrap_err(),
    ];
    for error in refused {
        let SendError::NotConnected(message) = error else { panic!("{error}") };
        assert_eq!(message, "late");
    }
    assert!(node.broadcast("late".into()).is_empty());

    assert!(!node.is_connected(former.addr()) && node.peer(former.addr()).is_none());
    assert!(node.peers().is_empty());
    assert_eq!((node.num_connected(), node.num_connecting()), (0, 0));
    assert_eq!(node.stats().connections, 2);
    assert_eq!(node.stats().messages_received, 2);
    assert_eq!(node.heuristics(), Default::default());
    assert!(!node.name().is_empty() && node.config().listening_addr.is_some());

    assert_eq!(node.spawn(async { 1 }).await, Err(TaskEnded));
    rt.within("a sleep", node.sleep(Duration::from_millis(1))).await;
    let late = [
        ("Handshake", node.enable_handshake()),
        ("OnConnect", node.enable_on_connect()),
        ("OnDisconnect", node.enable_on_disconnect()),
        ("Reading", node.enable_reading()),
        ("Writing", node.enable_writing()),
    ];
    for (protocol, enabled) in late {
        assert_eq!(enabled, Err(EnableError::ShuttingDown(protocol)));
    }
    assert_eq!(node.shut_down().await, ShutDownState::Ended);
    // The other end of the connection is told in the ordinary way.
    rt.until("the peer is told", || !bystander.node().reasons().is_empty()).await;
}

async fn shutting_down_twice_at_once_is_harmless(rt: &TestRuntime) {
    let node = rt.start().await;
    let bystander = Bystander::of(rt, &node).await;
    let ends = join_all([node.shut_down(), node.shut_down(), node.shut_down()]).await;
    assert_eq!(ends, [ShutDownState::Ended; 3]);
    assert!(matches!(end_of(rt, bystander.peer()).await, DisconnectReason::Shutdown));
    assert_eq!(node.reasons().len(), 2, "the newcomer's end and this one");
}

async fn a_node_that_did_nothing_shuts_down(rt: &TestRuntime) {
    let node = rt.node(Config::default());
    assert_eq!(node.shut_down().await, ShutDownState::Ended);
    rt.until_nothing_is_left().await;
}

async fn a_panicking_task_is_reported_to_whoever_awaits_it(rt: &TestRuntime) {
    rt.expect_hook_panics(1);
    let node = rt.start().await;
    let bystander = Bystander::of(rt, &node).await;
    let task = node.spawn(async { std::panic::panic_any(ON_PURPOSE) });
    assert_eq!(task.await, Err(TaskEnded));
    bystander.is_unharmed(rt, &node).await;
}
