//! The system calls that are denied (seccomp(2)): those that no part of evenkeel makes and that break out of a sandbox,
//! load code into the kernel, read the memory of other processes, or change the host as a whole. A list of what is allowed
//! would break with each release of libc and SQLite.

use nix::libc;
use seccompiler::{
    BackendError, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

/// Bits of the argument of clone(2) that make a new namespace.
pub(super) const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// The calls that are denied with any arguments.
const DENIED: &[libc::c_long] = &[
    // Other programs, which only the runner starts.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // The memory and the files of other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // The kernel: its code, its keys, and interfaces with a history of faults.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_fanotify_init,
    libc::SYS_syslog,
    // The host as a whole. adjtimex(2) stays, which reads the clock's state for `timex`.
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_vhangup,
    libc::SYS_personality,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
];

/// The bit of the numbers of the x32 interface, which reaches the same calls.
#[cfg(target_arch = "x86_64")]
const X32: libc::c_long = 0x4000_0000;

/// Why no call is denied.
#[derive(Debug, thiserror::Error)]
pub enum SystemCallsError {
    #[error("no list of system calls for this processor: {0}")]
    Filter(#[from] BackendError),
    #[error("the kernel refused it: {0}")]
    Kernel(#[from] seccompiler::Error),
}

/// A condition on the low half of an argument.
fn condition(argument: u8, operator: SeccompCmpOp, value: libc::c_int) -> Result<SeccompRule, BackendError> {
    let value = u64::from(value.cast_unsigned());
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
    SeccompRule::new(vec![condition])
}

/// The rule for calls whose argument has all these bits.
fn has_bits(argument: u8, bits: libc::c_int) -> Result<SeccompRule, BackendError> {
    let mask = SeccompCmpOp::MaskedEq(u64::from(bits.cast_unsigned()));
    condition(argument, mask, bits)
}

/// The calls that are denied, with the arguments for which they are; no arguments are all.
fn denied() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|&call| (call, Vec::new())).collect();
    let namespaces = NAMESPACES.iter().map(|&namespace| has_bits(0, namespace));
    denied.insert(libc::SYS_clone, namespaces.collect::<Result<_, _>>()?);
    // Memory that is written and run, as MemoryDenyWriteExecute= of systemd.
    denied.insert(libc::SYS_mmap, vec![has_bits(2, libc::PROT_WRITE | libc::PROT_EXEC)?]);
    for call in [libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        denied.insert(call, vec![has_bits(2, libc::PROT_EXEC)?]);
    }
    denied.insert(libc::SYS_shmat, vec![has_bits(2, libc::SHM_EXEC)?]);
    #[cfg(target_arch = "x86_64")]
    {
        let of_x32: Vec<_> = denied.iter().map(|(call, rules)| (call | X32, rules.clone())).collect();
        denied.extend(of_x32);
    }
    Ok(denied)
}

/// Denies the calls to the calling thread and those that it starts. A denied call fails with EPERM.
///
/// # Errors
/// When the kernel has no filters, or the processor is none of those with a list.
pub fn deny() -> Result<(), SystemCallsError> {
    // Arguments of clone3(2) are in memory, where a filter cannot read them. libc uses clone(2) after ENOSYS.
    let mut missing = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    #[cfg(target_arch = "x86_64")]
    missing.insert(libc::SYS_clone3 | X32, Vec::new());
    for (calls, errno) in [(missing, libc::ENOSYS), (denied()?, libc::EPERM)] {
        let architecture = std::env::consts::ARCH.try_into()?;
        let answer = SeccompAction::Errno(errno.cast_unsigned());
        let filter = SeccompFilter::new(calls, SeccompAction::Allow, answer, architecture)?;
        let program: seccompiler::BpfProgram = filter.try_into()?;
        seccompiler::apply_filter(&program)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use std::process::Command;

    /// The error of a call with these arguments, in a thread with the filter.
    fn errno(call: libc::c_long, arguments: [libc::c_long; 3]) -> Errno {
        let [first, second, third] = arguments;
        // SAFETY: each call of the tests fails, with the filter or because of its arguments.
        match unsafe { libc::syscall(call, first, second, third, -1, 0, 0) } {
            -1 => Errno::last(),
            _ => Errno::from_raw(0),
        }
    }

    #[test]
    fn calls_are_denied_and_threads_start() {
        // A filter applies to one thread, so other tests go on.
        let filtered = std::thread::spawn(|| {
            deny().unwrap();
            let writable_code = [0, 4096, (libc::PROT_WRITE | libc::PROT_EXEC).into()];
            let answers = [
                errno(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0]),
                errno(libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), 1, 0]),
                errno(libc::SYS_clone, [libc::CLONE_NEWPID.into(), 0, 0]),
                errno(libc::SYS_clone3, [0; 3]),
                errno(libc::SYS_mmap, writable_code),
                errno(libc::SYS_mprotect, [0, 0, libc::PROT_EXEC.into()]),
                errno(libc::SYS_mprotect, [0, 0, libc::PROT_READ.into()]),
            ];
            let program = Command::new("true").status().map_err(|error| error.raw_os_error());
            let thread = std::thread::spawn(|| 7).join().unwrap();
            (answers, program.unwrap_err(), thread)
        });
        let (answers, program, thread) = filtered.join().unwrap();
        let (denied, missing) = (Errno::EPERM, Errno::ENOSYS);
        let expected = [denied, denied, denied, missing, denied, denied, Errno::from_raw(0)];
        assert_eq!(answers, expected);
        assert_eq!((program, thread), (Some(libc::EPERM), 7));
    }

    #[test]
    fn no_call_is_in_the_list_twice() {
        let mut calls = DENIED.to_vec();
        calls.sort_unstable();
        calls.dedup();
        assert_eq!(calls.len(), DENIED.len());
    }
}
