//! The capabilities of this process (capabilities(7)): their names, and dropping them.

use rustix::io::Result;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities,
};

/// The effective capabilities of the calling thread.
pub fn effective() -> CapabilitySet {
    capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
}

/// Drops all other capabilities of the calling thread, also those that an executable file could give back.
///
/// # Errors
/// When the kernel refuses.
pub fn keep_only(needed: CapabilitySet) -> Result<()> {
    let now = capabilities(None)?;
    bound(now.effective, needed);
    // Kernels before 4.3 have no ambient set.
    let _ = clear_ambient_capability_set();
    let kept = CapabilitySets {
        effective: now.effective & needed,
        permitted: now.permitted & needed,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, kept)
}

/// Drops all capabilities of the calling thread that an executable file could give back, and keeps those that it has.
pub fn empty_bounding_set() {
    bound(effective(), CapabilitySet::empty());
}

fn bound(effective: CapabilitySet, needed: CapabilitySet) {
    if !effective.contains(CapabilitySet::SETPCAP) {
        return;
    }
    for capability in (CapabilitySet::all() - needed).iter() {
        // A kernel may lack the newest ones.
        let _ = remove_capability_from_bounding_set(capability);
    }
}

/// As in `CAP_KILL CAP_SYS_NICE`, or `none`.
pub fn names(capabilities: CapabilitySet) -> String {
    let names: Vec<String> = capabilities
        .iter_names()
        .map(|(name, _)| format!("CAP_{name}"))
        .collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(" "),
    }
}

/// A set as a number, in a message to another process.
pub mod bits {
    use super::CapabilitySet;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(set: &CapabilitySet, serializer: S) -> Result<S::Ok, S::Error> {
        set.bits().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CapabilitySet, D::Error> {
        u64::deserialize(deserializer).map(CapabilitySet::from_bits_retain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_dropped_for_good() {
        // The kernel keeps them for each thread, so other tests keep theirs.
        let dropped = std::thread::spawn(|| {
            let before = effective();
            keep_only(CapabilitySet::KILL | CapabilitySet::SYS_NICE).unwrap();
            let all = CapabilitySets {
                effective: before,
                permitted: before,
                inheritable: CapabilitySet::empty(),
            };
            (before, effective(), set_capabilities(None, all).is_err())
        });
        let (before, after, is_final) = dropped.join().unwrap();
        assert_eq!(after, before & (CapabilitySet::KILL | CapabilitySet::SYS_NICE));
        assert!(before == after || is_final);
    }

    #[test]
    fn names_are_those_of_the_manual() {
        assert_eq!(
            names(CapabilitySet::KILL | CapabilitySet::SYS_NICE),
            "CAP_KILL CAP_SYS_NICE"
        );
        assert_eq!(names(CapabilitySet::empty()), "none");
    }
}
