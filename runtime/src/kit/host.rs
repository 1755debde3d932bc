//! What a case has in its hands.

use super::Harness;
use crate::{ConnectOptions, ListenOptions, Listener, Runtime, Stream, Timer};
use futures_channel::oneshot;
use futures_util::future::join;
use std::{
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr},
    ops::Deref,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

/// The runtime under test, and the address on which to try it.
#[derive(Clone)]
pub(super) struct Host {
    runtime: Arc<dyn Runtime>,
    ip: IpAddr,
}

impl Deref for Host {
    type Target = dyn Runtime;

    fn deref(&self) -> &Self::Target {
        &*self.runtime
    }
}

impl Host {
    pub(super) fn of(harness: &dyn Harness) -> Self {
        Self { runtime: harness.runtime(), ip: harness.ip() }
    }

    /// Returns the host's address with port 0.
    pub(super) fn any_port(&self) -> SocketAddr {
        SocketAddr::new(self.ip, 0)
    }

    /// Listens on a free port, and returns its address too.
    pub(super) async fn listen_with(
        &self,
        options: &ListenOptions,
    ) -> (Box<dyn Listener>, SocketAddr) {
        let listener = self.runtime.listen(self.any_port(), options).await.expect("listen");
        let addr = listener.local_addr().expect("the listener's address");
        assert_ne!(addr.port(), 0, "a listener knows the port that the system chose");
        (listener, addr)
    }

    pub(super) async fn listen(&self) -> (Box<dyn Listener>, SocketAddr) {
        self.listen_with(&ListenOptions::default()).await
    }

    pub(super) async fn listen_on(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>> {
        self.runtime.listen(addr, &ListenOptions::default()).await
    }

    pub(super) async fn dial(&self, addr: SocketAddr) -> io::Result<Stream> {
        self.runtime.connect(addr, &ConnectOptions::default()).await
    }

    /// Returns both ends of a new connection, the dialed one first.
    pub(super) async fn pair_with(
        &self,
        dialed: &ConnectOptions,
        accepted: &ListenOptions,
    ) -> (Stream, Stream) {
        let (mut listener, addr) = self.listen_with(accepted).await;
        let dial = self.runtime.connect(addr, dialed);
        let (dialed, accepted) = join(dial, accept(&mut listener)).await;
        (dialed.expect("connect"), accepted.expect("accept").0)
    }

    pub(super) async fn pair(&self) -> (Stream, Stream) {
        self.pair_with(&ConnectOptions::default(), &ListenOptions::default()).await
    }

    /// Returns a timer that fires after this much time.
    pub(super) fn after(&self, time: Duration) -> Pin<Box<dyn Timer>> {
        self.runtime.timer(self.runtime.now() + time)
    }

    /// Spawns `task`, and returns where its result will be.
    pub(super) fn start<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (report, result) = oneshot::channel();
        self.runtime.spawn(Box::pin(async move {
            // A case that has failed meanwhile waits for nothing.
            let _ = report.send(task.await);
        }));
        result
    }
}

pub(super) async fn accept(listener: &mut Box<dyn Listener>) -> io::Result<(Stream, SocketAddr)> {
    poll_fn(|cx| listener.poll_accept(cx)).await
}
