//! tokio passes the conformance kit, on many threads and on one.

use anypea_runtime::{
    BoxFuture, Runtime,
    kit::{self, Ended, Harness},
};
use anypea_tokio::Tokio;
use std::sync::Arc;
use tokio::runtime::{self, Builder};

struct OnTokio(runtime::Runtime);

impl OnTokio {
    fn new(builder: &mut Builder) -> Self {
        Self(builder.enable_all().build().expect("a tokio runtime"))
    }
}

impl Harness for OnTokio {
    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(Tokio::from(self.0.handle().clone()))
    }

    fn block_on(&self, body: BoxFuture<'static, ()>) {
        self.0.block_on(body);
    }

    fn end(self: Box<Self>) -> Ended {
        drop(self.0);
        Ended::Everything
    }
}

#[test]
fn many_threads_conform() {
    kit::run(|| OnTokio::new(Builder::new_multi_thread().worker_threads(4)));
}

#[test]
fn one_thread_conforms() {
    kit::run(|| OnTokio::new(&mut Builder::new_current_thread()));
}
