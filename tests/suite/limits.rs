//! Limits hold at every instant, and what is over gives its place back.

use crate::harness::{Case, Setup, TestRuntime, case, meet};
use anypea::{Config, ConnectError, ConnectOptions, runtime::Stream};
use futures::{AsyncReadExt, future::join_all};
use std::net::{Ipv4Addr, SocketAddr};

pub fn cases() -> Vec<Case> {
    vec![
        case(a_flood_stays_within_the_limits_on_all_and_on_inbound),
        case(a_flood_from_one_address_stays_within_its_limit),
        case(a_flood_from_one_prefix_stays_within_its_limit),
        case(loopback_is_exempt_unless_configured_otherwise),
        case(dials_count_like_accepted_connections),
        case(a_place_is_free_again_after_the_end),
        case(accepting_pauses_while_the_set_up_budget_is_spent),
        case(dials_have_a_set_up_budget_of_their_own),
        case(an_address_is_dialed_once_at_a_time),
        case(racing_dials_stay_within_the_limit),
    ]
}

/// A node that checks its limits whenever a hook of its is called.
fn watchful(rt: &TestRuntime, configure: impl FnOnce(&mut Config)) -> Setup {
    let check = |node: &anypea::Node| {
        let config = node.config();
        let (live, in_setup) = (node.num_connected(), node.num_connecting());
        assert!(live <= config.max_connections, "{live} connections");
        assert!(in_setup <= config.max_inbound_setups + config.max_outbound_setups);
        // Each is asked for on its own, and one may move from set-up to life in between.
        for peer in node.peers() {
            let ip = |other: &anypea::Peer| other.addr().ip() == peer.addr().ip();
            let of_ip = node.peers().iter().filter(|other| ip(other)).count();
            assert!(config.exempt_loopback || of_ip <= config.max_per_ip, "{of_ip} of one IP");
        }
    };
    rt.setup()
        .config(|config| config.exempt_loopback = false)
        .config(configure)
        .handshake(move |node, conn| async move {
            check(&node);
            // Leaves the others time to rush in.
            node.sleep(std::time::Duration::from_millis(1)).await;
            check(&node);
            Ok(conn)
        })
        .on_connect(move |node, _| async move { check(&node) })
}

/// Dials from each of these addresses at once, in the order in which the system pleases.
async fn flood(rt: &TestRuntime, addr: SocketAddr, from: Vec<Ipv4Addr>) -> Vec<Stream> {
    let dials = from.into_iter().map(|ip| {
        let there = rt.clone();
        rt.spawn(async move { there.dial_raw_from((ip, 0).into(), addr).await })
    });
    join_all(dials.collect::<Vec<_>>()).await
}

async fn a_flood_stays_within_the_limits_on_all_and_on_inbound(rt: &TestRuntime) {
    let node = watchful(rt, |config| {
        config.max_connections = 5;
        config.max_inbound = 4;
        config.exempt_loopback = true;
    });
    let node = node.start().await;
    let _raw = flood(rt, node.addr(), vec![Ipv4Addr::LOCALHOST; 40]).await;
    rt.until("all are sorted out", || {
        node.heuristics().rejected_total == 36 && node.num_connected() == 4
    })
    .await;
    // The last slot is left for our own dials.
    let (one, two) = (rt.start().await, rt.start().await);
    node.connect(one.addr()).await.unwrap();
    let over = node.connect(two.addr()).await;
    assert!(matches!(over, Err(ConnectError::TotalLimit(_))), "{over:?}");
    assert_eq!(node.num_connected(), 5);
}

async fn a_flood_from_one_address_stays_within_its_limit(rt: &TestRuntime) {
    let node = watchful(rt, |config| config.max_per_ip = 3).start().await;
    let (one, two) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let _raw = flood(rt, node.addr(), [[one; 10], [two; 10]].concat()).await;
    rt.until("all are sorted out", || {
        node.heuristics().rejected_ip == 14 && node.num_connected() == 6
    })
    .await;
    for ip in [one, two] {
        assert_eq!(node.peers().iter().filter(|peer| peer.addr().ip() == ip).count(), 3);
    }
}

async fn a_flood_from_one_prefix_stays_within_its_limit(rt: &TestRuntime) {
    let node = watchful(rt, |config| {
        config.max_per_ip = 2;
        config.max_per_prefix = 4;
        config.ipv4_prefix_bits = 16;
    });
    let node = node.start().await;
    let in_prefix = |second: u8| (0..10).map(move |i| Ipv4Addr::new(127, second, i, 1));
    let _raw = flood(rt, node.addr(), in_prefix(1).chain(in_prefix(2)).collect()).await;
    rt.until("all are sorted out", || {
        node.heuristics().rejected_prefix == 12 && node.num_connected() == 8
    })
    .await;
    for second in [1, 2] {
        let within = |addr: SocketAddr| match addr {
            SocketAddr::V4(addr) => addr.ip().octets()[1] == second,
            SocketAddr::V6(_) => false,
        };
        assert_eq!(node.peers().iter().filter(|peer| within(peer.addr())).count(), 4);
    }
}

async fn loopback_is_exempt_unless_configured_otherwise(rt: &TestRuntime) {
    let node = watchful(rt, |config| {
        config.max_per_ip = 1;
        config.max_per_prefix = 1;
        config.exempt_loopback = true;
    });
    let node = node.start().await;
    let _raw = flood(rt, node.addr(), vec![Ipv4Addr::LOCALHOST; 10]).await;
    rt.until("all are connected", || node.num_connected() == 10).await;
}

