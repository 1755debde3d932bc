//! The conformance kit: what every adapter should pass, as test bodies that run on any runtime.
//!
//! An adapter says how a runtime of its kind is made, driven and ended, and runs all cases:
//!
//! ```no_run
//! use anypea_runtime::{BoxFuture, Runtime, kit};
//! use std::sync::Arc;
//!
//! # mod my { pub struct Executor;
//! # impl Executor { pub fn new() -> Self { Self }
//! #     pub fn block_on(&self, _: anypea_runtime::BoxFuture<'static, ()>) {} }
//! # pub fn adapter(_: &Executor) -> std::sync::Arc<dyn anypea_runtime::Runtime> { loop {} } }
//! struct Mine(my::Executor);
//!
//! impl kit::Harness for Mine {
//!     fn runtime(&self) -> Arc<dyn Runtime> {
//!         my::adapter(&self.0)
//!     }
//!     fn block_on(&self, body: BoxFuture<'static, ()>) {
//!         self.0.block_on(body)
//!     }
//! }
//!
//! // In a `#[test]`:
//! kit::run(|| Mine(my::Executor::new()));
//! ```
//!
//! The cases know nothing but the traits of this crate. They wait for conditions and never for
//! times, stay on one host, and check what only a real socket has only where there is one
//! ([`Socket::sock_ref`](crate::Socket::sock_ref)); so they run on a simulation as well.

mod dialing;
mod endings;
mod host;
mod options;
mod streams;
mod tasks;
mod threads;
mod timers;

use crate::{BoxFuture, Runtime};
use host::Host;
use std::{
    any::Any,
    net::{IpAddr, Ipv4Addr},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

/// How long a case may take. It is a guard against hangs only: a case takes milliseconds.
const LIMIT: Duration = Duration::from_secs(60);

/// How the kit makes use of a runtime of one kind. Each case gets a new one.
pub trait Harness: 'static {
    /// Returns the runtime under test.
    fn runtime(&self) -> Arc<dyn Runtime>;

    /// Drives the runtime until `body` has ended. A panic in `body` must reach the caller.
    fn block_on(&self, body: BoxFuture<'static, ()>);

    /// Ends the runtime as far as that is possible, and says how far it was.
    fn end(self: Box<Self>) -> Ended {
        Ended::Nothing
    }

    /// The address on which the cases listen and which they dial.
    fn ip(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }
}

/// What [`Harness::end`] has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing: the runtime lives as long as the process.
    Nothing,
    /// The executor with its tasks; clock and network live as long as the process.
    Tasks,
    /// Tasks, clock and network.
    Everything,
}

/// One thing that a runtime must do.
pub struct Case {
    name: &'static str,
    body: Body,
}

enum Body {
    /// Runs inside the runtime.
    Inside(fn(Host) -> BoxFuture<'static, ()>),
    /// Drives the runtime itself, to end it.
    Outside(fn(Box<dyn Harness>)),
}

impl Case {
    const fn inside(name: &'static str, body: fn(Host) -> BoxFuture<'static, ()>) -> Self {
        Self { name, body: Body::Inside(body) }
    }

    const fn outside(name: &'static str, body: fn(Box<dyn Harness>)) -> Self {
        Self { name, body: Body::Outside(body) }
    }

    /// Returns the name, which is a sentence that can be false.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs the case on this thread.
    ///
    /// # Panics
    /// If the runtime fails the case.
    pub fn run(&self, harness: Box<dyn Harness>) {
        match self.body {
            Body::Inside(body) => harness.block_on(body(Host::of(&*harness))),
            Body::Outside(body) => body(harness),
        }
    }
}

/// Returns all cases.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    [
        streams::CASES,
        endings::CASES,
        dialing::CASES,
        options::CASES,
        timers::CASES,
        tasks::CASES,
        threads::CASES,
    ]
    .into_iter()
    .flatten()
}

/// Runs all cases, one after the other, each on a runtime and a thread of its own, and prints how
/// each of them went.
///
/// # Panics
/// If any case failed, or did not end within a minute; the message names them all.
pub fn run<H: Harness>(make: impl Fn() -> H + Send + Sync + 'static) {
    run_except(&[], make);
}

/// As [`run`], without the cases of these names.
///
/// # Panics
/// As [`run`] does, and if there is no case of such a name.
pub fn run_except<H: Harness>(names: &[&str], make: impl Fn() -> H + Send + Sync + 'static) {
    for name in names {
        assert!(cases().any(|case| case.name == *name), "the kit has no case `{name}`");
    }
    let make = Arc::new(make);
    let mut failed = Vec::new();
    for case in cases() {
        if names.contains(&case.name) {
            println!("{} ... left out", case.name);
            continue;
        }
        let make = Arc::clone(&make);
        match guarded(case.name, LIMIT, move || case.run(Box::new(make()))) {
            Ok(()) => println!("{} ... ok", case.name),
            Err(why) => {
                println!("{} ... FAILED: {why}", case.name);
                failed.push(format!("{}: {why}", case.name));
            }
        }
    }
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}

/// Runs `body` on a thread of that name. If it hangs, so does the thread, but not the caller.
fn guarded(
    name: &str,
    limit: Duration,
    body: impl FnOnce() + Send + 'static,
) -> Result<(), String> {
    let (report, outcome) = mpsc::channel();
    thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(body));
            // Nobody listens any more if the time was up.
            let _ = report.send(outcome.map_err(|panic| message(&*panic)));
        })
        .expect("the system has no thread for the case");
    outcome.recv_timeout(limit).unwrap_or_else(|_| Err(format!("did not end within {limit:?}")))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("panicked").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A runtime that is no good.
    struct Broken;

    impl Harness for Broken {
        fn runtime(&self) -> Arc<dyn Runtime> {
            panic!("there is no runtime")
        }

        fn block_on(&self, _: BoxFuture<'static, ()>) {}
    }

    #[test]
    fn every_failed_case_is_named() {
        let left_out = cases().next().expect("a case").name();
        let run = || run_except(&[left_out], || Broken);
        let report = message(&*catch_unwind(run).expect_err("all cases fail"));
        let named = |case: &Case| report.contains(&format!("{}: there is no runtime", case.name()));
        assert!(cases().skip(1).all(named), "{report}");
        assert!(!report.contains(left_out), "{report}");
    }

    #[test]
    fn a_case_that_hangs_is_given_up() {
        let (_never, forever) = mpsc::channel::<()>();
        let outcome = guarded("hangs", Duration::ZERO, move || forever.recv().unwrap_or(()));
        assert_eq!(outcome, Err("did not end within 0ns".to_owned()));
    }

    #[test]
    #[should_panic(expected = "the kit has no case `no such case`")]
    fn only_cases_that_exist_can_be_left_out() {
        run_except(&["no such case"], || Broken);
    }

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = cases().map(Case::name).collect();
        assert_eq!(names.len(), cases().count());
    }
}
