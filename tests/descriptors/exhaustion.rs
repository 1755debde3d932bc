use crate::harness::{Case, TestRuntime, case, frame};
use anypea::Writing;
use futures::{AsyncReadExt, AsyncWriteExt};
use rlimit::Resource;
use std::fs::{self, File};

pub fn cases() -> Vec<Case> {
    // A simulated host has no descriptors.
    vec![case(accepting_survives_the_exhaustion_of_descriptors).except(&["sim"])]
}

/// Lowers the limit on descriptors, until dropped.
struct Lowered {
    soft: u64,
    hard: u64,
}

impl Lowered {
    /// Leaves room for as many descriptors as this.
    fn leaving(room: u64) -> Self {
        let (soft, hard) = rlimit::getrlimit(Resource::NOFILE).expect("the limit");
        // The limit is one on their numbers; freed numbers are used again.
        let used = fs::read_dir("/proc/self/fd").expect("the open ones").count() as u64;
        rlimit::setrlimit(Resource::NOFILE, used + room, hard).expect("a lower limit");
        Self { soft, hard }
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        rlimit::setrlimit(Resource::NOFILE, self.soft, self.hard).expect("the limit again");
    }
}

async fn accepting_survives_the_exhaustion_of_descriptors(rt: &TestRuntime) {
    let node = rt.setup().on_message(|node, peer, message| async move {
        node.unicast(&peer, message).unwrap();
        Ok(())
    });
    let node = node.start().await;
    let mut before = rt.dial_raw(node.addr()).await;
    rt.until("the first is accepted", || node.num_connected() == 1).await;

    let lowered = Lowered::leaving(8);
    // Takes all descriptors but one, with which to dial: there is none left to accept with.
    let mut hoard = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hoard.push(file);
    }
    hoard.pop();
    let mut late = rt.dial_raw(node.addr()).await;
    rt.until("accepting fails", || node.heuristics().accept_errors >= 2).await;
    // What is connected goes on.
    before.write_all(&frame("before")).await.unwrap();
    let mut read = [0; 10];
    rt.within("an echo", before.read_exact(&mut read)).await.unwrap();
    assert_eq!(read[..], frame("before"));
    assert_eq!(node.num_connected(), 1);

    drop(hoard);
    drop(lowered);
    late.write_all(&frame("late")).await.unwrap();
    let mut read = [0; 8];
    rt.within("an echo", late.read_exact(&mut read)).await.unwrap();
    assert_eq!(read[..], frame("late"));
    assert_eq!(node.num_connected(), 2);
}
