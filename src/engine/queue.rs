//! The bounded queue before the engine's thread: many put in, one takes all that waits. Small inputs come by the ten
//! thousand per second, so that nobody is woken who is awake, and whoever takes, takes many at once.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A queue for so many items, its way in and its end.
pub fn queue<T>(room: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            waiting: Vec::new(),
            is_awaited: false,
            crowd: 0,
            has_taker: true,
            has_sender: true,
        }),
        filled: Condvar::new(),
        emptied: Condvar::new(),
        room,
    });
    (Sender(Arc::new(Way(Arc::clone(&shared)))), Receiver(shared))
}

struct Shared<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    emptied: Condvar,
    room: usize,
}

struct State<T> {
    waiting: Vec<T>,
    /// The taker sleeps until something comes.
    is_awaited: bool,
    /// Senders that sleep until there is room.
    crowd: usize,
    has_taker: bool,
    has_sender: bool,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        // No code that could panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, mut state: MutexGuard<'_, State<T>>, item: T) {
        state.waiting.push(item);
        let is_awaited = std::mem::take(&mut state.is_awaited);
        drop(state);
        if is_awaited {
            self.filled.notify_one();
        }
    }
}

/// A way into the queue. Cheap to clone.
pub struct Sender<T>(Arc<Way<T>>);

/// What all clones of a sender hold together: with the last of them the queue ends.
struct Way<T>(Arc<Shared<T>>);

// By hand, for a derived one would ask that the items can be cloned.
impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender(Arc::clone(&self.0))
    }
}

impl<T> Drop for Way<T> {
    fn drop(&mut self) {
        self.0.state().has_sender = false;
        self.0.filled.notify_one();
    }
}

impl<T> Sender<T> {
    /// Waits for room.
    ///
    /// # Errors
    /// The item, when nobody takes any more.
    pub fn send(&self, item: T) -> Result<(), T> {
        let shared = &self.0.0;
        let mut state = shared.state();
        while state.has_taker && state.waiting.len() >= shared.room {
            state.crowd += 1;
            state = shared.emptied.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.crowd -= 1;
        }
        if !state.has_taker {
            return Err(item);
        }
        shared.put(state, item);
        Ok(())
    }

    /// Does not wait.
    ///
    /// # Errors
    /// The item, when the queue is full or nobody takes any more.
    pub fn try_send(&self, item: T) -> Result<(), T> {
        let shared = &self.0.0;
        let state = shared.state();
        if !state.has_taker || state.waiting.len() >= shared.room {
            return Err(item);
        }
        shared.put(state, item);
        Ok(())
    }
}

/// The end of the queue. When it is dropped, what waits is dropped, and nothing more is accepted.
pub struct Receiver<T>(Arc<Shared<T>>);

/// Nothing waits, and nobody is left who could send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody is left who could send")]
pub struct Disconnected;

impl<T> Receiver<T> {
    /// What waits, oldest first and at most `most`; waits for the first of it up to `patience`, then there may be none.
    ///
    /// # Errors
    /// When all senders are gone and what they sent has been taken.
    pub fn take(&self, most: usize, patience: Duration) -> Result<Vec<T>, Disconnected> {
        let end = Instant::now().checked_add(patience);
        let mut state = self.0.state();
        while state.waiting.is_empty() {
            if !state.has_sender {
                return Err(Disconnected);
            }
            let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(Vec::new());
            }
            state.is_awaited = true;
            let waited = self.0.filled.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            state.is_awaited = false;
        }
        let portion = state.waiting.len().min(most);
        let rest = state.waiting.split_off(portion);
        let taken = std::mem::replace(&mut state.waiting, rest);
        let is_awaited = state.crowd > 0;
        drop(state);
        if is_awaited {
            self.0.emptied.notify_all();
        }
        Ok(taken)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.has_taker = false;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.0.emptied.notify_all();
        // Not under the lock: who is answered by the drop may send again.
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const AT_ONCE: Duration = Duration::ZERO;

