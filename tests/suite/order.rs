//! The messages of one connection stay in order, whole, and one at a time.

use crate::harness::{Case, TestRuntime, case, meet};
use anypea::{Writing, bytes::Bytes};
use futures::future::join_all;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
};

pub fn cases() -> Vec<Case> {
    vec![
        case(messages_of_each_sender_stay_in_order),
        case(messages_are_processed_one_at_a_time),
        case(replies_come_in_the_order_of_requests),
        case(ready_bytes_and_messages_stay_in_order),
        case(big_ready_bytes_are_not_copied),
        case(waiting_senders_are_served_in_the_order_of_their_coming),
        case(a_broadcast_reaches_everybody_in_order),
        case(an_echo_of_big_messages_is_the_same_bytes),
    ]
}

async fn messages_of_each_sender_stay_in_order(rt: &TestRuntime) {
    const EACH: u32 = 300;
    let (alice, bob) = (rt.start().await, rt.start().await);
    let (peer, _) = meet(rt, &alice, &bob).await;
    let senders = (0..4u8).map(|sender| {
        let (alice, peer) = (alice.clone(), peer.clone());
        rt.spawn(async move {
            for i in 0..EACH {
                let message = [&[sender][..], &i.to_be_bytes()].concat();
                alice.send(&peer, message.into()).await.unwrap();
            }
        })
    });
    join_all(senders.collect::<Vec<_>>()).await;
    rt.until("all have arrived", || bob.num_messages() == 4 * EACH as usize).await;
    let messages = bob.messages();
    for sender in 0..4u8 {
        let of_sender = messages.iter().filter(|message| message[0] == sender);
        assert!(of_sender.zip(0..EACH).all(|(message, i)| message[1..] == i.to_be_bytes()));
    }
}

async fn messages_are_processed_one_at_a_time(rt: &TestRuntime) {
    let running = Arc::new(AtomicUsize::new(0));
    let bob = rt.setup().on_message(move |node, _, _| {
        let running = Arc::clone(&running);
        async move {
            assert_eq!(running.fetch_add(1, SeqCst), 0);
            node.sleep(std::time::Duration::from_micros(100)).await;
            assert_eq!(running.fetch_sub(1, SeqCst), 1);
            Ok(())
        }
    });
    let (alice, bob) = (rt.start().await, bob.start().await);
    let (peer, _) = meet(rt, &alice, &bob).await;
    for i in 0..50u32 {
        alice.unicast(&peer, Bytes::copy_from_slice(&i.to_be_bytes())).unwrap();
    }
    rt.until("all have been processed", || bob.num_messages() == 50).await;
}

async fn replies_come_in_the_order_of_requests(rt: &TestRuntime) {
    let bob = rt.setup().on_message(|node, peer, message| async move {
        // Some handlers take their time, so that some replies are written by other means.
        if message[3].is_multiple_of(7) {
            node.sleep(std::time::Duration::from_micros(100)).await;
        }
        node.unicast(&peer, message).unwrap();
        Ok(())
    });
    let (alice, bob) = (rt.start().await, bob.start().await);
    let (peer, _) = meet(rt, &alice, &bob).await;
    for i in 0..500u32 {
        alice.unicast(&peer, Bytes::copy_from_slice(&i.to_be_bytes())).unwrap();
    }
    rt.until("all replies have come", || alice.num_messages() == 500).await;
    assert!(alice.messages().iter().zip(0u32..).all(|(reply, i)| reply[..] == i.to_be_bytes()));
}

async fn ready_bytes_and_messages_stay_in_order(rt: &TestRuntime) {
    let (alice, bob) = (rt.start().await, rt.start().await);
    let (peer, _) = meet(rt, &alice, &bob).await;
    let mut expected = Vec::new();
    for i in 0..120usize {
        // From below to far above the size from which bytes are shared, and some empty.
        let length = [0, 5, 1_000, 16 * 1024 - 4, 16 * 1024, 50_000][i % 6];
        let payload = Bytes::from(vec![i as u8; length]);
        if i % 5 < 2 {
            alice.unicast(&peer, payload.clone()).unwrap();
        } else {
            let ready = crate::harness::frame(&payload);
            alice.send_encoded(&peer, ready.into()).unwrap();
        }
        expected.push(payload);
    }
    rt.until("all have arrived", || bob.num_messages() == expected.len()).await;
    assert!(bob.messages() == expected, "they differ");
    assert_eq!(peer.stats().messages_sent, expected.len() as u64);
}

