use super::{Pea2Pea, Timed, install};
use crate::{EnableError, Peer};
use std::{sync::Arc, time::Duration};

/// Greets each new connection.
///
/// ```
/// use anypea::{Node, OnConnect, Pea2Pea, Peer};
/// # #[derive(Clone)]
/// # struct MyNode { node: Node }
/// # impl Pea2Pea for MyNode { fn node(&self) -> &Node { &self.node } }
///
/// impl OnConnect for MyNode {
///     async fn on_connect(&self, peer: &Peer) {
///         println!("connected with {}", peer.addr());
///     }
/// }
/// ```
pub trait OnConnect: Pea2Pea {
    /// Called once for each connection, after it has been registered: the connection can be sent
    /// to. It is over before the first message is processed.
    ///
    /// It is dropped at its await when the connection is to end meanwhile. A panic ends the
    /// connection.
    fn on_connect(&self, peer: &Peer) -> impl Future<Output = ()> + Send;

    /// How long [`on_connect`](Self::on_connect) may take before the connection is reset. 10 s by
    /// default. Read when the protocol is enabled.
    fn on_connect_timeout(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// Enables the protocol, before there are connections.
    ///
    /// # Errors
    /// [`EnableError`], if it is enabled already or there are connections.
    fn enable_on_connect(&self) -> Result<(), EnableError> {
        let limit = self.on_connect_timeout();
        if limit.is_zero() {
            return Err(EnableError::Zero("on_connect_timeout"));
        }
        let this = self.clone();
        let call = move |peer: Peer| {
            let this = this.clone();
            Box::pin(async move { this.on_connect(&peer).await }) as _
        };
        let hook = Arc::new(Timed { limit, call });
        self.node().inner.enable("OnConnect", |on| install(&mut on.on_connect, hook.clone()))
    }
}
