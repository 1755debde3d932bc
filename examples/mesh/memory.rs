//! How much memory the process has.

/// Returns the bytes of memory that are the process's own and resident; `None` where the system
/// doesn't tell.
///
/// From `/proc/self/smaps_rollup`, which Linux recommends where exact numbers are needed
/// (proc_pid_statm(5)). Memory that the kernel keeps for sockets is not in it.
pub fn resident_bytes() -> Option<u64> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Returns by how much the memory has grown for each of so many things.
pub fn growth(before: Option<u64>, after: Option<u64>, things: usize) -> Option<u64> {
    Some(after?.saturating_sub(before?) / things as u64)
}
