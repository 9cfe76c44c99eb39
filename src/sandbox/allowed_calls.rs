//! The system calls of a process that serves the network from sockets that it already has (seccomp(2)): a list of what is
//! allowed. A call of the second list means that foreign code runs in the process, so it kills the process. Any other call
//! fails with EPERM.

use super::system_calls::{NAMESPACES, SystemCallsError};
use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::collections::BTreeMap;

/// Of fcntl(2), and of ioctl(2) on sockets (asm-generic/fcntl.h, ioctls.h and sockios.h), which libc lacks in part.
const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;
const FIOASYNC: libc::c_int = 0x5452;
const FIOSETOWN: libc::c_int = 0x8901;
const SIOCSPGRP: libc::c_int = 0x8902;

type Calls = BTreeMap<i64, Vec<SeccompRule>>;

/// The calls that are allowed with any arguments.
const ALLOWED: &[libc::c_long] = &[
    // The sockets that exist, and the connections that they accept.
    libc::SYS_accept4,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_close,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_fstat,
    // Waiting.
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    // Memory, threads and signals of the process itself.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Answered with ENOSYS, see below.
    libc::SYS_clone3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_getrlimit,
];

/// The calls that no part of the process makes, and an attacker needs.
const DEADLY: &[libc::c_long] = &[
    // Programs, and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pidfd_getfd,
    // Files.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_open_by_handle_at,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_truncate,
    libc::SYS_memfd_create,
    // Other sockets.
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    // Privileges, and the kernel.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_chroot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
];

fn condition(argument: u8, operator: SeccompCmpOp, value: libc::c_int) -> Result<SeccompCondition, BackendError> {
    let value = u64::from(value.cast_unsigned());
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// That the argument has of these bits exactly those of `value`.
fn of_bits(argument: u8, bits: libc::c_int, value: libc::c_int) -> Result<SeccompCondition, BackendError> {
    let mask = SeccompCmpOp::MaskedEq(u64::from(bits.cast_unsigned()));
    condition(argument, mask, value)
}

fn equal(argument: u8, value: libc::c_int) -> Result<SeccompCondition, BackendError> {
    condition(argument, SeccompCmpOp::Eq, value)
}

/// That the argument, a pointer or a number of 64 bits, is zero.
fn zero(argument: u8) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)
}

/// The calls that meet all of the conditions.
fn rule<const COUNT: usize>(
    conditions: [Result<SeccompCondition, BackendError>; COUNT],
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

/// The rules of a call on sockets, by its arguments. All sockets but those of connections are shared with later
/// frontends, and standard error with the actuator.
fn of_sockets() -> Result<[(i64, Vec<SeccompRule>); 5], BackendError> {
    let stream = condition(0, SeccompCmpOp::Gt, libc::STDERR_FILENO);
    let option = |level, name| rule([equal(1, level), equal(2, name)]);
    Ok([
        // Bytes on a connection, and no new connection (MSG_FASTOPEN).
        (
            libc::SYS_sendto,
            vec![rule([
                of_bits(3, !(libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT), 0),
                zero(4),
            ])?],
        ),
        // The other directions would end a listening socket for good.
        (libc::SYS_shutdown, vec![rule([stream, equal(1, libc::SHUT_WR)])?]),
        (
            libc::SYS_setsockopt,
            vec![
                option(libc::IPPROTO_TCP, libc::TCP_NODELAY)?,
                option(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT)?,
            ],
        ),
        (libc::SYS_getsockopt, vec![option(libc::SOL_SOCKET, libc::SO_ERROR)?]),
        // Flags, which are read and not set.
        (
            libc::SYS_fcntl,
            vec![rule([equal(1, libc::F_GETFD)])?, rule([equal(1, libc::F_GETFL)])?],
        ),
    ])
}

/// The rules of calls that make the kernel signal any process of the same user when something arrives on a socket.
fn of_signals() -> Result<[(i64, Vec<SeccompRule>); 2], BackendError> {
    let commands = [libc::F_SETOWN, F_SETOWN_EX, F_SETSIG];
    let mut fcntl: Vec<_> = commands
        .into_iter()
        .map(|command| rule([equal(1, command)]))
        .collect::<Result<_, _>>()?;
    fcntl.push(rule([
        equal(1, libc::F_SETFL),
        of_bits(2, libc::O_ASYNC, libc::O_ASYNC),
    ])?);
    let requests = [FIOASYNC, FIOSETOWN, SIOCSPGRP];
    let ioctl = requests.into_iter().map(|request| rule([equal(1, request)]));
    Ok([
        (libc::SYS_fcntl, fcntl),
        (libc::SYS_ioctl, ioctl.collect::<Result<_, _>>()?),
    ])
}

fn allowed(own_pid: libc::c_int) -> Result<Calls, BackendError> {
    let mut allowed: Calls = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    // Threads, and no processes and namespaces.
    let of_clone = NAMESPACES
        .iter()
        .fold(libc::CLONE_THREAD, |bits, namespace| bits | namespace);
    allowed.insert(libc::SYS_clone, vec![rule([of_bits(0, of_clone, libc::CLONE_THREAD)])?]);
    // Memory that does not run.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        allowed.insert(call, vec![rule([of_bits(2, libc::PROT_EXEC, 0)])?]);
    }
    // The names of threads and of memory.
    let names = [libc::PR_SET_NAME, libc::PR_SET_VMA];
    let names = names.into_iter().map(|name| rule([equal(0, name)]));
    allowed.insert(libc::SYS_prctl, names.collect::<Result<_, _>>()?);
    // abort(3).
    allowed.insert(libc::SYS_tgkill, vec![rule([equal(0, own_pid)])?]);
    // Limits of this process, which are read and not set.
    allowed.insert(libc::SYS_prlimit64, vec![rule([zero(2)])?]);
    allowed.extend(of_sockets()?);
    Ok(allowed)
}

