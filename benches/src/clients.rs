//! Raw clients: the same for all, and in a process of their own where memory is measured.

use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// Clients of one source address; it has some 28,000 ports.
const CLIENTS_PER_SOURCE: usize = 2500;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connects client number `number`, from one of several loopback addresses.
pub fn dial(addr: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let source = Ipv4Addr::new(127, 0, 1, 1 + (number / CLIENTS_PER_SOURCE) as u8);
    socket.bind(&SockAddr::from(SocketAddr::from((source, 0))))?;
    // Resets in place of FINs: thousands of ports in TIME_WAIT would get into the next one's way.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    socket.connect(&addr.into())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends a frame from each client, and then waits for the answers.
pub fn exchange(clients: &mut [TcpStream], payload: &[u8]) -> io::Result<()> {
    let mut frame = (payload.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(payload);
    let mut answer = vec![0; frame.len()];
    for client in &mut *clients {
        client.write_all(&frame)?;
    }
    for client in &mut *clients {
        client.read_exact(&mut answer)?;
        if answer != frame {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "another answer"));
        }
    }
    Ok(())
}
