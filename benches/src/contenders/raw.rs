//! The physical limit: two threads that move bytes over non-blocking sockets, without frames, and
//! with the buffer size that is best. Nothing here can be faster, but for what many messages in
//! one buffer cost.

use super::{ANY_PORT, BUFFERS};
use crate::{
    contender::Tuning,
    measure::{Figure, Unit},
    workloads::{Pace, Workload},
};
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use socket2::SockRef;
use std::{
    io::{self, ErrorKind, Read, Write},
    thread,
    time::{Duration, Instant},
};

/// Its name in tables.
pub const NAME: &str = "physical-limit";
const HEADER_BYTES: usize = 4;
/// What the kernel may hold of it, on either side: more than the cache holds would be slower.
const KERNEL_BYTES: usize = 128 * 1024;
const DEFAULT_BYTES: usize = 256 * 1024;

/// The buffers that are tried.
pub const TUNINGS: &[Tuning] = BUFFERS;

/// Moves bytes for a while, and tells how many messages of a stream that would be.
pub fn run(workload: &Workload, tuning: Tuning, pace: &Pace) -> io::Result<Vec<Figure>> {
    let Workload::Stream { bytes } = *workload else {
        return Err(io::Error::other("there is no limit for this"));
    };
    let size = if let Tuning::Buffer(kib) = tuning { kib * 1024 } else { DEFAULT_BYTES };
    let listener = std::net::TcpListener::bind(ANY_PORT)?;
    let sending = std::net::TcpStream::connect(listener.local_addr()?)?;
    let (receiving, _) = listener.accept()?;
    for stream in [&sending, &receiving] {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let socket = SockRef::from(stream);
        socket.set_send_buffer_size(KERNEL_BYTES)?;
        socket.set_recv_buffer_size(KERNEL_BYTES)?;
    }
    let time = pace.time;
    let sender = thread::spawn(move || send(TcpStream::from_std(sending), size, time));
    let received = receive(TcpStream::from_std(receiving), size);
    sender.join().map_err(|_| io::Error::other("the sender panicked"))??;
    let rate = received? / (HEADER_BYTES + bytes) as f64;
    Ok(Figure::only(rate, Unit::PerSecond))
}

fn send(mut stream: TcpStream, size: usize, time: Duration) -> io::Result<()> {
    let buffer = vec![0xA5; size];
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(1));
    poll.registry().register(&mut stream, Token(0), Interest::WRITABLE)?;
    let start = Instant::now();
    while start.elapsed() < time {
        match stream.write(&buffer) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => poll.poll(&mut events, None)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the bytes received per second.
fn receive(mut stream: TcpStream, size: usize) -> io::Result<f64> {
    let mut buffer = vec![0; size];
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(1));
    poll.registry().register(&mut stream, Token(0), Interest::READABLE)?;
    let (start, mut received) = (Instant::now(), 0);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(received as f64 / start.elapsed().as_secs_f64()),
            Ok(count) => received += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => poll.poll(&mut events, None)?,
            Err(error) => return Err(error),
        }
    }
}
