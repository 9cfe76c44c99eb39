//! Names of users by uid. A look-up may ask a server, and a user can have thousands of uids (subuid(5)). So look-ups
//! have a share of each second, and uids beyond it have no known name for now.

use super::timed_calls::{BoundedCalls, PATIENCE};
use nix::errno::Errno;
use nix::unistd::User;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// The time in which the share may be used.
const WINDOW: Duration = Duration::from_secs(1);
const SHARE: Duration = Duration::from_millis(100);
/// Maximum number of uids with a name, and of those without one.
const MAX_KNOWN: usize = 4096;
/// Stands for the pid in a call that is about no process.
const NO_PID: i32 = 0;

type LookUp = fn(u32) -> Result<Option<String>, Errno>;

/// The name of a uid was not looked up in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownName;

/// A cache of names.
#[derive(Debug, Clone)]
pub struct UserNames {
    /// Those of the users that selectors name, which are never forgotten.
    named: HashMap<u32, String>,
    known: HashMap<u32, String>,
    without: HashSet<u32>,
    window_begun: Instant,
    spent: Duration,
    /// The runner for look-ups, for readers that must not block.
    calls: Option<BoundedCalls>,
    look_up: LookUp,
}

impl Default for UserNames {
    fn default() -> UserNames {
        UserNames::new(None, |uid| Ok(User::from_uid(uid.into())?.map(|user| user.name)))
    }
}

impl UserNames {
    /// Names that are looked up with a deadline.
    pub fn with_deadline(calls: Option<BoundedCalls>) -> UserNames {
        UserNames {
            calls,
            ..UserNames::default()
        }
    }

    fn new(calls: Option<BoundedCalls>, look_up: LookUp) -> UserNames {
        UserNames {
            named: HashMap::new(),
            known: HashMap::new(),
            without: HashSet::new(),
            window_begun: Instant::now(),
            spent: Duration::ZERO,
            calls,
            look_up,
        }
    }

    /// Looks up the users that selectors name, so that no other uid delays it later. A number needs no look-up.
    pub fn prepare<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) {
        let names = names.into_iter().filter(|name| name.parse::<u32>().is_err());
        let uids = names.filter_map(|name| User::from_name(name).ok().flatten());
        // A uid may have several names, of which this is the one that processes show.
        let name_of = |uid: u32| Some((uid, (self.look_up)(uid).ok()??));
        self.named = uids.filter_map(|user| name_of(user.uid.as_raw())).collect();
    }

    /// # Errors
    /// When there was no time to look it up.
    pub(super) fn name(&mut self, uid: u32) -> Result<Option<String>, UnknownName> {
        if let Some(name) = self.named.get(&uid).or_else(|| self.known.get(&uid)) {
            return Ok(Some(name.clone()));
        }
        if self.without.contains(&uid) {
            return Ok(None);
        }
        let begun = Instant::now();
        if begun.duration_since(self.window_begun) >= WINDOW {
            (self.window_begun, self.spent) = (begun, Duration::ZERO);
        }
        if self.spent >= SHARE {
            return Err(UnknownName);
        }
        let look_up = self.look_up;
        let found = match &self.calls {
            Some(calls) => calls.run(NO_PID, PATIENCE, move || look_up(uid)),
            None => Ok(look_up(uid)),
        };
        self.spent += begun.elapsed();
        match found {
            Ok(Ok(Some(name))) => {
                make_space(self.known.len(), || self.known.clear());
                self.known.insert(uid, name.clone());
                Ok(Some(name))
            }
            Ok(Ok(None)) => {
                make_space(self.without.len(), || self.without.clear());
                self.without.insert(uid);
                Ok(None)
            }
            // An error of the directory service says nothing about the user.
            Ok(Err(_)) | Err(_) => Err(UnknownName),
        }
    }
}

fn make_space(length: usize, clear: impl FnOnce()) {
    if length >= MAX_KNOWN {
        clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of_even(uid: u32) -> Result<Option<String>, Errno> {
        Ok(uid.is_multiple_of(2).then(|| format!("user{uid}")))
    }

    #[test]
    fn thousands_of_uids_cost_a_share_of_a_second() {
        let mut users = UserNames::new(None, |uid| {
            std::thread::sleep(SHARE / 4);
            name_of_even(uid)
        });
        users.prepare(["root"]);
        // On a slow machine, the second does not end meanwhile.
        users.window_begun += 3600 * WINDOW;
        let known = (1..5000).filter(|uid| users.name(*uid).is_ok()).count();
        assert!((1..=4).contains(&known), "{known}: each takes a quarter of the share");
        assert_eq!(users.name(0), Ok(Some("user0".into())), "a selector names it");
        assert_eq!(users.name(5000), Err(UnknownName));
        users.window_begun -= 3601 * WINDOW;
        assert_eq!(
            users.name(5000),
            Ok(Some("user5000".into())),
            "the next second has a share of its own"
        );
    }

    #[test]
    fn names_in_memory_are_bounded() {
        let mut users = UserNames::new(None, name_of_even);
        for uid in 0..4 * MAX_KNOWN as u32 {
            users.spent = Duration::ZERO;
            assert_eq!(users.name(uid), Ok(name_of_even(uid).unwrap()));
        }
        assert!(users.known.len() <= MAX_KNOWN && users.without.len() <= MAX_KNOWN);
    }

    #[test]
    fn look_up_that_fails_or_blocks_leaves_the_name_unknown() {
        let mut users = UserNames::new(None, |_| Err(Errno::EIO));
        assert_eq!(users.name(1000), Err(UnknownName));
        users.look_up = name_of_even;
        assert_eq!(users.name(1000), Ok(Some("user1000".into())));
        let mut users = UserNames::new(Some(BoundedCalls::default()), |_| {
            loop {
                std::thread::park();
            }
        });
        assert_eq!(users.name(1000), Err(UnknownName));
        users.spent = Duration::ZERO;
        let begun = Instant::now();
        assert_eq!(users.name(1001), Err(UnknownName));
        assert!(begun.elapsed() < PATIENCE, "only the first one is waited for");
    }
}
