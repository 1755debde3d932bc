//! One test body, run on every runtime.
//!
//! A body is an `async fn(&TestRuntime)`. Time, network and tasks come only from that, so that a
//! body runs on any runtime. When it has ended, all nodes that it made are shut down, no hook may
//! have panicked unless the body expects it, and of what was made through its runtime nothing may
//! be left: no task, timer, stream or listener.

mod node;
mod runtime;
mod runtimes;

pub use node::{Seen, Setup, TestNode, frame, meet};
pub use runtime::{Live, TestRuntime};

use futures::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};
use runtimes::{KINDS, Kind};
use std::{
    any::{Any, type_name},
    panic::{self, AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

/// The message of a panic that a test causes on purpose: it is not printed.
pub const ON_PURPOSE: &str = "on purpose";

/// A guard against hangs only: a body waits for conditions, each with a limit of its own.
const HANG: Duration = Duration::from_secs(120);

/// A test.
pub struct Case {
    name: &'static str,
    body: Arc<dyn Fn(TestRuntime) -> LocalBoxFuture<'static, ()> + Send + Sync>,
    exempt: &'static [&'static str],
}

/// Makes a test of a body; its name is that of the function.
pub fn case<F>(body: F) -> Case
where
    F: AsyncFn(&TestRuntime) + Copy + Send + Sync + 'static,
{
    let path = type_name::<F>();
    let name = path.rsplit("::").next().unwrap_or(path);
    let body = move |rt: TestRuntime| Box::pin(async move { body(&rt).await }) as _;
    Case { name, body: Arc::new(body), exempt: &[] }
}

impl Case {
    /// Leaves out runtimes on which the test makes no sense.
    pub fn except(self, exempt: &'static [&'static str]) -> Self {
        Self { exempt, ..self }
    }

    fn on(&self, kind: &'static Kind) -> Trial {
        let name = format!("{}::{}", kind.name, self.name);
        let (body, thread) = (Arc::clone(&self.body), name.clone());
        Trial::test(name, move || guarded(thread, move || (kind.run)(whole(body))))
    }
}

/// Runs all tests on all runtimes, as many at once as `threads`, unless the caller of the program
/// says otherwise.
pub fn run(threads: usize, cases: impl IntoIterator<Item = Vec<Case>>) -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(threads);
    quiet_on_purpose();
    let cases: Vec<_> = cases.into_iter().flatten().collect();
    let mut trials = Vec::new();
    for kind in KINDS {
        let here = cases.iter().filter(|case| !case.exempt.contains(&kind.name));
        trials.extend(here.map(|case| case.on(kind)));
    }
    libtest_mimic::run(&args, trials).exit_code()
}

type Body = Arc<dyn Fn(TestRuntime) -> LocalBoxFuture<'static, ()> + Send + Sync>;

/// A body and what is checked after it.
fn whole(body: Body) -> runtimes::Main {
    Box::new(move |runtime| {
        let rt = TestRuntime::new(runtime);
        Box::pin(async move {
            body(rt.clone()).await;
            rt.finish().await;
        })
    })
}

/// Runs `test` on a thread of that name. If it hangs, so does the thread, but not the caller.
fn guarded(name: String, test: impl FnOnce() + Send + 'static) -> Result<(), Failed> {
    let (report, outcome) = mpsc::channel();
    let run = move || {
        let outcome = catch_unwind(AssertUnwindSafe(test));
        // Nobody listens any more if the time was up.
        let _ = report.send(outcome.map_err(|panic| message(&*panic)));
    };
    thread::Builder::new().name(name).spawn(run).map_err(|error| error.to_string())?;
    let hangs = |_| Err(format!("it hangs: not over within {HANG:?}"));
    outcome.recv_timeout(HANG).unwrap_or_else(hangs).map_err(Failed::from)
}

fn quiet_on_purpose() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if message(info.payload()) != ON_PURPOSE {
            print(info);
        }
    }));
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("panicked").to_owned()
}
