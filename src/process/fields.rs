//! A process: the fields of `/proc/PID/stat`, and the expensive fields that were read.

use super::file_id::FileId;
use super::identity::{BootId, Identity};
use serde::{Deserialize, Serialize};
use std::time::Duration;

bitflags::bitflags! {
    /// The expensive fields to read.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct ProcessFields: u16 {
        const CMDLINE = 1 << 0;
        const EXE = 1 << 1;
        /// Effective uid and its user name.
        const USER = 1 << 2;
        const CGROUP = 1 << 3;
        /// The signals that the process catches.
        const SIGNALS = 1 << 4;
        const OOM_SCORE = 1 << 5;
        /// Processor use, from two readings of the table.
        const CPU = 1 << 6;
        const SWAP = 1 << 7;
        const CONTEXT_SWITCHES = 1 << 8;
        const IO = 1 << 9;
        /// The number of open files and its limit. The most expensive field, because a busy server has thousands.
        const OPEN_FDS = 1 << 10;
        /// Whether the executable is the host's own, whose path `EXE` is.
        const HOST_PROGRAM = 1 << 11;
        /// Whether the process leads a login session, which depends on `CGROUP`.
        const LOGIN = 1 << 12;
        const REAL_UID = 1 << 13;
        /// The same as `HOST_PROGRAM`, of a process whose executable has the file name of a protected program.
        const PROTECTED_PROGRAM = 1 << 14;
    }
}

/// The fields of `/proc/PID/stat`, and the expensive fields that were read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    pub identity: Identity,
    /// `comm`, with U+FFFD in place of bytes that are not UTF-8.
    pub name: String,
    pub parent: i32,
    pub session: i32,
    pub has_terminal: bool,
    /// A live thread, where the first thread has exited. `state`, `nice` and memory are those of this thread.
    #[serde(default)]
    pub live_thread: Option<i32>,
    /// The state letter of proc(5).
    pub state: char,
    pub is_kernel_thread: bool,
    pub threads: u32,
    /// The nice value of the main thread.
    pub nice: i32,
    /// User and system time in clock ticks.
    pub cpu_ticks: u64,
    /// The system time within `cpu_ticks`.
    pub system_ticks: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
    pub virtual_bytes: u64,
    pub resident_bytes: u64,
    /// Start on CLOCK_BOOTTIME, to one clock tick.
    pub born_at: Duration,
    pub age: Duration,
    /// Processor cores over at least [`MIN_CPU_WINDOW`](super::cpu_baseline::MIN_CPU_WINDOW); `None` until measured.
    pub cpu_cores: Option<f64>,
    pub details: Details,
}

/// The expensive fields. `None` is "not read" or "unreadable".
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Details {
    pub cmdline: Option<String>,
    /// Why the fields are incomplete or do not belong together.
    #[serde(default)]
    pub unread: Option<Unread>,
    pub exe: Option<String>,
    /// The file of the executable. `None` although `exe` is known: evenkeel may not look at it.
    #[serde(default)]
    pub exe_file: Option<FileId>,
    /// Whether `exe` is the file at that path on this host, and only root can write it.
    #[serde(default)]
    pub is_host_program: Option<bool>,
    /// Whether the end of the process ends the login of a user.
    #[serde(default)]
    pub leads_login: Option<bool>,
    /// The effective uid.
    pub uid: Option<u32>,
    #[serde(default)]
    pub real_uid: Option<u32>,
    pub user: Option<String>,
    /// Whether the name was not looked up in time, so that `user` says nothing.
    #[serde(default)]
    pub has_unknown_user: bool,
    pub cgroup: Option<String>,
    /// Bit N-1 is set if signal N is caught (`SigCgt`).
    pub caught_signals: Option<u64>,
    pub oom_score: Option<i64>,
    #[serde(default)]
    pub usage: Usage,
}

/// The reason why a process was not read completely. Such a process is never a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Unread {
    #[error("reading the command line timed out")]
    Blocked,
    #[error("its command line was not read in time")]
    OutOfTime,
    #[error("it runs another program each time it is read")]
    Changing,
    #[error("looking up the path of its executable timed out")]
    LookupBlocked,
    #[error("the name of its user was not looked up in time")]
    UnknownUser,
}

/// The resource use of a process beyond `/proc/PID/stat`. `None` is "not read" or "unreadable".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    pub swap_bytes: Option<u64>,
    /// Context switches of the main thread only, as in `/proc/PID/status`.
    pub voluntary_switches: Option<u64>,
    pub involuntary_switches: Option<u64>,
    /// Bytes from and to storage (`/proc/PID/io`, proc(5)).
    pub read_bytes: Option<u64>,
    pub write_bytes: Option<u64>,
    pub open_fds: Option<u64>,
    /// The soft limit; `None` also if there is no limit.
    pub max_fds: Option<u64>,
}

impl Usage {
    /// Whether all needed fields were read.
    pub fn is_complete(&self, needs: ProcessFields) -> bool {
        let is_there = |need, values: &[Option<u64>]| !needs.contains(need) || values.iter().all(Option::is_some);
        is_there(ProcessFields::SWAP, &[self.swap_bytes])
            && is_there(
                ProcessFields::CONTEXT_SWITCHES,
                &[self.voluntary_switches, self.involuntary_switches],
            )
            && is_there(ProcessFields::IO, &[self.read_bytes, self.write_bytes])
            && is_there(ProcessFields::OPEN_FDS, &[self.open_fds])
    }
}

impl Process {
    /// Whether the process is a zombie without running threads.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x') && self.threads <= 1
    }

    /// Whether only the first thread has exited.
    pub(super) fn is_leader_gone(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x') && self.threads > 1
    }

    /// A plain process of a simulated host: one thread, nice 0, an hour old, no details.
    pub fn example(pid: i32, name: &str) -> Process {
        Process {
            identity: Identity {
                boot: BootId(1),
                pid,
                start_ticks: 1000 + pid as u64,
            },
            name: name.to_owned(),
            parent: 1,
            session: 0,
            has_terminal: false,
            live_thread: None,
            state: 'S',
            is_kernel_thread: false,
            threads: 1,
            nice: 0,
            cpu_ticks: 0,
            system_ticks: 0,
            minor_faults: 0,
            major_faults: 0,
            virtual_bytes: 0,
            resident_bytes: 0,
            born_at: Duration::from_millis((1000 + pid as u64) * 10),
            age: Duration::from_secs(3600),
            cpu_cores: None,
            details: Details::default(),
        }
    }
}
