//! Accepting survives the exhaustion of descriptors (guarantee 9). It is a test binary of its own,
//! since it lowers the limit of its process, and runs one test at a time.

#[path = "../suite/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "most of the harness is for the suite")]
mod harness;

#[cfg(target_os = "linux")]
mod exhaustion;

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    return harness::run(1, [exhaustion::cases()]);
    #[cfg(not(target_os = "linux"))]
    ExitCode::SUCCESS
}
