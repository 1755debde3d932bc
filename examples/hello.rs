//! Two nodes exchange greetings.

mod common;

use anypea::{
    Config, Node, OnConnect, Pea2Pea, Peer, Reading, Writing, bytes::Bytes, codec::LengthDelimited,
    runtime::Runtime,
};
use futures::{StreamExt, channel::mpsc};
use std::{io, process::ExitCode, sync::Arc};

fn main() -> ExitCode {
    common::arguments("", |_, value| value.unknown()).run(hello)
}

/// A node that greets whom it meets, and passes the greetings on that it gets.
#[derive(Clone)]
struct Greeter {
    node: Node,
    greetings: mpsc::UnboundedSender<String>,
}

impl Pea2Pea for Greeter {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl OnConnect for Greeter {
    async fn on_connect(&self, peer: &Peer) {
        let greeting = format!("{} says hello", self.node.name());
        if let Err(error) = self.unicast(peer, greeting.into()) {
            eprintln!("not greeted: {error}");
        }
    }
}

impl Writing for Greeter {
    type Message = Bytes;
    type Codec = LengthDelimited;

    fn codec(&self, _peer: &Peer) -> LengthDelimited {
        LengthDelimited::new(1024)
    }
}

impl Reading for Greeter {
    type Codec = LengthDelimited;

    fn codec(&self, _peer: &Peer) -> LengthDelimited {
        LengthDelimited::new(1024)
    }

    async fn process_message(&self, _peer: &Peer, message: Bytes) -> io::Result<()> {
        let greeting = String::from_utf8_lossy(&message).into_owned();
        self.greetings.unbounded_send(greeting).map_err(io::Error::other)
    }
}

impl Greeter {
    fn new(
        name: &str,
        runtime: &Arc<dyn Runtime>,
        greetings: &mpsc::UnboundedSender<String>,
    ) -> io::Result<Self> {
        let config = Config {
            name: Some(name.into()),
            listening_addr: Some(([127, 0, 0, 1], 0).into()),
            ..Config::default()
        };
        let greeter =
            Self { node: Node::new(runtime.clone(), config)?, greetings: greetings.clone() };
        greeter.enable_on_connect()?;
        greeter.enable_writing()?;
        greeter.enable_reading()?;
        Ok(greeter)
    }
}

async fn hello(runtime: Arc<dyn Runtime>) -> common::Outcome {
    let (sender, mut greetings) = mpsc::unbounded();
    let alice = Greeter::new("alice", &runtime, &sender)?;
    let bob = Greeter::new("bob", &runtime, &sender)?;
    drop(sender);

    let addr = alice.node.start_listening().await?;
    println!("alice listens on {addr}");
    bob.node.connect(addr).await?;
    for _ in 0..2 {
        let greeting = common::soon(&runtime, "a greeting", greetings.next()).await?;
        println!("{}", greeting.ok_or("a greeting is missing")?);
    }

    bob.node.shut_down().await;
    alice.node.shut_down().await;
    Ok(())
}
