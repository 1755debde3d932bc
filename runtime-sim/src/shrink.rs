//! Fewer faults that still fail.

/// Returns a part of `all` for which `fails` is true, as it is for `all`, and of which nothing
/// more can be left out: delta debugging (Zeller and Hildebrandt: "Simplifying and isolating
/// failure-inducing input", 2002).
pub(crate) fn shrink(all: Vec<usize>, mut fails: impl FnMut(&[usize]) -> bool) -> Vec<usize> {
    if all.is_empty() || fails(&[]) {
        return Vec::new();
    }
    let mut kept = all;
    let mut parts = 2;
    while kept.len() > 1 {
        let size = kept.len().div_ceil(parts);
        let chunks: Vec<Vec<usize>> = kept.chunks(size).map(<[usize]>::to_vec).collect();
        let without = |chunk: &Vec<usize>| -> Vec<usize> {
            kept.iter().copied().filter(|fault| !chunk.contains(fault)).collect()
        };
        // With two chunks, leaving out one is trying the other.
        let chunk = (chunks.len() > 2).then(|| chunks.iter().find(|chunk| fails(chunk))).flatten();
        let (next, next_parts) = if let Some(chunk) = chunk {
            (chunk.clone(), 2)
        } else if let Some(rest) = chunks.iter().map(without).find(|rest| fails(rest)) {
            (rest, (parts - 1).max(2))
        } else if parts >= kept.len() {
            break;
        } else {
            parts = (parts * 2).min(kept.len());
            continue;
        };
        (kept, parts) = (next, next_parts);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::shrink;

    #[test]
    fn twenty_faults_shrink_to_two_within_sixty_replays() {
        for (a, b) in [(0, 19), (3, 4), (9, 10), (7, 16), (18, 19), (0, 1)] {
            let mut replays = 0;
            let fails = |faults: &[usize]| {
                replays += 1;
                faults.contains(&a) && faults.contains(&b)
            };
            assert_eq!(shrink((0..20).collect(), fails), [a, b]);
            assert!(replays <= 60, "{replays} replays for {a} and {b}");
        }
    }

    #[test]
    fn what_fails_without_faults_needs_none() {
        assert_eq!(shrink((0..20).collect(), |_| true), []);
    }

    #[test]
    fn a_single_fault_is_found() {
        for one in 0..20 {
            assert_eq!(shrink((0..20).collect(), |faults| faults.contains(&one)), [one]);
        }
    }

    #[test]
    fn nothing_is_left_out_that_matters() {
        assert_eq!(shrink((0..5).collect(), |faults| faults.len() == 5), [0, 1, 2, 3, 4]);
    }
}