async fn big_ready_bytes_are_not_copied(rt: &TestRuntime) {
    let node = rt.setup().config(|config| config.socket.send_buffer_bytes = Some(32 * 1024));
    let node = node.start().await;
    let _one = rt.dial_raw(node.addr()).await;
    let _other = rt.dial_raw(node.addr()).await;
    rt.until("both are connected", || node.num_connected() == 2).await;
    // The peers don't read, so that the bytes stay queued.
    let (small, big) = (Bytes::from(vec![7; 100]), Bytes::from(vec![7; 4 * 1024 * 1024]));
    for peer in node.peers() {
        node.send_encoded(&peer, big.clone()).unwrap();
        node.send_encoded(&peer, small.clone()).unwrap();
    }
    assert!(!big.is_unique() && small.is_unique());
    for peer in node.peers() {
        assert!(peer.stats().queued_bytes > small.len());
        rt.within("the end", peer.disconnect_now()).await;
    }
    assert!(big.is_unique(), "nothing keeps it after the end");
}

async fn waiting_senders_are_served_in_the_order_of_their_coming(rt: &TestRuntime) {
    let alice = rt.setup().knobs(|knobs| knobs.queue_bytes = 1);
    let alice = alice.config(|config| config.socket.send_buffer_bytes = Some(32 * 1024));
    let bob = rt.setup().on_message(|node, _, _| async move {
        while !node.has_noted("open") {
            node.sleep(std::time::Duration::from_millis(1)).await;
        }
        Ok(())
    });
    let (alice, bob) = (alice.start().await, bob.start().await);
    let (peer, _) = meet(rt, &alice, &bob).await;
    // One that is processed, and holds up one that the sockets can't hold.
    alice.unicast(&peer, "hold".into()).unwrap();
    rt.until("the handler holds up", || bob.stats().messages_received == 1).await;
    let plug = Bytes::from(vec![7; 4 * 1024 * 1024]);
    alice.send(&peer, plug.clone()).await.unwrap();

    let mut senders = Vec::new();
    for i in 0..10u8 {
        let mut sender = Box::pin(alice.send(&peer, vec![i].into()));
        assert!(futures::poll!(&mut sender).is_pending(), "there is no room");
        senders.push(sender);
    }
    // Those who don't wait don't get in between.
    assert!(alice.unicast(&peer, "pushy".into()).is_err());
    bob.note("open");
    // Polled in the other direction, which must not matter.
    let mut done = 0;
    let all = std::future::poll_fn(|cx| {
        senders.retain_mut(|sender| match sender.as_mut().poll(cx) {
            Poll::Ready(sent) => {
                sent.unwrap();
                done += 1;
                false
            }
            Poll::Pending => true,
        });
        senders.reverse();
        if senders.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    });
    rt.within("all are served", all).await;
    assert_eq!(done, 10);
    rt.until("all have arrived", || bob.num_messages() == 12).await;
    let tail: Vec<_> = bob.messages()[2..].iter().map(|message| message[0]).collect();
    assert_eq!(tail, (0..10).collect::<Vec<_>>());
}

async fn a_broadcast_reaches_everybody_in_order(rt: &TestRuntime) {
    let hub = rt.start().await;
    let mut others = Vec::new();
    for _ in 0..5 {
        let other = rt.start().await;
        meet(rt, &hub, &other).await;
        others.push(other);
    }
    for i in 0..50u8 {
        let answers = hub.broadcast(vec![i].into());
        assert_eq!(answers.len(), 5);
        assert!(answers.iter().all(|(_, answer)| answer.is_ok()));
    }
    for other in &others {
        rt.until("all have arrived", || other.num_messages() == 50).await;
        assert!(other.messages().iter().zip(0..).all(|(message, i)| message[..] == [i]));
    }
}

async fn an_echo_of_big_messages_is_the_same_bytes(rt: &TestRuntime) {
    let bob = rt.setup().on_message(|node, peer, message| async move {
        node.unicast(&peer, message).unwrap();
        Ok(())
    });
    let (alice, bob) = (rt.start().await, bob.start().await);
    let (peer, _) = meet(rt, &alice, &bob).await;
    let lengths = [0, 1, 32 * 1024 - 4, 32 * 1024, 100_000, 256 * 1024 + 1, 3_000_000, 2];
    let sent = lengths.iter().map(|length| {
        let pattern = (0..*length).map(|i: usize| (i ^ (i >> 8)) as u8);
        Bytes::from_iter(pattern)
    });
    let sent: Vec<_> = sent.collect();
    for message in &sent {
        alice.unicast(&peer, message.clone()).unwrap();
    }
    rt.until("all have come back", || alice.num_messages() == sent.len()).await;
    assert!(alice.messages() == sent, "they differ");
}
