//! `statfs(2)` asked so that a mount that never answers costs one thread once, and nobody else anything. Owns the
//! detached worker per such mount; knows no metric.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// A worker only holds a path and a `statfs` buffer.
const WORKER_STACK_BYTES: usize = 128 << 10;

/// What every mount gets, however long others in the same round were waited for.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);

/// Sizes of a file system, in bytes and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    pub size_bytes: f64,
    pub free_bytes: f64,
    /// Free to users other than root.
    pub avail_bytes: f64,
    pub files: f64,
    pub files_free: f64,
}

/// The system call, or what stands for it in a test.
pub type Call = Arc<dyn Fn(&Path) -> io::Result<Usage> + Send + Sync>;

pub fn system_call() -> Call {
    Arc::new(|path| {
        let stat = rustix::fs::statfs(path)?;
        let block_bytes = stat.f_bsize as f64;
        Ok(Usage {
            size_bytes: stat.f_blocks as f64 * block_bytes,
            free_bytes: stat.f_bfree as f64 * block_bytes,
            avail_bytes: stat.f_bavail as f64 * block_bytes,
            files: stat.f_files as f64,
            files_free: stat.f_ffree as f64,
        })
    })
}

type Answer = io::Result<Usage>;

struct Worker {
    questions: Sender<PathBuf>,
    answers: Receiver<Answer>,
}

/// Asks for usages one after the other, through one worker thread as long as every mount answers.
pub struct Asker {
    call: Call,
    patience: Duration,
    worker: Option<Worker>,
    /// Mount id to where the answer will come, should it ever. The thread behind ends when its call returns.
    stuck: HashMap<u32, Receiver<Answer>>,
}

impl Asker {
    /// `patience` is for all mounts of one round together.
    pub fn new(call: Call, patience: Duration) -> Self {
        Asker {
            call,
            patience,
            worker: None,
            stuck: HashMap::new(),
        }
    }

    /// Begins a round over these mounts: forgets stuck ones that are no longer mounted, and says until when to wait.
    pub fn begin(&mut self, mount_ids: impl Iterator<Item = u32> + Clone) -> Instant {
        self.stuck
            .retain(|id, _| mount_ids.clone().any(|mounted| mounted == *id));
        Instant::now() + self.patience
    }

    /// # Errors
    ///
    /// What the call says; `TimedOut` where it has not returned by the deadline, and at once where an earlier call on
    /// the same mount has not returned yet.
    pub fn ask(&mut self, mount_id: u32, path: &Path, deadline: Instant) -> Answer {
        if let Some(answers) = self.stuck.get(&mount_id) {
            if matches!(answers.try_recv(), Err(TryRecvError::Empty)) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stuck.remove(&mount_id);
        }
        let worker = match self.worker.take() {
            Some(worker) => worker,
            None => start(&self.call)?,
        };
        // A worker that is gone (its call panicked) is as good as one that answers with an error.
        let gone = || io::Error::other("the worker that asks file systems has died");
        worker.questions.send(path.to_owned()).map_err(|_| gone())?;
        let patience = deadline
            .saturating_duration_since(Instant::now())
            .max(LEAST_PATIENCE.min(self.patience));
        match worker.answers.recv_timeout(patience) {
            Ok(answer) => {
                self.worker = Some(worker);
                answer
            }
            Err(RecvTimeoutError::Timeout) => {
                self.stuck.insert(mount_id, worker.answers);
                Err(io::ErrorKind::TimedOut.into())
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

fn start(call: &Call) -> io::Result<Worker> {
    let (questions, asked) = channel::<PathBuf>();
    let (answer, answers) = channel();
    let call = Arc::clone(call);
    thread::Builder::new()
        .name("statfs".to_owned())
        .stack_size(WORKER_STACK_BYTES)
        .spawn(move || {
            // Ends when the asker gives it up: then nobody sends and nobody listens.
            for path in asked {
                if answer.send(call(&path)).is_err() {
                    break;
                }
            }
        })?;
    Ok(Worker { questions, answers })
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
        call: Call,
    }

    fn hanging() -> Hanging {
        let inside = Arc::new(AtomicUsize::new(0));
        let (release, released) = channel();
        let released = Mutex::new(released);
        let count = Arc::clone(&inside);
        let call: Call = Arc::new(move |path: &Path| {
            if path == Path::new("/stuck") {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = released.lock().unwrap().recv();
            }
            Ok(Usage {
                size_bytes: 1.0,
                ..Usage::default()
            })
        });
        Hanging { inside, release, call }
    }

    #[test]
    fn a_mount_that_never_answers_costs_one_thread_and_only_its_own_line() {
        let hanging = hanging();
        let mut asker = Asker::new(Arc::clone(&hanging.call), Duration::from_millis(20));
        for _ in 0..50 {
            let deadline = asker.begin([1, 2].into_iter());
            let stuck = asker.ask(1, Path::new("/stuck"), deadline).unwrap_err();
            assert_eq!(stuck.kind(), io::ErrorKind::TimedOut);
            // Even with the round's patience used up by another.
            assert_eq!(
                asker.ask(2, Path::new("/fine"), Instant::now()).unwrap().size_bytes,
                1.0
            );
        }
        assert_eq!(hanging.inside.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_mount_that_answers_again_is_asked_again() {
        let hanging = hanging();
        let mut asker = Asker::new(Arc::clone(&hanging.call), Duration::from_millis(20));
        asker.ask(1, Path::new("/stuck"), Instant::now()).unwrap_err();
        hanging.release.send(()).unwrap();
        let by = Instant::now() + Duration::from_secs(10);
        while asker.ask(1, Path::new("/fine"), by).is_err() {
            assert!(Instant::now() < by, "never asked again");
            thread::yield_now();
        }
    }

    #[test]
    fn a_panic_in_the_call_is_an_error_of_that_mount_only() {
        let call: Call = Arc::new(|path: &Path| {
            assert_ne!(path, Path::new("/bad"));
            Ok(Usage::default())
        });
        let mut asker = Asker::new(call, Duration::from_secs(10));
        let deadline = asker.begin([1, 2].into_iter());
        asker.ask(1, Path::new("/bad"), deadline).unwrap_err();
        asker.ask(2, Path::new("/good"), deadline).unwrap();
    }
}
