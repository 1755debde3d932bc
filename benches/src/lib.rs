//! How fast anypea is, beside its peers.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod bed;
pub mod child;
pub mod clients;
pub mod contender;
pub mod contenders;
pub mod entry;
pub mod figures;
pub mod framing;
pub mod inbox;
pub mod measure;
pub mod options;
pub mod plot;
pub mod race;
pub mod table;
pub mod volley;
pub mod workloads;

use std::{env, fs, io, path::PathBuf};

/// Returns cargo's target directory, in which this program lies, and makes sure that it exists.
pub fn target_dir() -> io::Result<PathBuf> {
    // target/release/deps/versus-...
    let program = env::current_exe()?;
    let found = program.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists());
    let dir = found.map_or_else(|| PathBuf::from("target"), PathBuf::from);
    fs::create_dir_all(&dir)?;
    Ok(dir)
}
