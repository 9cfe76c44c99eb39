//! A FUSE file system whose server answers nothing but the first request, so that each process that asks it waits.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};

const POLL_TIMEOUT_MS: u16 = 50;

/// include/uapi/linux/fuse.h
mod protocol {
    pub const INIT: u32 = 26;
    /// `fuse_in_header`: length, opcode, unique number of the request, and more.
    pub const HEAD_BYTES: usize = 40;
    pub const MAX_REQUEST_BYTES: usize = 128 << 10;

    /// `fuse_out_header` and `fuse_init_out` of version 7.31, without any of the optional features.
    pub fn answer_to_init(unique: u64) -> Vec<u8> {
        let mut body = Vec::new();
        for number in [7_u32, 31, 4096, 0] {
            body.extend(number.to_ne_bytes());
        }
        // Limit and congestion threshold of background requests.
        body.extend(12_u16.to_ne_bytes());
        body.extend(9_u16.to_ne_bytes());
        // Largest write, granularity of times.
        body.extend(4096_u32.to_ne_bytes());
        body.extend(1_u32.to_ne_bytes());
        body.resize(64, 0);
        let mut answer = Vec::new();
        answer.extend((16 + body.len() as u32).to_ne_bytes());
        answer.extend(0_i32.to_ne_bytes());
        answer.extend(unique.to_ne_bytes());
        answer.extend(body);
        answer
    }
}

/// The open `/dev/fuse` of a mount that another process makes.
pub struct Device(File);

impl Device {
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Lets a command inherit the descriptor. Other commands do not, because other tests start programs concurrently.
    pub fn pass_to(&self, command: &mut Command) {
        let descriptor = self.descriptor();
        // SAFETY: between fork and exec only the flags of an open descriptor are set.
        unsafe {
            command.pre_exec(move || {
                let descriptor = BorrowedFd::borrow_raw(descriptor);
                fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
                Ok(())
            });
        }
    }

    pub fn serve(self) -> Swallower {
        Swallower::start(self.0)
    }
}

/// The server of the mount, which only responds to the initial request. The kernel aborts the mount when no process has
/// its device open, neither this one nor `unshare`. Until then not even SIGKILL ends a process that waits for it.
pub struct Swallower {
    swallowed: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Swallower {
    pub fn open() -> Device {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK);
        let device = options.open("/dev/fuse");
        Device(device.expect("run the tests as root, on a kernel with FUSE"))
    }

    /// Number of requests without an answer.
    pub fn requests(&self) -> usize {
        self.swallowed.load(Ordering::Relaxed)
    }

    /// The file is the open `/dev/fuse` of a mount.
    fn start(mut device: File) -> Self {
        let (swallowed, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, told) = (Arc::clone(&swallowed), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            let mut request = vec![0; protocol::MAX_REQUEST_BYTES];
            while !told.load(Ordering::Relaxed) {
                let mut asked = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
                if poll(&mut asked, POLL_TIMEOUT_MS).expect("an open device") == 0 {
                    continue;
                }
                let length = match device.read(&mut request) {
                    Ok(length) => length,
                    // The caller has disconnected.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => panic!("the mount cannot be served: {error}"),
                };
                assert!(length >= protocol::HEAD_BYTES, "{length} bytes are no request");
                let opcode = u32::from_ne_bytes(request[4..8].try_into().expect("four bytes"));
                let unique = u64::from_ne_bytes(request[8..16].try_into().expect("eight bytes"));
                match opcode {
                    protocol::INIT => device
                        .write_all(&protocol::answer_to_init(unique))
                        .expect("a kernel that listens"),
                    _ => drop(counted.fetch_add(1, Ordering::Relaxed)),
                }
            }
        });
        Swallower {
            swallowed,
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for Swallower {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(
            std::thread::panicking() || matches!(ended, Some(Ok(()))),
            "the mount's server failed"
        );
    }
}
