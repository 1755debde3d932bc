//! Networks of each shape.

use crate::harness::{Case, TestNode, TestRuntime, case};
use anypea::{Topology, Writing, connect_nodes};

pub fn cases() -> Vec<Case> {
    vec![
        case(a_network_of_each_shape_is_connected_as_it_should),
        case(messages_cross_a_line_of_nodes),
        case(a_network_of_nobody_or_one_needs_no_connections),
    ]
}

async fn network(rt: &TestRuntime, size: usize, topology: Topology) -> Vec<TestNode> {
    let mut nodes = Vec::new();
    for _ in 0..size {
        nodes.push(rt.setup().not_listening().start().await);
    }
    connect_nodes(&nodes, topology).await.expect("connect");
    nodes
}

/// Waits until the numbers of connections are these, node by node.
async fn until_degrees(rt: &TestRuntime, topology: Topology, degrees: &[usize]) {
    let nodes = network(rt, degrees.len(), topology).await;
    rt.until(&format!("{topology:?} stands"), || {
        nodes.iter().map(|node| node.num_connected()).eq(degrees.iter().copied())
    })
    .await;
}

async fn a_network_of_each_shape_is_connected_as_it_should(rt: &TestRuntime) {
    until_degrees(rt, Topology::Line, &[1, 2, 2, 2, 1]).await;
    until_degrees(rt, Topology::Ring, &[2, 2, 2, 2, 2]).await;
    until_degrees(rt, Topology::Ring, &[1, 1]).await;
    until_degrees(rt, Topology::Mesh, &[4, 4, 4, 4, 4]).await;
    until_degrees(rt, Topology::Star, &[4, 1, 1, 1, 1]).await;
    until_degrees(rt, Topology::Grid { width: 3 }, &[2, 3, 2, 2, 3, 2]).await;
    until_degrees(rt, Topology::Tree, &[2, 3, 3, 1, 1, 1, 1]).await;
    let nodes = network(rt, 8, Topology::Random { degree: 3 }).await;
    let connections = || nodes.iter().map(|node| node.num_connected()).sum::<usize>();
    rt.until("12 connections stand", || connections() == 24).await;
    assert!(nodes.iter().all(|node| node.num_connected() > 0));
}

async fn messages_cross_a_line_of_nodes(rt: &TestRuntime) {
    let mut nodes = Vec::new();
    for _ in 0..5 {
        let pass_on = |node: TestNode, from, message| async move {
            for peer in node.peers().into_iter().filter(|peer| *peer != from) {
                node.unicast(&peer, anypea::bytes::Bytes::clone(&message)).unwrap();
            }
            Ok(())
        };
        nodes.push(rt.setup().on_message(pass_on).start().await);
    }
    connect_nodes(&nodes, Topology::Line).await.unwrap();
    rt.until("all are connected", || nodes[1..4].iter().all(|node| node.num_connected() == 2))
        .await;
    nodes[0].broadcast("pass it on".into());
    rt.until("it has come through", || nodes[4].messages() == ["pass it on"]).await;
}

async fn a_network_of_nobody_or_one_needs_no_connections(rt: &TestRuntime) {
    connect_nodes::<TestNode>(&[], Topology::Mesh).await.unwrap();
    let one = network(rt, 1, Topology::Ring).await;
    assert_eq!(one[0].num_connected(), 0);
}
