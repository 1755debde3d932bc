//! How fast anypea is, beside its peers.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod bed;
pub mod contender;
pub mod contenders;
pub mod entry;
pub mod framing;
pub mod inbox;
pub mod measure;
pub mod race;
pub mod volley;
pub mod workloads;
