//! Reading, writing, closing a direction.

use super::{End, Fin, NONE, State, listening::gone};
use crate::world::{World, register};
use std::{
    io::{self, IoSlice},
    task::{Context, Poll},
};

impl World {
    /// Returns the end of a socket, unless its host has crashed.
    fn usable_mut(&mut self, index: u32, serial: u32) -> Option<&mut End> {
        self.end_mut(index, serial).filter(|end| !end.orphan)
    }

    pub(crate) fn poll_read(
        &mut self,
        index: u32,
        serial: u32,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let short_io = self.network.short_io;
        let Some(end) = self.usable_mut(index, serial) else { return Poll::Ready(Err(gone())) };
        if !end.received.is_empty() && !buf.is_empty() {
            let mut bytes = end.received.len().min(buf.len());
            if bytes > 1 && end.random.chance(short_io) {
                bytes = 1 + end.random.below(bytes as u64 - 1) as usize;
            }
            let (front, back) = end.received.as_slices();
            let first = bytes.min(front.len());
            buf[..first].copy_from_slice(&front[..first]);
            buf[first..bytes].copy_from_slice(&back[..bytes - first]);
            if bytes == end.received.len() {
                let emptied = std::mem::take(&mut end.received);
                self.recycle(emptied);
            } else {
                end.received.drain(..bytes);
            }
            self.has_read(index);
            return Poll::Ready(Ok(bytes));
        }
        if end.fin_received || buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if let State::Dead(kind) = end.state {
            return Poll::Ready(Err(kind.into()));
        }
        let end = &mut self.ends[index as usize];
        register(&mut end.reader, cx.waker(), self.task, &mut self.dropped);
        Poll::Pending
    }

    /// Tells a peer that waits for room in the window, once there is enough of it to be worth a
    /// segment (RFC 9293, 3.8.6.2.2: avoiding silly windows).
    fn has_read(&mut self, index: u32) {
        let end = &self.ends[index as usize];
        if end.peer == NONE {
            return;
        }
        let peer = &self.ends[end.peer as usize];
        let room = end.window.saturating_sub(end.received.len() + peer.out.in_flight);
        if peer.unsent() > 0 && room * 2 >= end.window {
            self.tell_of_room(end.peer);
        }
    }

    pub(crate) fn poll_write(
        &mut self,
        index: u32,
        serial: u32,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let short_io = self.network.short_io;
        let Some(end) = self.usable_mut(index, serial) else { return Poll::Ready(Err(gone())) };
        if let State::Dead(kind) = end.state {
            let after_fin = end.fin_received || end.out.fin != Fin::No;
            let kind = if after_fin { io::ErrorKind::BrokenPipe } else { kind };
            return Poll::Ready(Err(kind.into()));
        }
        if end.out.fin != Fin::No {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let wanted = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        let mut bytes = wanted.min(end.out.capacity.saturating_sub(end.out.bytes.len()));
        if bytes == 0 && wanted > 0 {
            let end = &mut self.ends[index as usize];
            register(&mut end.writer, cx.waker(), self.task, &mut self.dropped);
            return Poll::Pending;
        }
        if bytes > 1 && end.random.chance(short_io) {
            bytes = 1 + end.random.below(bytes as u64 - 1) as usize;
        }
        if end.out.bytes.capacity() == 0 && bytes > 0 {
            let buffer = self.buffer();
            self.ends[index as usize].out.bytes = buffer;
        }
        let end = &mut self.ends[index as usize];
        let mut left = bytes;
        for buf in bufs {
            let part = &buf[..left.min(buf.len())];
            end.out.bytes.extend(part);
            left -= part.len();
        }
        self.transmit(index);
        Poll::Ready(Ok(bytes))
    }

    /// Sends a FIN after what was written before.
    pub(crate) fn close_write(&mut self, index: u32, serial: u32) -> io::Result<()> {
        let Some(end) = self.usable_mut(index, serial) else { return Err(gone()) };
        if end.state == State::Open && end.out.fin == Fin::No {
            end.out.fin = Fin::Queued;
            let writer = end.writer.take();
            self.woken.extend(writer);
            self.transmit(index);
        }
        Ok(())
    }
}
