//! The simulator passes the conformance kit, with other threads and all.

use anypea_runtime::{
    BoxFuture, Runtime,
    kit::{self, Ended, Harness},
};
use anypea_sim::{Host, Options, Simulation};
use std::{net::IpAddr, sync::Arc};

struct Simulated {
    simulation: Simulation,
    host: Host,
    ip: IpAddr,
}

impl Simulated {
    fn new(seed: u64, ip: impl Fn(&Host) -> IpAddr) -> Self {
        let simulation = Options::seed(seed).contain_panics().allow_threads().start();
        let host = simulation.host();
        let ip = ip(&host);
        Self { simulation, host, ip }
    }
}

impl Harness for Simulated {
    fn runtime(&self) -> Arc<dyn Runtime> {
        self.host.runtime()
    }

    fn block_on(&self, body: BoxFuture<'static, ()>) {
        self.simulation.block_on(body);
    }

    fn end(self: Box<Self>) -> Ended {
        drop(self.simulation);
        Ended::Everything
    }

    fn ip(&self) -> IpAddr {
        self.ip
    }
}

#[test]
fn loopback_conforms() {
    kit::run(|| Simulated::new(1, |_| IpAddr::from([127, 0, 0, 1])));
}

#[test]
fn addresses_of_both_families_conform() {
    kit::run(|| Simulated::new(2, |host| host.ips()[0]));
    kit::run(|| Simulated::new(3, |host| host.ips()[1]));
}
