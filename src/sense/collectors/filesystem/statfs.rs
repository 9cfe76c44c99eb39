//! A client for `statfs(2)` with timeouts: a mount that never answers costs one detached thread and does not delay
//! other mounts for long.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// A worker only holds a path and a `statfs` buffer.
const WORKER_STACK_BYTES: usize = 128 << 10;

/// Minimum timeout of a mount, however long others in the same round took.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);

/// Sizes of a file system, in bytes and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FsUsage {
    pub size_bytes: f64,
    pub free_bytes: f64,
    /// Free for users other than root.
    pub avail_bytes: f64,
    pub files: f64,
    pub files_free: f64,
}

/// The system call, or its substitute in a test.
pub type StatfsCall = Arc<dyn Fn(&Path) -> io::Result<FsUsage> + Send + Sync>;

pub fn system_call() -> StatfsCall {
    Arc::new(|path| {
        let stat = rustix::fs::statfs(path)?;
        let block_bytes = stat.f_bsize as f64;
        Ok(FsUsage {
            size_bytes: stat.f_blocks as f64 * block_bytes,
            free_bytes: stat.f_bfree as f64 * block_bytes,
            avail_bytes: stat.f_bavail as f64 * block_bytes,
            files: stat.f_files as f64,
            files_free: stat.f_ffree as f64,
        })
    })
}

type StatfsResult = io::Result<FsUsage>;

struct StatfsWorker {
    requests: Sender<PathBuf>,
    replies: Receiver<StatfsResult>,
}

/// A client that reads one usage after the other, through one worker thread as long as every mount answers.
pub struct StatfsClient {
    call: StatfsCall,
    patience: Duration,
    worker: Option<StatfsWorker>,
    /// Mount id to the channel of a pending reply. The thread behind it ends when its call returns.
    stuck: HashMap<u32, Receiver<StatfsResult>>,
}

impl StatfsClient {
    /// `patience` is the timeout for all mounts of one round together.
    pub fn new(call: StatfsCall, patience: Duration) -> Self {
        StatfsClient {
            call,
            patience,
            worker: None,
            stuck: HashMap::new(),
        }
    }

    /// Begins a round over these mounts and returns its deadline. Stuck mounts that are gone are forgotten.
    pub fn begin(&mut self, mount_ids: impl Iterator<Item = u32> + Clone) -> Instant {
        self.stuck
            .retain(|id, _| mount_ids.clone().any(|mounted| mounted == *id));
        Instant::now() + self.patience
    }

    /// # Errors
    ///
    /// The error of the call; `TimedOut` at the deadline, and at once while an earlier call on the same mount is
    /// pending.
    pub fn query(&mut self, mount_id: u32, path: &Path, deadline: Instant) -> StatfsResult {
        if let Some(replies) = self.stuck.get(&mount_id) {
            if matches!(replies.try_recv(), Err(TryRecvError::Empty)) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stuck.remove(&mount_id);
        }
        let worker = match self.worker.take() {
            Some(worker) => worker,
            None => start(&self.call)?,
        };
        // A dead worker (its call panicked) counts as an error.
        let gone = || io::Error::other("the worker that asks file systems has died");
        worker.requests.send(path.to_owned()).map_err(|_| gone())?;
        let patience = deadline
            .saturating_duration_since(Instant::now())
            .max(LEAST_PATIENCE.min(self.patience));
        match worker.replies.recv_timeout(patience) {
            Ok(reply) => {
                self.worker = Some(worker);
                reply
            }
            Err(RecvTimeoutError::Timeout) => {
                self.stuck.insert(mount_id, worker.replies);
                Err(io::ErrorKind::TimedOut.into())
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

fn start(call: &StatfsCall) -> io::Result<StatfsWorker> {
    let (requests, received) = channel::<PathBuf>();
    let (reply, replies) = channel();
    let call = Arc::clone(call);
    thread::Builder::new()
        .name("statfs".to_owned())
        .stack_size(WORKER_STACK_BYTES)
        .spawn(move || {
            // The thread ends when the client drops its channels.
            for path in received {
                if reply.send(call(&path)).is_err() {
                    break;
                }
            }
        })?;
    Ok(StatfsWorker { requests, replies })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A call that hangs on `/stuck` until it is released, and counts the threads that are inside it.
    struct Hanging {
        inside: Arc<AtomicUsize>,
        release: Sender<()>,
        call: StatfsCall,
    }

    fn hanging() -> Hanging {
        let inside = Arc::new(AtomicUsize::new(0));
        let (release, released) = channel();
        let released = Mutex::new(released);
        let count = Arc::clone(&inside);
        let call: StatfsCall = Arc::new(move |path: &Path| {
            if path == Path::new("/stuck") {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = released.lock().unwrap().recv();
            }
            Ok(FsUsage {
                size_bytes: 1.0,
                ..FsUsage::default()
            })
        });
        Hanging { inside, release, call }
    }

    #[test]
    fn hanging_mount_costs_one_thread() {
        let hanging = hanging();
        let mut client = StatfsClient::new(Arc::clone(&hanging.call), Duration::from_millis(200));
        for _ in 0..50 {
            let deadline = client.begin([1, 2].into_iter());
            let stuck = client.query(1, Path::new("/stuck"), deadline).unwrap_err();
            assert_eq!(stuck.kind(), io::ErrorKind::TimedOut);
            // The other mount is read even after the round's deadline.
            assert_eq!(
                client.query(2, Path::new("/fine"), Instant::now()).unwrap().size_bytes,
                1.0
            );
        }
        assert_eq!(hanging.inside.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn recovered_mount_is_read_again() {
        let hanging = hanging();
        let mut client = StatfsClient::new(Arc::clone(&hanging.call), Duration::from_millis(20));
        client.query(1, Path::new("/stuck"), Instant::now()).unwrap_err();
        hanging.release.send(()).unwrap();
        let by = Instant::now() + Duration::from_secs(10);
        while client.query(1, Path::new("/fine"), by).is_err() {
            assert!(Instant::now() < by, "never read again");
            thread::yield_now();
        }
    }

    #[test]
    fn panic_in_call_affects_only_its_mount() {
        let call: StatfsCall = Arc::new(|path: &Path| {
            assert_ne!(path, Path::new("/bad"));
            Ok(FsUsage::default())
        });
        let mut client = StatfsClient::new(call, Duration::from_secs(10));
        let deadline = client.begin([1, 2].into_iter());
        client.query(1, Path::new("/bad"), deadline).unwrap_err();
        client.query(2, Path::new("/good"), deadline).unwrap();
    }
}
