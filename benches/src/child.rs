//! A process of its own for whatever is measured whole: this very program, started again, told
//! what to do line by line.

use crate::{
    bed::Bed,
    contender::{Contender, Duty, Host, Setup, Tuning},
    entry::{self, Entry},
    measure::resident_bytes,
    workloads::wait_until,
};
use bytes::Bytes;
use cpu_time::ProcessTime;
use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    process::{self, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

/// The argument that makes the program a child.
const CHILD: &str = "--child";

/// A child process. It is killed when dropped.
pub struct Child {
    process: process::Child,
    orders: ChildStdin,
    reports: BufReader<ChildStdout>,
    addr: Option<SocketAddr>,
}

/// What a child can do for an entry.
#[derive(Clone, Copy)]
pub struct Parts {
    serve: fn(usize, Tuning) -> io::Result<()>,
    nodes: fn(usize, Tuning) -> io::Result<()>,
}

impl Child {
    fn start(entry: &Entry, part: &str, size: usize) -> io::Result<Self> {
        let mut process = Command::new(env::current_exe()?)
            .args([CHILD, part, &entry.to_string(), &size.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(orders), Some(reports)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(io::Error::other("a child without pipes"));
        };
        Ok(Self { process, orders, reports: BufReader::new(reports), addr: None })
    }

    /// Starts a server that sends every message back, and is ready for so many connections.
    pub fn serve(entry: &Entry, connections: usize) -> io::Result<Self> {
        let mut child = Self::start(entry, "serve", connections)?;
        child.addr = Some(child.report()?.parse().map_err(io::Error::other)?);
        Ok(child)
    }

    /// Has nodes started and shut down, and returns the memory of each, and the times for all.
    pub fn nodes(entry: &Entry, nodes: usize) -> io::Result<[f64; 3]> {
        let mut child = Self::start(entry, "nodes", nodes)?;
        let mut measured = [0.0; 3];
        for value in &mut measured {
            *value = child.report()?.parse().map_err(io::Error::other)?;
        }
        child.quit()?;
        Ok(measured)
    }

    /// Returns the server's address.
    pub fn addr(&self) -> SocketAddr {
        self.addr.expect("a server")
    }

    /// Waits until there are exactly so many connections.
    pub fn wait_for(&mut self, connections: usize) -> io::Result<()> {
        self.order(&format!("wait {connections}")).map(drop)
    }

    /// Returns the bytes of memory that are resident.
    pub fn memory(&mut self) -> io::Result<f64> {
        self.order("memory")?.parse().map_err(io::Error::other)
    }

    /// Returns the seconds of CPU time used so far.
    pub fn cpu(&mut self) -> io::Result<f64> {
        self.order("cpu")?.parse().map_err(io::Error::other)
    }

    /// Has a message of so many bytes broadcast, and returns how long it took to queue it.
    pub fn broadcast(&mut self, bytes: usize) -> io::Result<f64> {
        self.order(&format!("broadcast {bytes}"))?.parse().map_err(io::Error::other)
    }

    /// Has the process end.
    pub fn quit(mut self) -> io::Result<()> {
        writeln!(self.orders, "quit")?;
        self.process.wait().map(drop)
    }

    fn order(&mut self, order: &str) -> io::Result<String> {
        writeln!(self.orders, "{order}")?;
        self.report()
    }

    fn report(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.reports.read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the child has ended"));
        }
        Ok(line.trim_end().into())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It has ended already, unless something went wrong.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Does a child's work, if this process was started as one. To be called first of all.
pub fn is_child() -> io::Result<bool> {
    let mut args = env::args().skip(1);
    if args.next().as_deref() != Some(CHILD) {
        return Ok(false);
    }
    let (Some(part), Some(name), Some(size)) = (args.next(), args.next(), args.next()) else {
        return Err(io::Error::other("a child without work"));
    };
    let entries = entry::all();
    let entry = entries.iter().find(|entry| entry.to_string() == name);
    let entry = entry.ok_or_else(|| io::Error::other("unknown to the child"))?;
    let size = size.parse().map_err(io::Error::other)?;
    let parts = entry.parts.ok_or_else(|| io::Error::other("nothing for a child"))?;
    let part = if part == "nodes" { parts.nodes } else { parts.serve };
    part(size, entry.tunings[0])?;
    Ok(true)
}

impl Parts {
    /// Returns what a child can do for a contender.
    pub fn of<C: Contender>() -> Self {
        Self { serve: serve::<C>, nodes: nodes::<C> }
    }
}

fn serve<C: Contender>(connections: usize, tuning: Tuning) -> io::Result<()> {
    let setup = Setup { connections, ..Setup::new(tuning) }.listening();
    C::Bed::run(async {
        let server = C::host(setup, Duty::Echo).await?;
        println!("{}", server.addr());
        for line in io::stdin().lines() {
            let line = line?;
            let (order, number) = line.split_once(' ').unwrap_or((&line, "0"));
            let number: usize = number.parse().map_err(io::Error::other)?;
            match order {
                "wait" => {
                    wait_until("the number is right", || server.live() == number)?;
                    println!("ok");
                }
                "memory" => println!("{}", resident_bytes()?),
                "cpu" => println!("{}", ProcessTime::now().as_duration().as_secs_f64()),
                "broadcast" => {
                    let message = Bytes::from(vec![0; number]);
                    let start = Instant::now();
                    server.broadcast(&message).await?;
                    println!("{}", start.elapsed().as_secs_f64());
                }
                _ => break,
            }
        }
        // What is left ends with the process.
        process::exit(0)
    })
}

fn nodes<C: Contender>(nodes: usize, tuning: Tuning) -> io::Result<()> {
    let setup = Setup::new(tuning).listening();
    C::Bed::run(async {
        // What the first node brings with it isn't counted.
        C::host(setup, Duty::Discard).await?.shut_down().await;
        let before = resident_bytes()?;
        let start = Instant::now();
        let mut hosts = Vec::with_capacity(nodes);
        for _ in 0..nodes {
            hosts.push(C::host(setup, Duty::Discard).await?);
        }
        let started = start.elapsed();
        println!("{}", (resident_bytes()?.saturating_sub(before).max(1)) as f64 / nodes as f64);
        println!("{}", started.as_secs_f64());
        let start = Instant::now();
        for host in hosts {
            host.shut_down().await;
        }
        println!("{}", start.elapsed().as_secs_f64());
        Ok(())
    })
}
