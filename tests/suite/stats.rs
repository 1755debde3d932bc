//! What is counted is exact.

use crate::harness::{Case, TestRuntime, case, frame, meet};
use anypea::{Writing, bytes::Bytes, runtime::Clock};
use futures::AsyncWriteExt;

pub fn cases() -> Vec<Case> {
    vec![
        case(both_ends_count_the_same),
        case(former_connections_stay_in_the_sums),
        case(discarded_bytes_are_counted_and_are_no_messages),
        case(a_message_is_counted_before_it_is_processed),
    ]
}

const LENGTHS: [usize; 7] = [0, 1, 100, 5_000, 16 * 1024, 40_000, 300_000];

/// The frames of these payloads, in bytes.
fn frame_bytes() -> u64 {
    LENGTHS.iter().map(|length| 4 + *length as u64).sum()
}

async fn both_ends_count_the_same(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    let (to_bob, to_alice) = meet(rt, &alice, &bob).await;
    for length in LENGTHS {
        alice.unicast(&to_bob, Bytes::from(vec![7; length])).unwrap();
        alice.send_encoded(&to_bob, frame(vec![7; length]).into()).unwrap();
    }
    bob.unicast(&to_alice, "one".into()).unwrap();
    let (messages, bytes) = (2 * LENGTHS.len() as u64, 2 * frame_bytes());
    rt.until("all have arrived", || {
        bob.num_messages() as u64 == messages && alice.num_messages() == 1
    })
    .await;
    // Counted in batches, at the end of each.
    rt.until("all are counted", || {
        let (a, b) = (to_bob.stats(), to_alice.stats());
        let sent = (a.messages_sent, b.messages_sent);
        let received = (b.messages_received, a.messages_received);
        sent == (messages, 1) && received == (messages, 1)
    })
    .await;
    let (a, b) = (to_bob.stats(), to_alice.stats());
    assert_eq!((a.messages_sent, a.bytes_sent), (messages, bytes));
    assert_eq!((b.messages_received, b.bytes_received), (messages, bytes));
    assert_eq!((b.messages_sent, b.bytes_sent), (1, 7));
    assert_eq!((a.messages_received, a.bytes_received), (1, 7));
    assert_eq!((a.queued_bytes, b.queued_bytes), (0, 0));
    assert!(a.max_queued_bytes as u64 <= bytes && a.max_queued_bytes >= 300_004);

    let node = bob.stats();
    assert_eq!((node.messages_received, node.bytes_received), (messages, bytes));
    assert_eq!((node.connections, node.queued_bytes), (1, 0));
    assert!(node.since <= b.since && b.since <= rt.now());
}

async fn former_connections_stay_in_the_sums(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    for round in 1..=5 {
        let (peer, _) = meet(rt, &alice, &bob).await;
        for length in LENGTHS {
            alice.unicast(&peer, Bytes::from(vec![7; length])).unwrap();
        }
        rt.within("the disconnect", peer.disconnect()).await;
        rt.until("bob has seen the end", || bob.num_connected() == 0).await;
        let (sent, received) = (alice.stats(), bob.stats());
        let messages = round * LENGTHS.len() as u64;
        assert_eq!((sent.connections, received.connections), (round, round));
        assert_eq!((sent.messages_sent, sent.bytes_sent), (messages, round * frame_bytes()));
        assert_eq!(received.messages_received, messages);
        assert_eq!(received.bytes_received, round * frame_bytes());
    }
    rt.within("the shut-down", alice.shut_down()).await;
    assert_eq!(alice.stats().bytes_sent, 5 * frame_bytes());
}

async fn discarded_bytes_are_counted_and_are_no_messages(rt: &TestRuntime) {
    let alice = rt.start().await;
    let bob = rt.setup().without_reading().start().await;
    let (peer, _) = meet(rt, &alice, &bob).await;
    for length in LENGTHS {
        alice.unicast(&peer, Bytes::from(vec![7; length])).unwrap();
    }
    rt.within("the disconnect", peer.disconnect()).await;
    rt.until("bob has seen the end", || bob.num_connected() == 0).await;
    let stats = bob.stats();
    assert_eq!((stats.messages_received, stats.bytes_received), (0, frame_bytes()));
}

async fn a_message_is_counted_before_it_is_processed(rt: &TestRuntime) {
    let node = rt.setup().on_message(|node, peer, _| async move {
        // As soon as the handler awaits.
        while peer.stats().messages_received == 0 {
            node.sleep(std::time::Duration::from_millis(1)).await;
        }
        Ok(())
    });
    let node = node.start().await;
    let mut raw = rt.dial_raw(node.addr()).await;
    raw.write_all(&frame("count me")).await.unwrap();
    rt.until("it is processed", || node.num_messages() == 1).await;
    assert_eq!(node.stats().messages_received, 1);
}
