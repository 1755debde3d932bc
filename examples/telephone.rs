//! A line of nodes passes a sentence on, and each garbles it a little.

mod common;

use anypea::{
    Config, Node, Pea2Pea, Peer, Reading, Side, Topology, Writing, bytes::Bytes,
    codec::LengthDelimited, connect_nodes, runtime::Runtime,
};
use futures::{StreamExt, channel::mpsc};
use std::{io, process::ExitCode, sync::Arc};

const SENTENCE: &str = "every peer that has ever passed a rumour on believes that it was exact";

fn main() -> ExitCode {
    let mut nodes = 10;
    let runtime = common::arguments("[--nodes NUMBER]", |option, value| match option {
        "nodes" => value.number(2..=100).map(|number| nodes = number as usize),
        _ => value.unknown(),
    });
    runtime.run(|runtime| telephone(runtime, nodes))
}

/// What one player makes of what it hears.
struct Whisper {
    player: usize,
    sentence: String,
}

#[derive(Clone)]
struct Player {
    node: Node,
    number: usize,
    whispers: mpsc::UnboundedSender<Whisper>,
}

impl Pea2Pea for Player {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Player {
    type Codec = LengthDelimited;

    fn codec(&self, _peer: &Peer) -> LengthDelimited {
        LengthDelimited::new(1024)
    }

    async fn process_message(&self, _peer: &Peer, message: Bytes) -> io::Result<()> {
        let heard = std::str::from_utf8(&message).map_err(io::Error::other)?;
        self.pass_on(garbled(heard, self.number))
    }
}

impl Writing for Player {
    type Message = Bytes;
    type Codec = LengthDelimited;

    fn codec(&self, _peer: &Peer) -> LengthDelimited {
        LengthDelimited::new(1024)
    }
}

impl Player {
    fn new(
        number: usize,
        runtime: &Arc<dyn Runtime>,
        whispers: &mpsc::UnboundedSender<Whisper>,
    ) -> io::Result<Self> {
        let config = Config {
            name: Some(format!("player {number}")),
            listening_addr: Some(([127, 0, 0, 1], 0).into()),
            ..Config::default()
        };
        let node = Node::new(runtime.clone(), config)?;
        let player = Self { node, number, whispers: whispers.clone() };
        player.enable_reading()?;
        player.enable_writing()?;
        Ok(player)
    }

    /// Whispers into the ear of the next player, if there is one: in a line, each node dials the
    /// next.
    fn pass_on(&self, sentence: String) -> io::Result<()> {
        let whisper = Whisper { player: self.number, sentence: sentence.clone() };
        self.whispers.unbounded_send(whisper).map_err(io::Error::other)?;
        if let Some(next) = self.node.peers().iter().find(|peer| peer.side() == Side::Initiator) {
            self.unicast(next, sentence.into())?;
        }
        Ok(())
    }
}

/// Swaps two neighbouring words, which ones depends on the player.
fn garbled(sentence: &str, player: usize) -> String {
    let mut words: Vec<_> = sentence.split(' ').collect();
    if words.len() > 1 {
        let at = player * 5 % (words.len() - 1);
        words.swap(at, at + 1);
    }
    words.join(" ")
}

async fn telephone(runtime: Arc<dyn Runtime>, nodes: usize) -> common::Outcome {
    let (sender, mut whispers) = mpsc::unbounded();
    let players = (0..nodes)
        .map(|number| Player::new(number, &runtime, &sender))
        .collect::<io::Result<Vec<_>>>()?;
    drop(sender);
    connect_nodes(&players, Topology::Line).await?;

    players[0].pass_on(SENTENCE.into())?;
    let mut expected = SENTENCE.to_owned();
    for number in 0..nodes {
        if number > 0 {
            expected = garbled(&expected, number);
        }
        let Whisper { player, sentence } =
            common::soon(&runtime, "the next whisper", whispers.next())
                .await?
                .ok_or("the line is dead")?;
        println!("{player:>3}: {sentence}");
        if (player, &sentence) != (number, &expected) {
            return Err(format!("player {number} should have whispered: {expected}").into());
        }
    }

    for player in players {
        player.node.shut_down().await;
    }
    Ok(())
}
