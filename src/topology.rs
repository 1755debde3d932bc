//! Networks of nodes, for examples, tests and experiments.

use crate::{ConnectError, ListenError, Pea2Pea};
use std::collections::BTreeSet;
use thiserror::Error;

/// The shape of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Topology {
    /// Each node is connected with the next.
    Line,
    /// A line whose last node is connected with the first.
    Ring,
    /// Each node is connected with every other.
    Mesh,
    /// The first node is connected with every other.
    Star,
    /// Rows of `width` nodes, each connected with its neighbours in all four directions.
    Grid {
        /// Nodes in a row.
        width: usize,
    },
    /// A binary tree; the first node is its root.
    Tree,
    /// A random tree, so that all nodes are connected, and random connections on top of it, until
    /// nodes have about `degree` connections on average.
    Random {
        /// Connections of a node on average.
        degree: usize,
    },
}

/// A network that could not be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// A node doesn't listen, and could not be made to.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A node could not be connected with another.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl Topology {
    /// Returns the connections of a network of `nodes` nodes: pairs of their numbers, from the one
    /// that dials to the one that is dialed, none of them twice. `random` returns random bits.
    pub fn edges(self, nodes: usize, mut random: impl FnMut() -> u64) -> Vec<(usize, usize)> {
        let mut below = |bound: usize| (random() % bound.max(1) as u64) as usize;
        let line = (1..nodes).map(|i| (i - 1, i));
        match self {
            Self::Line => line.collect(),
            Self::Ring => line.chain((nodes > 2).then(|| (nodes - 1, 0))).collect(),
            Self::Mesh => (0..nodes).flat_map(|i| (i + 1..nodes).map(move |j| (i, j))).collect(),
            Self::Star => (1..nodes).map(|i| (i, 0)).collect(),
            Self::Tree => (1..nodes).map(|i| (i, (i - 1) / 2)).collect(),
            Self::Grid { width } => {
                let width = width.max(1);
                let right = (0..nodes).filter(|i| (i + 1) % width != 0).map(|i| (i, i + 1));
                let down = (0..nodes).map(|i| (i, i + width));
                right.chain(down).filter(|(_, j)| *j < nodes).collect()
            }
            Self::Random { degree } => {
                let mut edges: BTreeSet<_> = (1..nodes).map(|i| (below(i), i)).collect();
                let all = nodes * nodes.saturating_sub(1) / 2;
                let wanted = (nodes * degree / 2).min(all);
                while edges.len() < wanted {
                    let (i, j) = (below(nodes), below(nodes));
                    if i != j {
                        edges.insert((i.min(j), i.max(j)));
                    }
                }
                edges.into_iter().collect()
            }
        }
    }
}

/// Connects nodes into a network. Nodes that are to be dialed and don't listen yet start to.
///
/// Cancel safe in so far as a connection is either made or not; those made stay.
///
/// # Errors
/// [`TopologyError`], at the first node that can't listen or connect.
pub async fn connect_nodes<N: Pea2Pea>(
    nodes: &[N],
    topology: Topology,
) -> Result<(), TopologyError> {
    let Some(first) = nodes.first() else { return Ok(()) };
    let runtime = first.node().runtime();
    for (dialer, dialed) in topology.edges(nodes.len(), || runtime.random()) {
        let dialed = nodes[dialed].node();
        let addr = match dialed.listening_addr() {
            Some(addr) => addr,
            None => dialed.start_listening().await?,
        };
        nodes[dialer].node().connect(addr).await?;
    }
    Ok(())
}
