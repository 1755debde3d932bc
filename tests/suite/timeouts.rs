//! Time limits on peers that are idle, and on handlers.

use crate::harness::{Case, TestRuntime, case, frame};
use anypea::{ConnectError, DisconnectReason, Hook, runtime::Clock};
use futures::{AsyncWriteExt, future::pending};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

pub fn cases() -> Vec<Case> {
    vec![
        case(an_idle_peer_is_cut),
        case(a_trickle_of_bytes_does_not_count),
        case(a_message_sets_the_idle_limit_anew),
        case(a_running_handler_is_not_idleness),
        case(a_running_on_connect_is_not_idleness),
        case(a_handler_that_hangs_is_cut),
        case(without_limits_nothing_is_cut),
        case(a_connect_timeout_names_itself),
    ]
}

async fn an_idle_peer_is_cut(rt: &TestRuntime) {
    let limit = Duration::from_millis(100);
    let node = rt.setup().knobs(|knobs| knobs.idle_timeout = Some(limit)).start().await;
    let start = rt.now();
    let _raw = rt.dial_raw(node.addr()).await;
    rt.until("it is cut", || node.reasons().len() == 1).await;
    assert!(rt.now() - start >= limit);
    assert!(matches!(node.reasons()[0], DisconnectReason::Idle));
    assert_eq!(node.heuristics().idle_timeouts, 1);
}

async fn a_trickle_of_bytes_does_not_count(rt: &TestRuntime) {
    let limit = Duration::from_millis(200);
    let node = rt.setup().knobs(|knobs| knobs.idle_timeout = Some(limit)).start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let trickle = rt.spawn({
        let rt = rt.clone();
        async move {
            // A frame that would take hours.
            raw.write_all(&frame([7; 1_000_000])[..4]).await.unwrap();
            while raw.write_all(&[7]).await.is_ok() {
                rt.sleep(Duration::from_millis(10)).await;
            }
        }
    });
    rt.until("it is cut", || node.reasons().len() == 1).await;
    assert!(matches!(node.reasons()[0], DisconnectReason::Idle));
    rt.within("the peer sees the reset", trickle).await;
}

/// When it was last written down.
#[derive(Clone, Default)]
struct Moment(Arc<Mutex<Option<Instant>>>);

impl Moment {
    fn set(&self, now: Instant) {
        *self.0.lock().unwrap() = Some(now);
    }

    fn get(&self) -> Instant {
        self.0.lock().unwrap().expect("it has come")
    }
}

/// Starts a node with an idle limit whose handler takes `time`, sends it a message, and waits for
/// the end: not before the limit, counted from the handler's end.
async fn idle_after_a_handler(rt: &TestRuntime, limit: Duration, time: Duration) {
    let (handled, ended) = (Moment::default(), Moment::default());
    let node = rt.setup().knobs(|knobs| knobs.idle_timeout = Some(limit));
    let node = node.on_message({
        let handled = handled.clone();
        move |node, _, _| {
            let handled = handled.clone();
            async move {
                node.sleep(time).await;
                handled.set(node.runtime().now());
                Ok(())
            }
        }
    });
    let node = node.on_disconnect({
        let ended = ended.clone();
        move |node, _, _| {
            ended.set(node.runtime().now());
            std::future::ready(())
        }
    });
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&frame("one")).await.unwrap();
    rt.until("it is cut", || node.num_connected() == 0 && node.reasons().len() == 1).await;
    assert!(matches!(node.reasons()[0], DisconnectReason::Idle));
    assert_eq!(node.num_messages(), 1);
    assert!(ended.get() - handled.get() >= limit);
}

async fn a_message_sets_the_idle_limit_anew(rt: &TestRuntime) {
    idle_after_a_handler(rt, Duration::from_millis(200), Duration::ZERO).await;
}

async fn a_running_handler_is_not_idleness(rt: &TestRuntime) {
    idle_after_a_handler(rt, Duration::from_millis(100), Duration::from_millis(300)).await;
}

async fn a_running_on_connect_is_not_idleness(rt: &TestRuntime) {
    let limit = Duration::from_millis(50);
    let node = rt.setup().knobs(|knobs| knobs.idle_timeout = Some(limit));
    let node = node.on_connect(move |node, _| async move {
        node.sleep(limit * 4).await;
        node.note("greeted");
    });
    let node = node.start().await;
    let _raw = rt.dial_raw(node.addr()).await;
    rt.until("it is cut", || node.reasons().len() == 1).await;
    assert!(node.has_noted("greeted"));
    assert!(matches!(node.reasons()[0], DisconnectReason::Idle));
}

async fn a_handler_that_hangs_is_cut(rt: &TestRuntime) {
    let limit = Duration::from_millis(50);
    let node = rt.setup().knobs(|knobs| knobs.process_timeout = Some(limit));
    let node = node.on_message(|_, _, message| async move {
        match &message[..] {
            b"hang" => pending().await,
            _ => Ok(()),
        }
    });
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&[frame("quick"), frame("hang"), frame("never")].concat()).await.unwrap();
    rt.until("it is cut", || node.reasons().len() == 1).await;
    let reasons = node.reasons();
    let expected = matches!(reasons[0], DisconnectReason::TimedOut(Hook::ProcessMessage));
    assert!(expected, "{reasons:?}");
    assert_eq!(node.messages(), ["quick"]);
    assert_eq!(node.heuristics().hook_timeouts, 1);
}

async fn without_limits_nothing_is_cut(rt: &TestRuntime) {
    let node = rt.setup().knobs(|knobs| {
        knobs.idle_timeout = None;
        knobs.process_timeout = None;
    });
    let node = node.on_message(|node, _, _| async move {
        node.sleep(Duration::from_millis(200)).await;
        Ok(())
    });
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let peer = node.only_peer(rt).await;
    raw.write_all(&frame("slow")).await.unwrap();
    rt.until("it is processed", || node.num_messages() == 1).await;
    assert!(peer.is_connected());
}

async fn a_connect_timeout_names_itself(rt: &TestRuntime) {
    // A listener whose backlog is full drops what else arrives (listen(2)), so a dial gets no
    // answer.
    let mut options = anypea::runtime::ListenOptions::default();
    options.backlog = 0;
    let full = rt.listen_raw_with(rt.localhost(), &options).await;
    let _first = rt.dial_raw(full.addr).await;
    let limit = Duration::from_millis(50);
    let node = rt.setup().config(|config| config.connect_timeout = limit).start().await;
    let error = node.connect(full.addr).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::TimedOut { addr, after } if addr == full.addr && after == limit),
        "{error}"
    );
    assert_eq!(node.num_connecting(), 0);
}
