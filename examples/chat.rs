//! People talk: one line of text is one message.
//!
//! ```text
//! cargo run --features tokio --example chat -- --name alice --listen 127.0.0.1:4000
//! cargo run --features tokio --example chat -- --name bob --connect 127.0.0.1:4000
//! ```
//!
//! Names are exchanged in the handshake. Whoever is to hear everybody connects to everybody:
//! `--connect` can be given more than once. `--script` has three people talk by themselves.

mod common;

use anypea::{
    Config, Connection, DisconnectReason, Handshake, Node, OnConnect, OnDisconnect, Pea2Pea, Peer,
    Queued, Reading, SendError, Writing, bytes::Bytes, codec::LengthDelimited, runtime::Runtime,
};
use futures::{SinkExt, StreamExt, TryStreamExt, channel::mpsc, executor::block_on, select_biased};
use std::{
    io::{self, BufRead},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

/// The longest name and the longest line, in bytes.
const MAX_NAME_BYTES: usize = 32;
const MAX_LINE_BYTES: usize = 1024;
/// Lines that wait to be shown before peers have to wait as well.
const SCREEN_LINES: usize = 100;

fn main() -> ExitCode {
    let mut options = Options::default();
    let usage = "--name NAME [--listen ADDRESS] [--connect ADDRESS]... | --script";
    let runtime = common::arguments(usage, |option, value| {
        match option {
            "name" => options.name = Some(value.parsed(name, "a name in one word")?),
            "listen" => {
                options.listen =
                    Some(value.parsed(|text| text.parse().ok(), "an address with a port")?)
            }
            "connect" => options
                .connect
                .push(value.parsed(|text| text.parse().ok(), "an address with a port")?),
            "script" => options.script = true,
            _ => value.unknown()?,
        }
        Ok(())
    });
    if options.script {
        return runtime.run(script);
    }
    let Some(name) = options.name.take() else {
        common::refuse("who are you? give a --name, or try --script")
    };
    runtime.run(|runtime| talk(runtime, name, options))
}

#[derive(Default)]
struct Options {
    name: Option<String>,
    listen: Option<SocketAddr>,
    connect: Vec<SocketAddr>,
    script: bool,
}

/// Accepts what can be shown as a name: short, visible, in one word.
fn name(text: &str) -> Option<String> {
    let proper = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let fits = (1..=MAX_NAME_BYTES).contains(&text.len()) && text.chars().all(proper);
    fits.then(|| text.to_owned())
}

/// Makes a line harmless: a terminal would obey control characters.
fn harmless(line: &[u8]) -> String {
    String::from_utf8_lossy(line).replace(char::is_control, "?")
}

#[derive(Clone)]
struct Chat {
    node: Node,
    screen: mpsc::Sender<String>,
}

/// What a peer calls itself; kept with the peer.
struct Name(String);

impl Pea2Pea for Chat {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Handshake for Chat {
    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        let mut framed = conn.framed(LengthDelimited::new(MAX_NAME_BYTES));
        framed.send(self.node.name().to_owned().into()).await?;
        let theirs = framed.try_next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        drop(framed);
        let theirs = std::str::from_utf8(&theirs).ok().and_then(name);
        let theirs = theirs.ok_or_else(|| io::Error::other("that is no name"))?;
        let taken = |peer: &Peer| peer.get::<Name>().is_some_and(|name| name.0 == theirs);
        if theirs == self.node.name() || self.node.peers().iter().any(taken) {
            return Err(io::Error::other(format!("the name {theirs} is taken")));
        }
        conn.peer().insert(Name(theirs));
        Ok(conn)
    }
}

impl OnConnect for Chat {
    async fn on_connect(&self, peer: &Peer) {
        self.show(format!("* {} joined", named(peer))).await;
    }
}

impl OnDisconnect for Chat {
    async fn on_disconnect(&self, peer: &Peer, reason: DisconnectReason) {
        self.show(format!("* {} left ({reason})", named(peer))).await;
    }
}

impl Reading for Chat {
    type Codec = LengthDelimited;

    fn codec(&self, _peer: &Peer) -> LengthDelimited {
        LengthDelimited::new(MAX_LINE_BYTES)
    }

    async fn process_message(&self, peer: &Peer, line: Bytes) -> io::Result<()> {
        self.show(format!("{}: {}", named(peer), harmless(&line))).await;
        Ok(())
    }

    /// People may be silent.
    fn idle_timeout(&self) -> Option<Duration> {
        None
    }
}

impl Writing for Chat {
    type Message = Bytes;
    type Codec = LengthDelimited;

    fn codec(&self, _peer: &Peer) -> LengthDelimited {
        LengthDelimited::new(MAX_LINE_BYTES)
    }
}

fn named(peer: &Peer) -> String {
    peer.get::<Name>().map_or_else(|| peer.addr().to_string(), |name| name.0.clone())
}

impl Chat {
    /// Makes a node, and returns it with what it wants to show.
    fn new(
        runtime: &Arc<dyn Runtime>,
        name: String,
        listening_addr: Option<SocketAddr>,
    ) -> io::Result<(Self, mpsc::Receiver<String>)> {
        let config = Config { name: Some(name), listening_addr, ..Config::default() };
        let (screen, shown) = mpsc::channel(SCREEN_LINES);
        let chat = Self { node: Node::new(runtime.clone(), config)?, screen };
        chat.enable_handshake()?;
        chat.enable_on_connect()?;
        chat.enable_on_disconnect()?;
        chat.enable_reading()?;
        chat.enable_writing()?;
        Ok((chat, shown))
    }

    /// Shows a line. While the screen is full, whoever sends us lines has to wait.
    async fn show(&self, line: String) {
        // Nobody looks any more if the program is about to end.
        let _ = self.screen.clone().send(line).await;
    }

    /// Says a line to everybody; returns what is to be told to the speaker.
    fn say(&self, line: &str) -> Vec<String> {
        let answers = self.broadcast(line.to_owned().into());
        if answers.is_empty() {
            return vec!["* nobody is listening".into()];
        }
        let told = |(peer, queued): (Peer, Queued<'static, Bytes>)| match queued.err()? {
            // Whoever is leaving will be seen to leave.
            SendError::NotConnected(_) => None,
            error => Some(format!("* {} didn't get it: {error}", named(&peer))),
        };
        answers.into_iter().filter_map(told).collect()
    }
}

/// Talks with the person at the terminal, until the end of what they type.
async fn talk(runtime: Arc<dyn Runtime>, name: String, options: Options) -> common::Outcome {
    let (chat, shown) = Chat::new(&runtime, name, options.listen)?;
    if options.listen.is_some() {
        println!("* listening on {}; end with ctrl-d", chat.node.start_listening().await?);
    }
    for addr in options.connect {
        chat.node.connect(addr).await?;
    }
    let (mut typed, mut shown) = (typed_lines().fuse(), shown.fuse());
    loop {
        select_biased! {
            line = shown.next() => line.into_iter().for_each(|line| println!("{line}")),
            line = typed.next() => match line {
                Some(line) if line.is_empty() => {}
                Some(line) => chat.say(&line).iter().for_each(|answer| println!("{answer}")),
                None => break,
            },
        }
    }
    drop(shown);
    chat.node.shut_down().await;
    Ok(())
}

/// Reads the terminal in a thread: there is no way to do so that suits every runtime.
fn typed_lines() -> mpsc::Receiver<String> {
    let (mut sender, lines) = mpsc::channel(1);
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if block_on(sender.send(line)).is_err() {
                break;
            }
        }
    });
    lines
}

