//! How a host goes down, and up again.

use crate::{
    Crash, Host, Sim,
    shared::{Shared, lock},
};
use anypea_runtime::BoxFuture;
use std::sync::Arc;

/// Starts the program of a host.
pub(crate) trait Boot: Send + Sync {
    fn start(&self, host: Host) -> BoxFuture<'static, ()>;
    /// Forgets what has run there.
    fn clear(&self, host: u32);
}

impl Shared {
    pub(crate) fn crash(self: &Arc<Self>, host: u32, how: Crash) {
        let life = self.with(|world| {
            let state = &world.hosts[host as usize];
            let life = state.life.clone();
            if how == Crash::PowerLoss || life.is_alive() {
                world.crash_network(host, how == Crash::PowerLoss);
            }
            life
        });
        if !life.is_alive() {
            return;
        }
        life.end();
        self.drop_tasks(host);
        lock(&self.tasks).resume(host);
        let boot = lock(&self.boots).get(host as usize).cloned().flatten();
        if let Some(boot) = boot {
            boot.clear(host);
        }
        self.with(|world| world.wake_alarms(host));
    }

    pub(crate) fn restart(self: &Arc<Self>, host: u32) {
        let down = self.with(|world| {
            let state = &world.hosts[host as usize];
            if state.life.is_alive() {
                return false;
            }
            let life = Arc::new(world.new_life(host, state.lives));
            let state = &mut world.hosts[host as usize];
            state.lives += 1;
            state.life = life;
            state.powered = true;
            state.sending_until = 0;
            true
        });
        let boot = lock(&self.boots).get(host as usize).cloned().flatten();
        if let Some(boot) = boot.filter(|_| down && !self.is_over()) {
            let task = boot.start(Sim { shared: self.clone() }.handle(host));
            self.spawn(host, task);
        }
    }
}
