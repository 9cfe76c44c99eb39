//! The queue between the daemon and the reader of its log. Only the thread `log` writes to standard error, so a reader
//! that stalls delays no other thread. When the queue is full, lines are dropped and counted.

use crate::host::self_priority;
use crate::telemetry::Telemetry;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lines that wait for the reader of the log; at some 300 bytes each they take 150 KiB.
const MAX_WAITING: usize = 512;
/// The thread formats nothing and calls `write` only.
const STACK_BYTES: usize = 64 * 1024;

enum Message {
    Line(Vec<u8>),
    /// Answered when all lines before it are written.
    Flush(SyncSender<()>),
}

/// A writer of whole lines that never blocks. Cheap to clone.
#[derive(Clone)]
pub struct LogQueue {
    sender: SyncSender<Message>,
    telemetry: Telemetry,
}

impl LogQueue {
    /// A queue, and its lines until a thread writes them.
    pub fn new(telemetry: Telemetry) -> (LogQueue, WaitingLines) {
        let (sender, lines) = sync_channel(MAX_WAITING);
        let waiting = WaitingLines {
            lines: Arc::new(Mutex::new(lines)),
            telemetry: telemetry.clone(),
        };
        (LogQueue { sender, telemetry }, waiting)
    }

    /// Waits until the lines so far are written, and for at most `patience`.
    pub fn flush(&self, patience: Duration) {
        let (done, is_done) = sync_channel(1);
        // A full queue means that the reader is stalled.
        if self.sender.try_send(Message::Flush(done)).is_ok() {
            let _ = is_done.recv_timeout(patience);
        }
    }
}

/// The lines of a queue that no thread writes yet.
pub struct WaitingLines {
    lines: Arc<Mutex<Receiver<Message>>>,
    telemetry: Telemetry,
}

impl WaitingLines {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(&self, out: impl Write + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name("log".into()).stack_size(STACK_BYTES);
        let (lines, telemetry) = (Arc::clone(&self.lines), self.telemetry.clone());
        thread.spawn(move || {
            self_priority::reset_priority();
            write_lines(out, &lock(&lines), &telemetry);
        })?;
        Ok(())
    }

    /// Writes the lines so far on this thread.
    pub fn write(&self, mut out: impl Write) {
        for message in lock(&self.lines).try_iter() {
            if let Message::Line(line) = message {
                drop(out.write_all(&line));
            }
        }
    }
}

fn lock(lines: &Mutex<Receiver<Message>>) -> MutexGuard<'_, Receiver<Message>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.sender.try_send(Message::Line(line.to_vec())).is_err() {
            self.telemetry.log_line_dropped();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_lines(mut out: impl Write, lines: &Receiver<Message>, telemetry: &Telemetry) {
    let mut reported = 0;
    while let Ok(message) = lines.recv() {
        // A reader that is gone must not end the daemon.
        let mut next = Some(message);
        while let Some(message) = next {
            match message {
                Message::Line(line) => drop(out.write_all(&line)),
                Message::Flush(done) => drop(done.send(())),
            }
            next = lines.try_recv().ok();
        }
        let dropped = telemetry.log_lines_dropped();
        if dropped > reported {
            tracing::warn!(
                lines = dropped - reported,
                "log lines dropped, because their reader stalled"
            );
            reported = dropped;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::Instant;

    #[test]
    fn stalled_reader_costs_lines_and_no_time() {
        let (mut reader, writer) = io::pipe().unwrap();
        let telemetry = Telemetry::default();
        let (mut queue, waiting) = LogQueue::new(telemetry.clone());
        waiting.start(writer).unwrap();
        let line = [b'x'; 1023].into_iter().chain([b'\n']).collect::<Vec<u8>>();
        let begun = Instant::now();
        // A pipe holds 64 KiB, and nothing reads it.
        for _ in 0..10_000 {
            queue.write_all(&line).unwrap();
        }
        let dropped = telemetry.log_lines_dropped();
        assert!(dropped > 9_000, "{dropped} lines dropped");
        queue.flush(Duration::from_millis(10));
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        drop(queue);
        let mut written = Vec::new();
        reader.read_to_end(&mut written).unwrap();
        assert_eq!(written.len() as u64, (10_000 - dropped) * 1024);
    }

    #[test]
    fn flush_waits_until_all_lines_are_written() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (mut queue, waiting) = LogQueue::new(Telemetry::default());
        // Lines wait for the thread.
        queue.write_all(b"first\n").unwrap();
        waiting.start(writer).unwrap();
        queue.write_all(b"second\n").unwrap();
        queue.flush(Duration::from_secs(60));
        let mut written = [0; 13];
        reader.read_exact(&mut written).unwrap();
        assert_eq!(&written, b"first\nsecond\n");
    }
}
