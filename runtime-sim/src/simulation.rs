//! A simulation and who drives it.

use crate::{Faults, Options, Sim, driver::Stop, shared::Shared};
use std::{fmt, future::Future, ops::Deref, panic::resume_unwind, pin::pin};

/// A simulation, and the end of it when this is dropped.
///
/// [`Sim::check`] makes one for each seed. By itself it is what a test harness needs that drives
/// its runtimes on its own.
pub struct Simulation {
    sim: Sim,
}

impl Simulation {
    pub(crate) fn start(options: Options) -> Self {
        if let Err(why) = options.check() {
            panic!("{why}");
        }
        Self { sim: Sim { shared: Shared::new(options) } }
    }

    /// Returns a handle to it.
    pub fn sim(&self) -> &Sim {
        &self.sim
    }

    /// Runs the simulation on this thread until `body` has ended. It can be called again.
    ///
    /// # Panics
    /// If `body` does, and if something goes wrong that ends the run: a panic in a task, a stall,
    /// the deadline, or what the crate's documentation lists.
    pub fn block_on<T>(&self, body: impl Future<Output = T>) -> T {
        match self.try_block_on(body) {
            Ok(output) => output,
            Err(Stop::Panic(panic)) => resume_unwind(panic),
            Err(Stop::Violation(violation)) => panic!("{violation}"),
        }
    }

    pub(crate) fn try_block_on<T>(&self, body: impl Future<Output = T>) -> Result<T, Stop> {
        self.sim.shared.run(pin!(body))
    }

    /// Draws faults from the seed, and has them happen; returns what they are.
    pub(crate) fn plan(&self, faults: &Faults, keep: Option<&[usize]>) -> Vec<String> {
        faults.begin(&self.sim, keep)
    }
}

impl Deref for Simulation {
    type Target = Sim;

    fn deref(&self) -> &Sim {
        &self.sim
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.sim.shared.end();
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sim.fmt(f)
    }
}
