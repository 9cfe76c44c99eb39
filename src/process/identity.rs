//! The identity of a process: boot id, pid and start time in ticks. A pid alone is not an identity, because the
//! kernel reuses it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `/proc/sys/kernel/random/boot_id`: new at every boot (random(4)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootId(pub u128);

/// The identity of a process, unique across pids, reboots and time on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    pub boot: BootId,
    pub pid: i32,
    /// Clock ticks between boot and the start of the process: field 22 of `/proc/PID/stat` (proc(5)).
    pub start_ticks: u64,
}

impl Identity {
    /// The first thread, which stands for the process.
    pub fn main_thread(self) -> Thread {
        Thread {
            tid: self.pid,
            start_ticks: self.start_ticks,
        }
    }
}

/// A thread, because most knobs belong to threads in Linux. The start time is needed because thread ids are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thread {
    pub tid: i32,
    pub start_ticks: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a boot id (32 hexadecimal digits with dashes)")]
pub struct NotABootId(String);

impl FromStr for BootId {
    type Err = NotABootId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        if digits.len() != 32 {
            return Err(NotABootId(text.to_owned()));
        }
        u128::from_str_radix(&digits, 16)
            .map(BootId)
            .map_err(|_| NotABootId(text.to_owned()))
    }
}

impl TryFrom<String> for BootId {
    type Error = NotABootId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<BootId> for String {
    fn from(boot: BootId) -> String {
        boot.to_string()
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        write!(
            f,
            "{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        )
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.pid, self.start_ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_id_reads_what_it_writes() {
        let text = "6e0d8a1c-0c1d-4f3e-9a52-0123456789ab";
        let boot: BootId = format!("{text}\n").parse().unwrap();
        assert_eq!(boot.to_string(), text);
        assert!("6e0d8a1c".parse::<BootId>().is_err());
    }
}