/// One of the people of the script.
struct Person {
    chat: Chat,
    shown: mpsc::Receiver<String>,
    runtime: Arc<dyn Runtime>,
}

impl Person {
    /// Waits for a line to be shown, and checks that it is the expected one.
    async fn sees(&mut self, expected: &str) -> common::Outcome {
        let line = common::soon(&self.runtime, expected, self.shown.next()).await?;
        let line = line.ok_or("the screen is gone")?;
        println!("{:>5} | {line}", self.chat.node.name());
        if line == expected { Ok(()) } else { Err(format!("expected: {expected}").into()) }
    }

    fn says(&self, line: &str) -> common::Outcome {
        let problems = self.chat.say(line);
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n").into()) }
    }
}

/// Three people meet, talk and part; a fourth one behaves badly.
async fn script(runtime: Arc<dyn Runtime>) -> common::Outcome {
    let person = |name: &str| {
        let anywhere = Some(([127, 0, 0, 1], 0).into());
        let (chat, shown) = Chat::new(&runtime, name.into(), anywhere)?;
        io::Result::Ok(Person { chat, shown, runtime: runtime.clone() })
    };
    let (mut alice, mut bob, mut carol) = (person("alice")?, person("bob")?, person("carol")?);
    let at_alice = alice.chat.node.start_listening().await?;
    let at_bob = bob.chat.node.start_listening().await?;

    bob.chat.node.connect(at_alice).await?;
    alice.sees("* bob joined").await?;
    bob.sees("* alice joined").await?;
    bob.says("is anybody else here?")?;
    alice.sees("bob: is anybody else here?").await?;

    carol.chat.node.connect(at_alice).await?;
    carol.sees("* alice joined").await?;
    alice.sees("* carol joined").await?;
    carol.chat.node.connect(at_bob).await?;
    carol.sees("* bob joined").await?;
    bob.sees("* carol joined").await?;
    carol.says("I am")?;
    alice.sees("carol: I am").await?;
    bob.sees("carol: I am").await?;

    // A second bob is not let in.
    let second = person("bob")?;
    if second.chat.node.connect(at_alice).await.is_ok() {
        // The two handshakes end one after the other, so it may be in for a moment.
        common::soon(&runtime, "alice to turn the second bob away", async {
            while second.chat.node.num_connected() > 0 {
                second.chat.node.sleep(Duration::from_millis(1)).await;
            }
        })
        .await?;
    }
    second.chat.node.shut_down().await;
    if alice.chat.node.num_connected() != 2 {
        return Err("alice has let the second bob in".into());
    }
    println!("the second bob was turned away");

    // Mallory tries to clear the screen, and then sends more than a line may hold.
    let mallory = person("mallory")?;
    let peer = mallory.chat.node.connect(at_alice).await?;
    alice.sees("* mallory joined").await?;
    mallory.says("\x1b[2Jpwned")?;
    alice.sees("mallory: ?[2Jpwned").await?;
    let endless = [&u32::MAX.to_be_bytes()[..], &[b'!'; 2 * MAX_LINE_BYTES]].concat();
    mallory.chat.send_encoded(&peer, endless.into())?;
    alice
        .sees(&format!(
            "* mallory left (undecodable: a frame of {} bytes exceeds the maximum of {MAX_LINE_BYTES})",
            u32::MAX
        ))
        .await?;
    mallory.chat.node.shut_down().await;

    alice.says("you two are fine")?;
    bob.sees("alice: you two are fine").await?;
    carol.sees("alice: you two are fine").await?;
    bob.says("good night")?;
    bob.chat.node.shut_down().await;
    for person in [&mut alice, &mut carol] {
        person.sees("bob: good night").await?;
        person.sees("* bob left (closed by the peer)").await?;
    }
    carol.chat.node.shut_down().await;
    alice.sees("* carol left (closed by the peer)").await?;
    alice.chat.node.shut_down().await;
    Ok(())
}
