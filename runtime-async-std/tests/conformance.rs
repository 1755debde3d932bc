//! async-std passes the conformance kit.

use anypea_async_std::AsyncStd;
use anypea_runtime::{
    BoxFuture, Runtime,
    kit::{self, Harness},
};
use std::sync::Arc;

struct OnAsyncStd;

impl Harness for OnAsyncStd {
    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(AsyncStd)
    }

    fn block_on(&self, body: BoxFuture<'static, ()>) {
        async_std::task::block_on(body);
    }
}

#[test]
fn async_std_conforms() {
    kit::run(|| OnAsyncStd);
}
