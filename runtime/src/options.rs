use std::{net::SocketAddr, time::Duration};

/// Options of a connected TCP socket, whichever side opened it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketOptions {
    /// Sends small segments at once (`TCP_NODELAY`, tcp(7)). On by default: a node writes whole
    /// batches, so Nagle's algorithm could only add delay.
    pub nodelay: bool,
    /// Probes of idle connections (`SO_KEEPALIVE`); none by default.
    pub keepalive: Option<Keepalive>,
    /// How long sent data may stay unacknowledged before the system gives the connection up
    /// (`TCP_USER_TIMEOUT`, RFC 5482; Linux only, ignored elsewhere); the system's own default if
    /// `None`.
    pub user_timeout: Option<Duration>,
    /// Size of the kernel's send buffer in bytes (`SO_SNDBUF`); tuned by the system if `None`.
    pub send_buffer_bytes: Option<usize>,
    /// Size of the kernel's receive buffer in bytes (`SO_RCVBUF`); tuned by the system if `None`.
    pub recv_buffer_bytes: Option<usize>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: None,
            user_timeout: None,
            send_buffer_bytes: None,
            recv_buffer_bytes: None,
        }
    }
}

/// How the system probes an idle connection (RFC 9293, 3.8.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle time before the first probe (`TCP_KEEPIDLE`).
    pub time: Duration,
    /// Time between probes (`TCP_KEEPINTVL`); ignored where the system has no such option.
    pub interval: Duration,
    /// Unanswered probes after which the connection is given up (`TCP_KEEPCNT`); ignored where
    /// the system has no such option.
    pub retries: u32,
}

/// How to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenOptions {
    /// Connections that may wait to be accepted (listen(2)); the system may cap it.
    pub backlog: u32,
    /// Lets other sockets bind the same port (`SO_REUSEPORT`), as hole punching needs; ignored
    /// where the system has no such option.
    pub reuse_port: bool,
    /// Options of the accepted sockets.
    pub socket: SocketOptions,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: 1024, reuse_port: false, socket: SocketOptions::default() }
    }
}

/// How to connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// The address to connect from; chosen by the system if `None`.
    pub local: Option<SocketAddr>,
    /// Lets the local port be shared with other sockets (`SO_REUSEPORT`), as hole punching needs;
    /// ignored where the system has no such option.
    pub reuse_port: bool,
    /// Options of the socket.
    pub socket: SocketOptions,
}
