//! What a node is told when it is made.

use crate::ConfigError;
use anypea_runtime::{ListenOptions, SocketOptions};
use std::{net::SocketAddr, time::Duration};

/// The configuration of a [`Node`](crate::Node).
///
/// ```
/// use anypea::Config;
///
/// let config = Config {
///     name: Some("alice".into()),
///     listening_addr: Some("127.0.0.1:0".parse().unwrap()),
///     ..Config::default()
/// };
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// The name that the node's spans carry; a random one if `None`.
    pub name: Option<String>,
    /// The address to listen on; port 0 lets the system choose. `None` by default.
    pub listening_addr: Option<SocketAddr>,
    /// Connections that may wait to be accepted. 1,024 by default.
    pub backlog: u32,
    /// Lets dials share the listening port, as hole punching needs. Off by default.
    pub reuse_port: bool,
    /// Options of every socket of the node.
    pub socket: SocketOptions,

    /// Connections at most, those being set up or ending included. 100 by default.
    pub max_connections: usize,
    /// Inbound connections at most; below [`max_connections`](Self::max_connections), so that a
    /// flood from outside can't take the last slot for our own dials. 90 by default.
    pub max_inbound: usize,
    /// Connections at most with one IP address. 8 by default.
    pub max_per_ip: usize,
    /// Connections at most with one network prefix. 32 by default.
    pub max_per_prefix: usize,
    /// The length of such a prefix for IPv4, in bits. 24 by default.
    pub ipv4_prefix_bits: u8,
    /// The length of such a prefix for IPv6, in bits. 56 by default.
    pub ipv6_prefix_bits: u8,
    /// Doesn't count loopback addresses towards the limits per IP and prefix. On by default.
    pub exempt_loopback: bool,
    /// Doesn't count private (RFC 1918), unique local (RFC 4193) and link-local addresses (RFC
    /// 3927, RFC 4291) towards the limits per IP and prefix. Off by default.
    pub exempt_private: bool,
    /// Inbound connections that may be in set-up at one time; while there are as many, accepting
    /// pauses. 64 by default.
    pub max_inbound_setups: usize,
    /// Dials that may be in set-up at one time. 64 by default.
    pub max_outbound_setups: usize,

    /// How long a dial may take until the connection stands. 3 s by default.
    pub connect_timeout: Duration,
    /// How long the end of a connection may take, from the end of
    /// [`on_disconnect`](crate::OnDisconnect::on_disconnect) to the release of its address. 30 s
    /// by default.
    pub close_timeout: Duration,
    /// How long the end of a connection goes on without a byte arriving or being written. 5 s by
    /// default.
    pub linger_quiet: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: None,
            listening_addr: None,
            backlog: ListenOptions::default().backlog,
            reuse_port: false,
            socket: SocketOptions::default(),
            max_connections: 100,
            max_inbound: 90,
            max_per_ip: 8,
            max_per_prefix: 32,
            ipv4_prefix_bits: 24,
            ipv6_prefix_bits: 56,
            exempt_loopback: true,
            exempt_private: false,
            max_inbound_setups: 64,
            max_outbound_setups: 64,
            connect_timeout: Duration::from_secs(3),
            close_timeout: Duration::from_secs(30),
            linger_quiet: Duration::from_secs(5),
        }
    }
}

impl Config {
    /// Checks that the settings make sense, alone and together.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("backlog", self.backlog as usize),
            ("max_connections", self.max_connections),
            ("max_per_ip", self.max_per_ip),
            ("max_per_prefix", self.max_per_prefix),
            ("max_inbound_setups", self.max_inbound_setups),
            ("max_outbound_setups", self.max_outbound_setups),
        ];
        let times = [
            ("connect_timeout", self.connect_timeout),
            ("close_timeout", self.close_timeout),
            ("linger_quiet", self.linger_quiet),
        ];
        let zero_size = sizes.iter().find(|(_, size)| *size == 0).map(|(setting, _)| *setting);
        let zero_time = times.iter().find(|(_, time)| time.is_zero()).map(|(setting, _)| *setting);
        if let Some(setting) = zero_size.or(zero_time) {
            return Err(ConfigError::Zero(setting));
        }
        let bounded = [
            (
                "max_inbound",
                self.max_inbound,
                self.max_connections - 1,
                "it must stay below `max_connections`",
            ),
            (
                "max_per_ip",
                self.max_per_ip,
                self.max_per_prefix,
                "an address has one prefix: `max_per_prefix`",
            ),
            ("ipv4_prefix_bits", self.ipv4_prefix_bits.into(), 32, "the length of an IPv4 address"),
            (
                "ipv6_prefix_bits",
                self.ipv6_prefix_bits.into(),
                128,
                "the length of an IPv6 address",
            ),
        ];
        for (setting, value, bound, why) in bounded {
            if value > bound {
                return Err(ConfigError::TooLarge { setting, value, bound, why });
            }
        }
        Ok(())
    }
}