async fn dials_count_like_accepted_connections(rt: &TestRuntime) {
    let node = watchful(rt, |config| config.max_per_ip = 2).start().await;
    let _raw = rt.dial_raw(node.addr()).await;
    rt.until("it is connected", || node.num_connected() == 1).await;
    let (one, two) = (rt.start().await, rt.start().await);
    node.connect(one.addr()).await.unwrap();
    let over = node.connect(two.addr()).await;
    assert!(matches!(over, Err(ConnectError::IpLimit(_))), "{over:?}");
    assert_eq!(node.heuristics().rejected_ip, 0, "only strangers are counted");
}

async fn a_place_is_free_again_after_the_end(rt: &TestRuntime) {
    let node = watchful(rt, |config| {
        config.max_connections = 2;
        config.max_inbound = 1;
        config.max_per_ip = 1;
        config.max_per_prefix = 1;
    });
    let node = node.start().await;
    for round in 1..=5 {
        let raw = rt.dial_raw(node.addr()).await;
        rt.until("it is connected", || node.num_connects() == round).await;
        let mut over = rt.dial_raw(node.addr()).await;
        let _ = rt.within("it is rejected", over.read(&mut [0])).await;
        drop(raw);
        rt.until("the place is free", || node.num_connected() == 0).await;
    }
    assert_eq!(node.heuristics().rejected_total, 5);
    // After a set-up that failed as well.
    let dead = rt.listen_raw().await.addr;
    for _ in 0..5 {
        let refused = node.connect(dead).await;
        assert!(matches!(refused, Err(ConnectError::Io { .. })), "{refused:?}");
    }
    assert_eq!(node.num_connecting(), 0);
}

async fn accepting_pauses_while_the_set_up_budget_is_spent(rt: &TestRuntime) {
    let node = rt.setup().config(|config| config.max_inbound_setups = 2);
    let node = node.handshake(|node, conn| async move {
        assert!(node.num_connecting() <= 2);
        while !node.has_noted("open") {
            node.sleep(std::time::Duration::from_millis(1)).await;
        }
        Ok(conn)
    });
    let node = node.start().await;
    let _raw = flood(rt, node.addr(), vec![Ipv4Addr::LOCALHOST; 8]).await;
    rt.until("accepting has paused", || node.heuristics().rejected_budget > 0).await;
    assert_eq!((node.num_connecting(), node.num_connected()), (2, 0));
    node.note("open");
    rt.until("nobody was turned away", || node.num_connected() == 8).await;
}

async fn dials_have_a_set_up_budget_of_their_own(rt: &TestRuntime) {
    let node = rt.setup().config(|config| config.max_outbound_setups = 1);
    let node = node.handshake(|node, conn| async move {
        node.note("shakes hands");
        while !node.has_noted("open") {
            node.sleep(std::time::Duration::from_millis(1)).await;
        }
        Ok(conn)
    });
    let node = node.start().await;
    let (one, two) = (rt.start().await, rt.start().await);
    let first = rt.spawn({
        let (node, addr) = (node.clone(), one.addr());
        async move { node.connect(addr).await }
    });
    rt.until("the first is in set-up", || node.has_noted("shakes hands")).await;
    let over = node.connect(two.addr()).await;
    assert!(matches!(over, Err(ConnectError::SetupBudget(_))), "{over:?}");
    // A stranger doesn't need that budget.
    let _raw = rt.dial_raw(node.addr()).await;
    rt.until("both are in set-up", || node.num_connecting() == 2).await;
    node.note("open");
    first.await.unwrap();
    node.connect(two.addr()).await.unwrap();
}

async fn an_address_is_dialed_once_at_a_time(rt: &TestRuntime) {
    let node = rt.setup().handshake(|node, conn| async move {
        node.note("shakes hands");
        while !node.has_noted("open") {
            node.sleep(std::time::Duration::from_millis(1)).await;
        }
        Ok(conn)
    });
    let node = node.start().await;
    let other = rt.start().await;
    let first = rt.spawn({
        let (node, addr) = (node.clone(), other.addr());
        async move { node.connect(addr).await }
    });
    rt.until("the first is in set-up", || node.has_noted("shakes hands")).await;
    let second = node.connect(other.addr()).await;
    assert!(matches!(second, Err(ConnectError::AlreadyConnecting(_))), "{second:?}");
    node.note("open");
    first.await.unwrap();
    let third = node.connect(other.addr()).await;
    assert!(matches!(third, Err(ConnectError::AlreadyConnected(_))), "{third:?}");
}

async fn racing_dials_stay_within_the_limit(rt: &TestRuntime) {
    let node = watchful(rt, |config| {
        config.max_connections = 3;
        config.max_inbound = 0;
        config.exempt_loopback = true;
    });
    let node = node.not_listening().start().await;
    let mut others = Vec::new();
    for _ in 0..8 {
        others.push(rt.start().await);
    }
    let dials = others.iter().map(|other| {
        let (node, addr) = (node.clone(), other.addr());
        rt.spawn(async move { node.connect_with(addr, ConnectOptions::default()).await })
    });
    let outcomes = join_all(dials.collect::<Vec<_>>()).await;
    let made = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(made, 3, "no more, and no fewer: none of them fails for another reason");
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert!(matches!(error, ConnectError::TotalLimit(_)), "{error}");
    }
    meet(rt, &others[0], &others[1]).await;
}
