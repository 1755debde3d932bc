//! Socket options, where there is a socket to have them.

use super::{Case, host::Host};
use crate::{ConnectOptions, Keepalive, ListenOptions, SocketOptions};
use std::time::Duration;

pub(super) const CASES: &[Case] = &[
    Case::inside("options_reach_both_ends", |host| Box::pin(options_reach_both_ends(host))),
    Case::inside("options_differ_between_the_ends", |host| {
        Box::pin(options_differ_between_the_ends(host))
    }),
];

fn unusual() -> SocketOptions {
    SocketOptions {
        keepalive: Some(Keepalive {
            time: Duration::from_secs(71),
            interval: Duration::from_secs(7),
            retries: 5,
        }),
        user_timeout: Some(Duration::from_millis(12_345)),
        ..SocketOptions::default()
    }
}

async fn options_reach_both_ends(host: Host) {
    let dialed = ConnectOptions { socket: unusual(), ..ConnectOptions::default() };
    let accepted = ListenOptions { socket: unusual(), ..ListenOptions::default() };
    let (dialed, accepted) = host.pair_with(&dialed, &accepted).await;
    for (end, stream) in [("dialed", dialed), ("accepted", accepted)] {
        let Some(socket) = stream.socket().sock_ref() else { return };
        assert!(socket.tcp_nodelay().expect("TCP_NODELAY"), "{end}: nodelay");
        assert!(socket.keepalive().expect("SO_KEEPALIVE"), "{end}: keepalive");
        #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
        {
            let time = socket.tcp_keepalive_time().expect("TCP_KEEPIDLE");
            assert_eq!(time, Duration::from_secs(71), "{end}: keepalive time");
            let interval = socket.tcp_keepalive_interval().expect("TCP_KEEPINTVL");
            assert_eq!(interval, Duration::from_secs(7), "{end}: keepalive interval");
            let retries = socket.tcp_keepalive_retries().expect("TCP_KEEPCNT");
            assert_eq!(retries, 5, "{end}: keepalive retries");
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            let timeout = socket.tcp_user_timeout().expect("TCP_USER_TIMEOUT");
            assert_eq!(timeout, Some(Duration::from_millis(12_345)), "{end}: user timeout");
        }
    }
}

async fn options_differ_between_the_ends(host: Host) {
    let plain = SocketOptions { nodelay: false, ..SocketOptions::default() };
    let dialed = ConnectOptions { socket: unusual(), ..ConnectOptions::default() };
    let accepted = ListenOptions { socket: plain, ..ListenOptions::default() };
    let (dialed, accepted) = host.pair_with(&dialed, &accepted).await;
    let (Some(dialed), Some(accepted)) = (dialed.socket().sock_ref(), accepted.socket().sock_ref())
    else {
        return;
    };
    assert!(dialed.tcp_nodelay().expect("TCP_NODELAY"));
    assert!(dialed.keepalive().expect("SO_KEEPALIVE"));
    assert!(!accepted.tcp_nodelay().expect("TCP_NODELAY"));
    assert!(!accepted.keepalive().expect("SO_KEEPALIVE"));
}
