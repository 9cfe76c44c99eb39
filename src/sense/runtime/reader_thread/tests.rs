//! Tests of a thread whose collectors hang on demand.

use super::*;
use crate::family::{Family, SampleValue};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::ThreadId;

const TIMEOUT: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A thread with collectors that hang on demand.
struct Fixture {
    thread: ReaderThread,
    /// Which collector is read, and by which thread.
    reads: Receiver<(&'static str, ThreadId)>,
    /// A collector hangs while its gate is locked.
    gates: [Arc<Mutex<()>>; 3],
    done: Sender<()>,
    all_done: Receiver<()>,
}

const NAMES: [&str; 3] = ["first", "second", "third"];

fn fixture(count: usize) -> Fixture {
    let (read, reads) = channel();
    let gates: [Arc<Mutex<()>>; 3] = Default::default();
    let collectors = NAMES.iter().zip(&gates).take(count).map(|(name, gate)| {
        let (read, gate, mut count) = (read.clone(), Arc::clone(gate), 0.0);
        let read_fn = move |_: &Roots| {
            read.send((*name, thread::current().id())).unwrap();
            drop(gate.lock().unwrap());
            count += 1.0;
            Ok(vec![Family::gauge("reads", "").value(count)])
        };
        Collector::with_reader(name, Box::new(read_fn))
    });
    let (done, all_done) = channel();
    Fixture {
        thread: ReaderThread::start("reader", collectors.collect(), &Roots::default()).unwrap(),
        reads,
        gates,
        done,
        all_done,
    }
}

impl Fixture {
    fn request_all(&self) {
        let done = self.done.clone();
        let request = ReadRequest {
            at: Instant::now(),
            wanted: Wanted::All,
        };
        assert!(self.thread.send(request, Box::new(move || done.send(()).unwrap())));
    }

    fn wait_until_read(&self, name: &str) -> ThreadId {
        let (read, thread) = self.reads.recv_timeout(TIMEOUT).unwrap();
        assert_eq!(read, name);
        thread
    }

    fn replace_if_it_hangs(&mut self) -> bool {
        self.thread.replace_if_it_hangs(Duration::ZERO, &Roots::default())
    }

    /// How often each collector has returned, or why it has failed.
    fn readings(&self, max_age: Duration) -> Vec<Result<f64, String>> {
        self.readings_asked(max_age, None)
    }

    fn readings_asked(&self, max_age: Duration, asked: Option<Instant>) -> Vec<Result<f64, String>> {
        let now = Instant::now() + Duration::from_nanos(1);
        let shown = |reading: Arc<CollectorReading>| match (&reading.error, reading.families.first()) {
            (Some(error), _) => Err(error.clone()),
            (None, Some(family)) => match family.point(0).value {
                SampleValue::Number(count) => Ok(*count),
                SampleValue::Histogram(_) => panic!("not a number"),
            },
            (None, None) => panic!("nothing was read"),
        };
        self.thread.readings(now, max_age, asked).map(shown).collect()
    }

    /// Waits until so many threads are left.
    fn wait_for_threads(&self, count: usize) {
        let started = Instant::now();
        while Arc::strong_count(&self.thread.shared) != count + 1 {
            assert!(started.elapsed() < TIMEOUT, "a thread does not end");
            thread::yield_now();
        }
    }
}

fn hangs(reading: &Result<f64, String>) -> bool {
    let error = reading.as_ref().err();
    error.is_some_and(|error| error.starts_with("its read has not returned since "))
}

#[test]
fn hanging_read_delays_no_other_collector_and_returns() {
    let mut it = fixture(3);
    let gate = Arc::clone(&it.gates[1]);
    let closed = gate.lock().unwrap();
    it.request_all();
    it.wait_until_read("first");
    let stuck = it.wait_until_read("second");
    assert_eq!(it.all_done.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
    assert!(it.replace_if_it_hangs());
    for count in [1.0, 2.0] {
        it.request_all();
        let first = it.wait_until_read("first");
        assert!(first != stuck && it.wait_until_read("third") == first);
        it.all_done.recv_timeout(TIMEOUT).unwrap();
        let readings = it.readings(HOUR);
        assert_eq!([&readings[0], &readings[2]], [&Ok(count + 1.0), &Ok(count)]);
        assert!(hangs(&readings[1]), "{readings:?}");
    }
    assert!(!it.replace_if_it_hangs(), "no read goes on");
    it.wait_for_threads(2);
    drop(closed);
    it.wait_for_threads(1);
    assert_eq!(it.readings(HOUR)[1], Ok(1.0), "what it read is used");
    it.request_all();
    let threads = NAMES.map(|name| it.wait_until_read(name));
    assert!(threads.iter().all(|thread| *thread == threads[0] && *thread != stuck));
    it.all_done.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(it.readings(HOUR), [Ok(4.0), Ok(2.0), Ok(3.0)]);
    assert!(it.all_done.try_recv().is_err(), "each request is done once");
}

#[test]
fn threads_are_bounded_where_every_collector_hangs() {
    let mut it = fixture(3);
    let gates = it.gates.clone();
    let closed = gates.each_ref().map(|gate| gate.lock().unwrap());
    it.request_all();
    for name in NAMES {
        it.wait_until_read(name);
        assert!(it.replace_if_it_hangs());
        it.request_all();
    }
    it.all_done.recv_timeout(TIMEOUT).unwrap();
    for _ in 0..10 {
        it.request_all();
        it.all_done.recv_timeout(TIMEOUT).unwrap();
        assert!(!it.replace_if_it_hangs());
    }
    it.wait_for_threads(4);
    assert!(it.readings(HOUR).iter().all(hangs));
    drop(closed);
    it.wait_for_threads(1);
    assert_eq!(it.readings(HOUR), [Ok(1.0), Ok(1.0), Ok(1.0)]);
}

#[test]
fn only_collector_of_a_thread_keeps_it() {
    let mut it = fixture(1);
    it.request_all();
    it.wait_until_read("first");
    it.all_done.recv_timeout(TIMEOUT).unwrap();
    let gate = Arc::clone(&it.gates[0]);
    let closed = gate.lock().unwrap();
    it.request_all();
    it.wait_until_read("first");
    assert!(!it.replace_if_it_hangs());
    assert_eq!(it.readings(HOUR), [Ok(1.0)], "its former reading is not outdated");
    assert!(hangs(&it.readings(Duration::ZERO)[0]));
    let scrape = ReadRequest {
        at: Instant::now() + HOUR,
        wanted: Wanted::All,
    };
    assert!(!it.thread.is_due(&scrape), "no scrape waits for it");
    drop(closed);
    it.all_done.recv_timeout(TIMEOUT).unwrap();
    assert!(it.thread.is_due(&scrape));
    assert_eq!(it.readings(HOUR), [Ok(2.0)]);
    // Nothing has asked for a newer one, then something has just now, and then too long ago.
    assert_eq!(it.readings(Duration::ZERO), [Ok(2.0)]);
    assert_eq!(it.readings_asked(HOUR, Some(Instant::now())), [Ok(2.0)]);
    assert_eq!(
        it.readings_asked(Duration::ZERO, Some(Instant::now())),
        [Err("its last reading is older than 0 s".to_owned())]
    );
    it.wait_for_threads(1);
}
