//! What is due when: a hierarchical timing wheel with a small heap for what is due next.
//!
//! A heap alone costs a path of cache misses for each event once there are a million of them, and
//! can't forget what is cancelled. Here an entry is put into the list of a slot, and cancelled out
//! of it, in a few instructions; only the entries of the current 16 µs are sorted.

use std::{cmp::Reverse, collections::BinaryHeap, num::NonZeroU32};

/// An entry of a [`Queue`], until it is taken out or cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(NonZeroU32);

/// Nanoseconds of a bucket, as a power of two.
const BUCKET_BITS: u32 = 14;
/// Slots of a level, as a power of two.
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = (u64::BITS - BUCKET_BITS).div_ceil(SLOT_BITS) as usize;
const NONE: u32 = u32::MAX;
/// In the heap instead of a slot.
const NEAR: u16 = u16::MAX;
/// Not in the queue.
const FREE: u16 = u16::MAX - 1;
/// Fewer dead entries than this aren't worth a compaction.
const MIN_STALE: usize = 64;

pub(crate) struct Queue<T> {
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
    /// Entries of all buckets up to `cursor`, some of which may be cancelled.
    near: BinaryHeap<Reverse<Near>>,
    stale: usize,
    cursor: u64,
    occupied: [u64; LEVELS],
    heads: [[u32; SLOTS]; LEVELS],
    next_sequence: u64,
}

struct Entry<T> {
    at: u64,
    sequence: u64,
    previous: u32,
    next: u32,
    place: u16,
    what: T,
}

/// Ordered by time, and at one instant by when it was put in.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Near {
    at: u64,
    sequence: u64,
    index: u32,
}

impl<T: Copy> Queue<T> {
    pub(crate) fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: NONE,
            len: 0,
            near: BinaryHeap::new(),
            stale: 0,
            cursor: 0,
            occupied: [0; LEVELS],
            heads: [[NONE; SLOTS]; LEVELS],
            next_sequence: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn insert(&mut self, at: u64, what: T) -> Key {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.len += 1;
        let entry = Entry { at, sequence, previous: NONE, next: NONE, place: FREE, what };
        let index = if self.free == NONE {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 events wait")
        } else {
            let index = self.free;
            self.free = self.entries[index as usize].next;
            self.entries[index as usize] = entry;
            index
        };
        self.place(index);
        // `NONE` is no index, so this doesn't overflow. Zero is left for the absence of a key.
        Key(NonZeroU32::MIN.saturating_add(index))
    }

    /// Takes an entry out before its time.
    pub(crate) fn cancel(&mut self, key: Key) {
        let index = key.0.get() - 1;
        let Entry { previous, next, place, .. } = self.entries[index as usize];
        debug_assert_ne!(place, FREE, "an event was cancelled twice");
        if place == NEAR {
            self.stale += 1;
        } else {
            if previous == NONE {
                let (level, slot) = (place as usize / SLOTS, place as usize % SLOTS);
                self.heads[level][slot] = next;
                if next == NONE {
                    self.occupied[level] &= !(1 << slot);
                }
            } else {
                self.entries[previous as usize].next = next;
            }
            if next != NONE {
                self.entries[next as usize].previous = previous;
            }
        }
        self.release(index);
        if self.stale > MIN_STALE.max(self.near.len() / 2) {
            let entries = &self.entries;
            self.near.retain(|Reverse(near)| is_live(entries, near));
            self.stale = 0;
        }
    }

    #[cfg(test)]
    fn pop(&mut self) -> Option<(u64, T)> {
        self.pop_until(u64::MAX)
    }

    /// Takes out what is due first, if that is not after `limit`.
    pub(crate) fn pop_until(&mut self, limit: u64) -> Option<(u64, T)> {
        loop {
            while let Some(Reverse(near)) = self.near.peek() {
                if !is_live(&self.entries, near) {
                    self.near.pop();
                    self.stale -= 1;
                    continue;
                }
                if near.at > limit {
                    return None;
                }
                let (at, index) = (near.at, near.index);
                self.near.pop();
                let what = self.entries[index as usize].what;
                self.release(index);
                return Some((at, what));
            }
            if self.cursor >= limit >> BUCKET_BITS || !self.advance() {
                return None;
            }
        }
    }