    /// Waits until the other side sleeps.
    fn asleep<T>(shared: &Shared<T>) {
        while !(shared.state().is_awaited || shared.state().crowd > 0) {
            thread::yield_now();
        }
    }
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_waits_is_taken_in_order_and_in_portions() {
        let (sender, taker) = queue(8);
        (0..5).for_each(|number| sender.send(number).unwrap());
        assert_eq!(taker.take(3, LONG), Ok(vec![0, 1, 2]));
        sender.send(5).unwrap();
        assert_eq!(taker.take(9, LONG), Ok(vec![3, 4, 5]));
        assert_eq!(taker.take(9, AT_ONCE), Ok(vec![]));
        assert_eq!(taker.take(9, Duration::from_millis(5)), Ok(vec![]));
    }

    #[test]
    fn a_full_queue_gives_back_what_it_has_no_room_for() {
        let (sender, taker) = queue(2);
        assert_eq!(
            [1, 2, 3].map(|number| sender.try_send(number)),
            [Ok(()), Ok(()), Err(3)]
        );
        thread::scope(|threads| {
            let waits = threads.spawn(|| sender.send(3));
            asleep(&taker.0);
            assert_eq!(taker.take(2, LONG), Ok(vec![1, 2]));
            waits.join().unwrap().unwrap();
        });
        assert_eq!(taker.take(2, LONG), Ok(vec![3]));
    }

    #[test]
    fn the_end_of_either_side_is_told_to_the_other() {
        let (sender, taker) = queue(1);
        let another = sender.clone();
        drop(sender);
        another.send(1).unwrap();
        drop(another);
        assert_eq!(taker.take(1, LONG), Ok(vec![1]), "what was sent is still taken");
        assert_eq!(taker.take(1, LONG), Err(Disconnected));

        let (sender, taker) = queue(1);
        let item = Arc::new(());
        sender.send(Arc::clone(&item)).unwrap();
        thread::scope(|threads| {
            let waits = threads.spawn(|| sender.send(Arc::clone(&item)).is_err());
            asleep(&taker.0);
            drop(taker);
            assert!(waits.join().unwrap());
        });
        assert!(sender.try_send(Arc::clone(&item)).is_err());
        assert_eq!(Arc::strong_count(&item), 1, "what waited was dropped with the taker");

        let (sender, taker) = queue::<()>(1);
        thread::scope(|threads| {
            let waits = threads.spawn(|| taker.take(1, LONG));
            asleep(&sender.0.0);
            drop(sender);
            assert_eq!(waits.join().unwrap(), Err(Disconnected));
        });
    }

    #[test]
    fn nothing_is_lost_between_many_senders_and_a_taker_that_sleeps_in_between() {
        const SENDERS: usize = 4;
        const EACH: usize = 20_000;
        let (sender, taker) = queue(16);
        let mut next = [0; SENDERS];
        thread::scope(|threads| {
            for from in 0..SENDERS {
                let sender = sender.clone();
                threads.spawn(move || {
                    for number in 0..EACH {
                        // By both ways in turn; the one that does not wait is tried until there is room.
                        let mut left = Some((from, number));
                        while let Some(item) = left.take_if(|_| number % 2 == 0) {
                            left = sender.try_send(item).err();
                            thread::yield_now();
                        }
                        if number % 2 == 1 {
                            sender.send((from, number)).unwrap();
                        }
                    }
                });
            }
            drop(sender);
            while let Ok(taken) = taker.take(5, LONG) {
                assert!(!taken.is_empty(), "a sleep of {LONG:?} though something was sent");
                for (from, number) in taken {
                    assert_eq!(number, next[from], "each sender's items stay in order");
                    next[from] += 1;
                }
            }
        });
        assert_eq!(next, [EACH; SENDERS]);
    }
}
