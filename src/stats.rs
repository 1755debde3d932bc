//! What has been counted.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

/// What has passed over one connection.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PeerStats {
    /// When the connection was made.
    pub since: Instant,
    /// Messages decoded and handed to [`process_message`](crate::Reading::process_message).
    pub messages_received: u64,
    /// Bytes received, those that were discarded included.
    pub bytes_received: u64,
    /// Messages written whole.
    pub messages_sent: u64,
    /// Bytes written.
    pub bytes_sent: u64,
    /// Bytes queued now.
    pub queued_bytes: usize,
    /// Bytes queued at most at one time.
    pub max_queued_bytes: usize,
}

/// What has passed over all connections of a node, former ones included.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct NodeStats {
    /// When the node was made.
    pub since: Instant,
    /// Connections registered so far.
    pub connections: u64,
    /// Messages decoded and handed to [`process_message`](crate::Reading::process_message).
    pub messages_received: u64,
    /// Bytes received, those that were discarded included.
    pub bytes_received: u64,
    /// Messages written whole.
    pub messages_sent: u64,
    /// Bytes written.
    pub bytes_sent: u64,
    /// Bytes queued now, over all connections.
    pub queued_bytes: usize,
    /// Bytes queued at most at one time on one connection.
    pub max_queued_bytes: usize,
}

impl NodeStats {
    pub(crate) fn new(since: Instant) -> Self {
        Self {
            since,
            connections: 0,
            messages_received: 0,
            bytes_received: 0,
            messages_sent: 0,
            bytes_sent: 0,
            queued_bytes: 0,
            max_queued_bytes: 0,
        }
    }

    pub(crate) fn add(&mut self, peer: &PeerStats) {
        self.connections += 1;
        self.messages_received += peer.messages_received;
        self.bytes_received += peer.bytes_received;
        self.messages_sent += peer.messages_sent;
        self.bytes_sent += peer.bytes_sent;
        self.queued_bytes += peer.queued_bytes;
        self.max_queued_bytes = self.max_queued_bytes.max(peer.max_queued_bytes);
    }
}

/// How often something happened that no hook can see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Heuristics {
    /// Inbound connections rejected: there was one with the address, or one being set up.
    pub rejected_duplicate: u64,
    /// Inbound connections rejected: they came from the node itself.
    pub rejected_own: u64,
    /// Inbound connections rejected: the limit per IP address.
    pub rejected_ip: u64,
    /// Inbound connections rejected: the limit per network prefix.
    pub rejected_prefix: u64,
    /// Inbound connections rejected: the limit on all, or on inbound connections.
    pub rejected_total: u64,
    /// Inbound connections rejected by [`admit`](crate::Handshake::admit).
    pub rejected_by_admission: u64,
    /// Connections, inbound or outbound, for which there was no set-up budget, and pauses of
    /// accepting for the same reason.
    pub rejected_budget: u64,
    /// Errors of accept(2), descriptor exhaustion among them.
    pub accept_errors: u64,
    /// Handshakes that failed, time-outs not included.
    pub handshake_errors: u64,
    /// Handshakes that took too long.
    pub handshake_timeouts: u64,
    /// Connections that ended because they were idle.
    pub idle_timeouts: u64,
    /// Connections that ended because the peer read too slowly.
    pub write_timeouts: u64,
    /// Hooks that were not over within their time limit.
    pub hook_timeouts: u64,
    /// Hooks and codecs that panicked.
    pub hook_panics: u64,
    /// Connections that ended with queued bytes undelivered, though their end was a graceful one.
    pub lingers_expired: u64,
}

/// The counters behind [`Heuristics`], in the same order.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) rejected_duplicate: AtomicU64,
    pub(crate) rejected_own: AtomicU64,
    pub(crate) rejected_ip: AtomicU64,
    pub(crate) rejected_prefix: AtomicU64,
    pub(crate) rejected_total: AtomicU64,
    pub(crate) rejected_by_admission: AtomicU64,
    pub(crate) rejected_budget: AtomicU64,
    pub(crate) accept_errors: AtomicU64,
    pub(crate) handshake_errors: AtomicU64,
    pub(crate) handshake_timeouts: AtomicU64,
    pub(crate) idle_timeouts: AtomicU64,
    pub(crate) write_timeouts: AtomicU64,
    pub(crate) hook_timeouts: AtomicU64,
    pub(crate) hook_panics: AtomicU64,
    pub(crate) lingers_expired: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Counters {
    pub(crate) fn read(&self) -> Heuristics {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        Heuristics {
            rejected_duplicate: get(&self.rejected_duplicate),
            rejected_own: get(&self.rejected_own),
            rejected_ip: get(&self.rejected_ip),
            rejected_prefix: get(&self.rejected_prefix),
            rejected_total: get(&self.rejected_total),
            rejected_by_admission: get(&self.rejected_by_admission),
            rejected_budget: get(&self.rejected_budget),
            accept_errors: get(&self.accept_errors),
            handshake_errors: get(&self.handshake_errors),
            handshake_timeouts: get(&self.handshake_timeouts),
            idle_timeouts: get(&self.idle_timeouts),
            write_timeouts: get(&self.write_timeouts),
            hook_timeouts: get(&self.hook_timeouts),
            hook_panics: get(&self.hook_panics),
            lingers_expired: get(&self.lingers_expired),
        }
    }
}
