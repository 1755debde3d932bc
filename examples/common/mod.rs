//! What the examples share: their arguments, and the runtime that these name.
//!
//! This is the only place where an example knows one runtime from another. Everything else gets
//! an `Arc<dyn Runtime>`, and would get another one just the same.

use anypea::{BoxError, runtime::Runtime};
use futures::future::{self, Either};
use lexopt::{Arg, Parser, ValueExt};
use std::{
    ops::RangeInclusive,
    pin::pin,
    process::{ExitCode, exit},
    sync::Arc,
    time::Duration,
};

/// How an example ends.
pub type Outcome = Result<(), BoxError>;

/// The runtimes whose features are on.
const RUNTIMES: &[&str] = &[
    #[cfg(feature = "tokio")]
    "tokio",
    #[cfg(feature = "async-std")]
    "async-std",
    #[cfg(feature = "smol")]
    "smol",
];

/// The exit code of a command line that makes no sense.
const USAGE_ERROR: i32 = 2;

/// The runtime that the arguments name.
pub struct Chosen(&'static str);

/// Parses the arguments. `set` is called for every option of the example's own, to take its value
/// or to say that it is [unknown](Value::unknown); `usage` lists these options.
///
/// Ends the process if the arguments make no sense, and if they ask for help.
pub fn arguments(
    usage: &str,
    mut set: impl FnMut(&str, &mut Value<'_>) -> Result<(), lexopt::Error>,
) -> Chosen {
    let Some(first) = RUNTIMES.first() else {
        refuse("no runtime: enable a feature, for example with `--features tokio`");
    };
    let mut parser = Parser::from_env();
    let usage = format!("usage: [--runtime {}] {usage}", RUNTIMES.join("|"));
    parse(&mut parser, &usage, first, &mut set)
        .unwrap_or_else(|error| refuse(&format!("{error}\n{}", usage.trim_end())))
}

/// Ends the process, because the arguments make no sense.
pub fn refuse(why: &str) -> ! {
    eprintln!("{why}");
    exit(USAGE_ERROR)
}

fn parse(
    parser: &mut Parser,
    usage: &str,
    first: &'static str,
    set: &mut dyn FnMut(&str, &mut Value<'_>) -> Result<(), lexopt::Error>,
) -> Result<Chosen, lexopt::Error> {
    let mut chosen = first;
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => {
                println!("{}", usage.trim_end());
                exit(0);
            }
            Arg::Long("runtime") => chosen = runtime(parser.value()?.string()?)?,
            Arg::Long(option) => {
                let option = option.to_owned();
                set(&option, &mut Value { parser, option: &option })?;
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(Chosen(chosen))
}

fn runtime(name: String) -> Result<&'static str, lexopt::Error> {
    let known = RUNTIMES.iter().find(|known| **known == name);
    known.copied().ok_or_else(|| match name.as_str() {
        "tokio" | "async-std" | "smol" => {
            format!("--runtime {name}: enable it with `--features {name}`").into()
        }
        _ => format!("--runtime {name}: not one of {}", RUNTIMES.join(", ")).into(),
    })
}

/// Waits for what should happen soon; an error if it doesn't, so that no example hangs.
// Each example takes what it needs.
#[allow(dead_code)]
pub async fn soon<T>(
    runtime: &Arc<dyn Runtime>,
    what: &str,
    future: impl Future<Output = T>,
) -> Result<T, BoxError> {
    const LIMIT: Duration = Duration::from_secs(30);
    match future::select(pin!(future), runtime.timer(runtime.now() + LIMIT)).await {
        Either::Left((output, _)) => Ok(output),
        Either::Right(_) => Err(format!("still waiting for {what} after {LIMIT:?}").into()),
    }
}

/// The value of an option, still to be taken.
pub struct Value<'a> {
    parser: &'a mut Parser,
    option: &'a str,
}

// Each example takes what it needs.
#[allow(dead_code)]
impl Value<'_> {
    /// Takes a number within a range.
    pub fn number(&mut self, range: RangeInclusive<u64>) -> Result<u64, lexopt::Error> {
        let value = self.text()?;
        value.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
            let (first, last) = range.into_inner();
            format!("--{} {value}: not a number from {first} to {last}", self.option).into()
        })
    }

    /// Takes what `parse` makes of a text; `what` is its name.
    pub fn parsed<T>(
        &mut self,
        parse: impl FnOnce(&str) -> Option<T>,
        what: &str,
    ) -> Result<T, lexopt::Error> {
        let value = self.text()?;
        parse(&value).ok_or_else(|| format!("--{} {value}: not {what}", self.option).into())
    }

    fn text(&mut self) -> Result<String, lexopt::Error> {
        self.parser.value()?.string()
    }

    /// Says that there is no such option.
    pub fn unknown(&mut self) -> Result<(), lexopt::Error> {
        Err(Arg::Long(self.option).unexpected())
    }
}

impl Chosen {
    /// Runs an example to its end, on the chosen runtime.
    pub fn run<F: Future<Output = Outcome>>(
        self,
        example: impl FnOnce(Arc<dyn Runtime>) -> F,
    ) -> ExitCode {
        println!("running on {}", self.0);
        let outcome: Outcome = match self.0 {
            #[cfg(feature = "tokio")]
            "tokio" => on_tokio(example),
            #[cfg(feature = "async-std")]
            "async-std" => async_std::task::block_on(example(Arc::new(anypea::AsyncStd))),
            #[cfg(feature = "smol")]
            "smol" => on_smol(example),
            other => {
                drop(example);
                Err(format!("there is no runtime {other}").into())
            }
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("failed: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(feature = "tokio")]
fn on_tokio<F: Future<Output = Outcome>>(example: impl FnOnce(Arc<dyn Runtime>) -> F) -> Outcome {
    tokio::runtime::Runtime::new()?
        .block_on(async { example(Arc::new(anypea::Tokio::current()?)).await })
}

/// Runs on as many threads as the other two have by default; smol's global executor has one.
#[cfg(feature = "smol")]
fn on_smol<F: Future<Output = Outcome>>(example: impl FnOnce(Arc<dyn Runtime>) -> F) -> Outcome {
    use std::thread;

    let executor = Arc::new(smol::Executor::new());
    let (stop, stopped) = smol::channel::bounded::<()>(1);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism()?.get() {
            // It ends when the channel is closed.
            scope.spawn(|| smol::block_on(executor.run(stopped.recv())));
        }
        let outcome = smol::block_on(example(Arc::new(anypea::Smol::executor(&executor))));
        drop(stop);
        outcome
    })
}
