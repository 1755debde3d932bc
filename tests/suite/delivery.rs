//! What was received, or queued, is not lost.

use crate::harness::{Case, Seen, TestRuntime, case, frame};
use anypea::DisconnectReason;
use futures::AsyncWriteExt;
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![case(frames_before_the_fin_are_processed)]
}

/// As many frames as the issue at hand had lost elsewhere.
const MANY: usize = 3_000;

async fn frames_before_the_fin_are_processed(rt: &TestRuntime) {
    let node = rt
        .setup()
        .on_message(move |node, _, _| async move {
            node.sleep(Duration::from_millis(1)).await;
            Ok(())
        })
        .start()
        .await;
    let mut raw = rt.dial_raw(node.addr()).await;
    let frames: Vec<_> = (0..MANY as u32).flat_map(|i| frame(i.to_be_bytes())).collect();
    raw.write_all(&frames).await.unwrap();
    raw.close().await.unwrap();
    rt.until("the connection has ended", || !node.reasons().is_empty()).await;
    assert_eq!(node.num_messages(), MANY);
    assert!(matches!(
        node.seen().last(),
        Some(Seen::Disconnected(_, DisconnectReason::PeerClosed))
    ));
}