    /// Moves the cursor to the next slot that isn't empty, and places its entries anew.
    fn advance(&mut self) -> bool {
        let Some(level) = self.occupied.iter().position(|slots| *slots != 0) else { return false };
        // Slots at and before the cursor are empty: their entries were placed anew before.
        let slot = self.occupied[level].trailing_zeros();
        self.occupied[level] &= !(1 << slot);
        let mut index = std::mem::replace(&mut self.heads[level][slot as usize], NONE);
        let shift = level as u32 * SLOT_BITS;
        self.cursor = ((self.cursor >> shift) & !(SLOTS as u64 - 1) | u64::from(slot)) << shift;
        while index != NONE {
            let next = self.entries[index as usize].next;
            self.place(index);
            index = next;
        }
        true
    }

    fn place(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        let bucket = entry.at >> BUCKET_BITS;
        if bucket <= self.cursor {
            entry.place = NEAR;
            self.near.push(Reverse(Near { at: entry.at, sequence: entry.sequence, index }));
            return;
        }
        // The level of the highest group of bits in which the bucket differs from the cursor.
        let level = ((bucket ^ self.cursor).ilog2() / SLOT_BITS) as usize;
        let slot = (bucket >> (level as u32 * SLOT_BITS)) as usize % SLOTS;
        let head = std::mem::replace(&mut self.heads[level][slot], index);
        entry.place = (level * SLOTS + slot) as u16;
        entry.previous = NONE;
        entry.next = head;
        if head != NONE {
            self.entries[head as usize].previous = index;
        }
        self.occupied[level] |= 1 << slot;
    }

    fn release(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        entry.place = FREE;
        entry.sequence = u64::MAX;
        entry.next = self.free;
        self.free = index;
        self.len -= 1;
    }
}

fn is_live<T>(entries: &[Entry<T>], near: &Near) -> bool {
    entries[near.index as usize].sequence == near.sequence
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Random};
    use std::collections::BTreeMap;

    #[test]
    fn it_does_what_a_sorted_map_does() {
        for seed in 0..50 {
            let mut random = Random::new(seed, Purpose::Scheduler, &[]);
            let mut queue = Queue::new();
            let mut model = BTreeMap::new();
            let (mut now, mut number) = (0, 0u64);
            for _ in 0..2_000 {
                match random.below(4) {
                    0 | 1 => {
                        let bits = random.below(50);
                        let at = now + (random.next() >> (63 - bits));
                        let key = queue.insert(at, number);
                        model.insert((at, number), key);
                        number += 1;
                    }
                    2 if !model.is_empty() => {
                        let which = random.below(model.len() as u64) as usize;
                        let (&id, &key) = model.iter().nth(which).expect("it is there");
                        model.remove(&id);
                        queue.cancel(key);
                    }
                    _ => {
                        let expected = model.pop_first().map(|(id, _)| id);
                        let popped = queue.pop();
                        assert_eq!(popped, expected, "seed {seed}");
                        now = popped.map_or(now, |(at, _)| at);
                    }
                }
                assert_eq!(queue.len, model.len());
            }
        }
    }

    #[test]
    fn a_limit_holds_back_what_is_later() {
        let mut queue = Queue::new();
        queue.insert(1 << 40, 'b');
        queue.insert(5, 'a');
        assert_eq!(queue.pop_until(4), None);
        assert_eq!(queue.pop_until(5), Some((5, 'a')));
        assert_eq!(queue.pop_until(1 << 39), None);
        queue.insert(6, 'c');
        assert_eq!(queue.pop_until(6), Some((6, 'c')));
        assert_eq!(queue.pop_until(1 << 40), Some((1 << 40, 'b')));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn cancelled_entries_leave_nothing_behind() {
        let mut queue = Queue::new();
        let stays = queue.insert(1, 0);
        for at in 0..100_000 {
            let key = queue.insert(at % 1000, at);
            queue.cancel(key);
        }
        assert!(queue.near.len() <= 2 * MIN_STALE, "{}", queue.near.len());
        assert_eq!(queue.entries.len(), 2);
        queue.cancel(stays);
        assert_eq!(queue.pop(), None);
    }
}
