//! Lists of processors as the kernel writes them (`Documentation/admin-guide/cputopology.rst`).

/// No machine has a processor of a higher number; a broken list must not fill the memory.
pub const MAX_CPU: u32 = 8192;

/// The numbers of a list such as `1,3-5`; what cannot be parsed is left out.
pub fn parse_cpu_list(text: &str) -> Vec<u32> {
    let ranges = text.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        (last <= MAX_CPU).then_some(first..=last)
    });
    ranges.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_parsed() {
        for (list, expected) in [
            ("1,3-5,9\n", vec![1, 3, 4, 5, 9]),
            ("", vec![]),
            ("2,x,7-,0-999999999", vec![2]),
        ] {
            assert_eq!(parse_cpu_list(list), expected, "{list}");
        }
    }
}
