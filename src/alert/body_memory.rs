//! The memory for bodies of requests: a bounded number of KiB, from the announced length until the receipt. When it is
//! used up, the body that is being sent for the longest time gives way, because real senders send from memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Time for a body that gives way to free its memory.
const GIVE_WAY: Duration = Duration::from_millis(100);

/// Bodies that give way for one new one.
const MAX_GIVING_WAY: usize = 64;

/// The memory for all bodies of a listener.
pub(super) struct BodyMemory {
    kib: Arc<Semaphore>,
    /// The bodies that are being sent, oldest first.
    arriving: Mutex<VecDeque<Sender<()>>>,
}

/// The memory of one body. It is free again once this is dropped.
pub(super) struct BodyReservation {
    _kib: OwnedSemaphorePermit,
}

/// A body that is being sent. It gives way until this is dropped.
pub(super) struct ArrivingBody(Receiver<()>);

impl ArrivingBody {
    /// Returns once the body must give way.
    pub async fn must_give_way(&mut self) {
        self.0.recv().await;
    }
}

impl BodyMemory {
    pub fn new(kib: usize) -> BodyMemory {
        BodyMemory {
            kib: Arc::new(Semaphore::new(kib)),
            arriving: Mutex::default(),
        }
    }

    /// Reserves memory for a body that arrives now. `None` where all of it belongs to bodies that were received.
    pub async fn reserve(&self, kib: u32) -> Option<(BodyReservation, ArrivingBody)> {
        for _ in 0..MAX_GIVING_WAY {
            if let Ok(permit) = Arc::clone(&self.kib).try_acquire_many_owned(kib) {
                return Some((BodyReservation { _kib: permit }, self.arrive()));
            }
            let oldest = self.take_oldest()?;
            let _ = oldest.try_send(());
            // The other request has to run before its memory is free.
            let _ = tokio::time::timeout(GIVE_WAY, oldest.closed()).await;
        }
        None
    }

    fn arrive(&self) -> ArrivingBody {
        let (sender, receiver) = channel(1);
        let mut all = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| !other.is_closed());
        all.push_back(sender);
        ArrivingBody(receiver)
    }

    fn take_oldest(&self) -> Option<Sender<()>> {
        let mut all = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| all.pop_front()).find(|oldest| !oldest.is_closed())
    }
}
