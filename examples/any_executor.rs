//! Nodes on an executor that anypea knows nothing of: the thread pool of the `futures` crate.
//!
//! All it takes is a closure that spawns. Clock and network come from the smol adapter, which
//! needs no executor of its own.

use anypea::{
    BoxError, Config, Connection, Handshake, Node, Pea2Pea, Smol, codec::LengthDelimited,
};
use futures::{SinkExt, TryStreamExt, executor::ThreadPool, executor::block_on};
use std::io;

fn main() -> Result<(), BoxError> {
    let pool = ThreadPool::new()?;
    let runtime = Smol::with_spawner(move |task| pool.spawn_ok(task));

    let listening_addr = Some(([127, 0, 0, 1], 0).into());
    let alice =
        Greeter(Node::new(runtime.clone(), Config { listening_addr, ..Config::default() })?);
    let bob = Greeter(Node::new(runtime, Config::default())?);
    alice.enable_handshake()?;
    bob.enable_handshake()?;
    block_on(async {
        bob.0.connect(alice.0.start_listening().await?).await?;
        bob.0.shut_down().await;
        alice.0.shut_down().await;
        Ok(())
    })
}

#[derive(Clone)]
struct Greeter(Node);

impl Pea2Pea for Greeter {
    fn node(&self) -> &Node {
        &self.0
    }
}

impl Handshake for Greeter {
    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        let mut framed = conn.framed(LengthDelimited::new(100));
        framed.send(format!("hello from {}", self.0.name()).into()).await?;
        let heard = framed.try_next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        println!("{} heard {:?}", self.0.name(), heard);
        drop(framed);
        Ok(conn)
    }
}