fn deadly(own_pid: libc::c_int) -> Result<Calls, BackendError> {
    let mut deadly: Calls = DEADLY.iter().map(|&call| (call, Vec::new())).collect();
    deadly.insert(libc::SYS_clone, vec![rule([of_bits(0, libc::CLONE_THREAD, 0)])?]);
    let others = condition(0, SeccompCmpOp::Ne, own_pid);
    deadly.insert(libc::SYS_tgkill, vec![rule([others])?]);
    deadly.extend(of_signals()?);
    Ok(deadly)
}

/// Allows the calling thread, and those that it starts, the calls of the list only.
///
/// # Errors
/// When the kernel has no filters, or the processor is none of those with a list.
pub fn allow_only() -> Result<(), SystemCallsError> {
    let own_pid = std::process::id().cast_signed();
    let errno = |errno: libc::c_int| SeccompAction::Errno(errno.cast_unsigned());
    // libc uses clone(2) after ENOSYS. The arguments of clone3(2) are in memory, where a filter cannot read them.
    let missing = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    // The list of what is allowed comes last, because it denies further filters. Of several answers the kernel takes the
    // strictest.
    let filters = [
        (missing, SeccompAction::Allow, errno(libc::ENOSYS)),
        (deadly(own_pid)?, SeccompAction::Allow, SeccompAction::KillProcess),
        (allowed(own_pid)?, errno(libc::EPERM), SeccompAction::Allow),
    ];
    let mut programs = Vec::new();
    for (calls, otherwise, listed) in filters {
        let filter = SeccompFilter::new(calls, otherwise, listed, std::env::consts::ARCH.try_into()?)?;
        programs.push(BpfProgram::try_from(filter)?);
    }
    for program in &programs {
        seccompiler::apply_filter(program)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    fn errno(call: libc::c_long, arguments: [libc::c_long; 3]) -> Errno {
        let [first, second, third] = arguments;
        // SAFETY: each call of the test fails, with the filter or because of its arguments.
        match unsafe { libc::syscall(call, first, second, third, -1, 0, 0) } {
            -1 => Errno::last(),
            _ => Errno::from_raw(0),
        }
    }

    #[test]
    fn calls_beside_the_list_fail_and_threads_start() {
        // A filter applies to one thread, so other tests go on.
        let filtered = std::thread::spawn(|| {
            allow_only().unwrap();
            let writable_code = [0, 4096, (libc::PROT_WRITE | libc::PROT_EXEC).into()];
            let answers = [
                errno(libc::SYS_getcwd, [0; 3]),
                errno(libc::SYS_mmap, writable_code),
                errno(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0]),
                errno(libc::SYS_clone3, [0; 3]),
                errno(libc::SYS_close, [-1, 0, 0]),
            ];
            (answers, std::thread::spawn(|| 7).join().unwrap())
        });
        let (answers, thread) = filtered.join().unwrap();
        let denied = Errno::EPERM;
        assert_eq!(answers, [denied, denied, denied, Errno::ENOSYS, Errno::EBADF]);
        assert_eq!(thread, 7);
    }

    #[test]
    fn sockets_send_and_end_but_connect_and_change_nothing() {
        use std::io::{Read, Write};
        use std::net::{Shutdown, TcpListener, TcpStream};
        use std::os::fd::AsRawFd;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let fd = libc::c_long::from(listener.as_raw_fd());
        let (tcp, socket) = (libc::IPPROTO_TCP.into(), libc::SOL_SOCKET.into());
        let filtered = std::thread::spawn(move || {
            allow_only().unwrap();
            let denied = [
                errno(libc::SYS_shutdown, [fd, libc::SHUT_RDWR.into(), 0]),
                errno(libc::SYS_shutdown, [fd, libc::SHUT_RD.into(), 0]),
                errno(
                    libc::SYS_shutdown,
                    [libc::STDERR_FILENO.into(), libc::SHUT_WR.into(), 0],
                ),
                errno(libc::SYS_setsockopt, [fd, socket, libc::SO_LOCK_FILTER.into()]),
                errno(libc::SYS_getsockopt, [fd, socket, libc::SO_PEERCRED.into()]),
                errno(libc::SYS_sendmsg, [fd, 0, 0]),
                // Its fourth argument, the flags, is -1 in all calls of the test.
                errno(libc::SYS_sendto, [fd, 0, 0]),
                errno(libc::SYS_fcntl, [fd, libc::F_SETFL.into(), 0]),
                errno(libc::SYS_ioctl, [fd, libc::FIONBIO.cast_signed(), 0]),
            ];
            stream.set_nodelay(true).unwrap();
            assert!(stream.take_error().unwrap().is_none());
            stream.write_all(b"x").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let no_value = errno(libc::SYS_setsockopt, [fd, tcp, libc::TCP_USER_TIMEOUT.into()]);
            (denied, no_value)
        });
        let (denied, no_value) = filtered.join().unwrap();
        assert_eq!(denied, [Errno::EPERM; 9]);
        assert_ne!(no_value, Errno::EPERM);
        let mut text = String::new();
        peer.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        assert!(TcpStream::connect(listener.local_addr().unwrap()).is_ok());
    }

    #[test]
    fn no_call_is_both_allowed_and_deadly() {
        let both = ALLOWED.iter().filter(|call| DEADLY.contains(call));
        assert_eq!(both.count(), 0);
    }
}
