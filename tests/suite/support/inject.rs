//! Runs system calls in another process, as code does that an attacker brings in (ptrace(2)). The process needs no hook for
//! it. It must have a thread that waits in a system call.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::eventually;

/// The instruction `syscall`, and its length.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
const SYSCALL_BYTES: u64 = SYSCALL.len() as u64;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Below the stack and its red zone.
const SCRATCH_BELOW: u64 = 16 * 1024;

/// What a system call led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The result, negative for an error number.
    Returned(i64),
    KilledBy(Signal),
}

/// A stopped process.
pub struct Injected {
    pid: Pid,
    scratch: u64,
    /// Of the system call in which it was stopped.
    before: libc::user_regs_struct,
}

/// False where the process was killed meanwhile.
fn ptrace(request: libc::c_uint, pid: Pid, data: *mut libc::c_void) -> bool {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: `data` points to what the request takes, or is null.
    let result = unsafe { libc::ptrace(request, pid.as_raw(), none, data) };
    let is_gone = result == -1 && Errno::last() == Errno::ESRCH;
    assert!(result != -1 || is_gone, "ptrace: {}", Errno::last());
    !is_gone
}

fn registers(pid: Pid) -> Option<libc::user_regs_struct> {
    let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::uninit();
    // SAFETY: the kernel has written all of it.
    ptrace(libc::PTRACE_GETREGS, pid, registers.as_mut_ptr().cast()).then(|| unsafe { registers.assume_init() })
}

fn wait(pid: Pid) -> WaitStatus {
    waitpid(pid, Some(WaitPidFlag::__WALL)).expect("the process is traced")
}

impl Injected {
    /// Stops the process once its first thread waits in a system call.
    pub fn attach(pid: u32) -> Injected {
        let pid = Pid::from_raw(pid.cast_signed());
        eventually("a system call", TIMEOUT, || {
            ptrace(libc::PTRACE_ATTACH, pid, std::ptr::null_mut());
            assert!(matches!(wait(pid), WaitStatus::Stopped(_, Signal::SIGSTOP)));
            let registers = registers(pid)?;
            let mut instruction = [0; SYSCALL.len()];
            let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
            let is_read = memory.read_exact_at(&mut instruction, registers.rip - SYSCALL_BYTES);
            if is_read.is_err() || instruction != SYSCALL {
                ptrace(libc::PTRACE_DETACH, pid, std::ptr::null_mut());
                return None;
            }
            Some(Injected {
                pid,
                scratch: (registers.rsp - SCRATCH_BELOW) & !0xfff,
                before: registers,
            })
        })
    }

    /// Writes bytes into the process, and returns their address.
    pub fn write(&self, bytes: &[u8]) -> u64 {
        let memory = File::options().write(true).open(format!("/proc/{}/mem", self.pid));
        let memory = memory.expect("root may write it");
        memory.write_all_at(bytes, self.scratch).expect("a stack");
        self.scratch
    }

    /// A string of C.
    pub fn text(&self, text: &str) -> u64 {
        self.write(&[text.as_bytes(), &[0]].concat())
    }

    pub fn call(&self, number: libc::c_long, arguments: [u64; 4]) -> Outcome {
        const KILLED: Outcome = Outcome::KilledBy(Signal::SIGKILL);
        let Some(mut registers) = registers(self.pid) else {
            return KILLED;
        };
        // The thread was stopped behind this instruction.
        registers.rip -= SYSCALL_BYTES;
        registers.rax = number.cast_unsigned();
        // Nothing to restart.
        registers.orig_rax = u64::MAX;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10] = arguments;
        [registers.r8, registers.r9] = [0; 2];
        let is_there = ptrace(libc::PTRACE_SETREGS, self.pid, (&raw mut registers).cast())
            && ptrace(libc::PTRACE_SINGLESTEP, self.pid, std::ptr::null_mut());
        if !is_there {
            return KILLED;
        }
        match wait(self.pid) {
            WaitStatus::Signaled(_, signal, _) => Outcome::KilledBy(signal),
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                let after = self::registers(self.pid);
                after.map_or(KILLED, |after| Outcome::Returned(after.rax.cast_signed()))
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Injected {
    /// Lets the process go on with its own system call. If it was killed, its parent learns that only after its tracer.
    fn drop(&mut self) {
        ptrace(libc::PTRACE_SETREGS, self.pid, (&raw mut self.before).cast());
        if !ptrace(libc::PTRACE_DETACH, self.pid, std::ptr::null_mut()) {
            let _ = waitpid(self.pid, Some(WaitPidFlag::__WALL));
        }
    }
}
