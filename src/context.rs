//! In whose task the current thread is.
//!
//! A hook that awaits the end of its own connection, or the shut-down of its own node, would wait
//! for itself. The futures of both look here, and resolve at once instead.

use crate::node::Inner;
use std::{cell::Cell, sync::Arc};

/// A task of a node, and of one of its connections unless the number is 0.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Current {
    node: usize,
    connection: u64,
}

thread_local! {
    static CURRENT: Cell<Current> = const { Cell::new(Current { node: 0, connection: 0 }) };
}

/// Marks the thread, until dropped, as polling a task.
pub(crate) struct Entered(Current);

pub(crate) fn enter(inner: &Arc<Inner>, connection: u64) -> Entered {
    Entered(CURRENT.replace(Current { node: address(inner), connection }))
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

pub(crate) fn in_node(inner: &Arc<Inner>) -> bool {
    CURRENT.get().node == address(inner)
}

pub(crate) fn in_connection(inner: &Arc<Inner>, connection: u64) -> bool {
    CURRENT.get() == Current { node: address(inner), connection }
}

/// The address serves as a name only: it is compared, never ordered or followed.
fn address(inner: &Arc<Inner>) -> usize {
    Arc::as_ptr(inner) as usize
}
