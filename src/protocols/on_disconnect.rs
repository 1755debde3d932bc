use super::{Pea2Pea, Timed, install};
use crate::{DisconnectReason, EnableError, Peer};
use std::{sync::Arc, time::Duration};

/// Sees each connection off.
///
/// ```
/// use anypea::{DisconnectReason, Node, OnDisconnect, Pea2Pea, Peer};
/// # #[derive(Clone)]
/// # struct MyNode { node: Node }
/// # impl Pea2Pea for MyNode { fn node(&self) -> &Node { &self.node } }
///
/// impl OnDisconnect for MyNode {
///     async fn on_disconnect(&self, peer: &Peer, reason: DisconnectReason) {
///         println!("{} is gone: {reason}", peer.addr());
///     }
/// }
/// ```
#[doc(alias = "Disconnect")]
pub trait OnDisconnect: Pea2Pea {
    /// Called exactly once for every connection that was registered, as its last hook, and before
    /// its address is free again.
    ///
    /// Unless the connection is reset, it may still send, last words for example: they are
    /// written before the connection is closed.
    fn on_disconnect(
        &self,
        peer: &Peer,
        reason: DisconnectReason,
    ) -> impl Future<Output = ()> + Send;

    /// How long [`on_disconnect`](Self::on_disconnect) may take before it is dropped at its
    /// await. 10 s by default. Read when the protocol is enabled.
    fn on_disconnect_timeout(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// Enables the protocol, before there are connections.
    ///
    /// # Errors
    /// [`EnableError`], if it is enabled already or there are connections.
    fn enable_on_disconnect(&self) -> Result<(), EnableError> {
        let limit = self.on_disconnect_timeout();
        if limit.is_zero() {
            return Err(EnableError::Zero("on_disconnect_timeout"));
        }
        let this = self.clone();
        let call = move |peer: Peer, reason| {
            let this = this.clone();
            Box::pin(async move { this.on_disconnect(&peer, reason).await }) as _
        };
        let hook = Arc::new(Timed { limit, call });
        self.node().inner.enable("OnDisconnect", |on| install(&mut on.on_disconnect, hook.clone()))
    }
}
