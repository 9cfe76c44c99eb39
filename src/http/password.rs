//! The check of passwords against bcrypt hashes: one at a time, off the async worker, and with a cache of the correct
//! ones.

use ring::digest::{Context, SHA256};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Maximum number of cached passwords, as in the exporter toolkit. A full cache is cleared.
const MAX_ACCEPTED: usize = 100;

/// The hash to compare for an unknown user, so that the time does not reveal which users exist. It has bcrypt's default
/// cost.
const HASH_OF_UNKNOWN_USER: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

/// The check of passwords, with a cache of correct ones, because one bcrypt costs as much as thousands of requests.
/// Wrong ones are not cached, because guesses would evict the correct ones.
pub struct Passwords {
    /// Digests of user, hash and password, so that a changed hash misses the cache and no password stays in memory.
    accepted: Mutex<HashSet<[u8; 32]>>,
    /// Admits one check at a time, so that guesses use at most one processor.
    turn: Semaphore,
}

impl Default for Passwords {
    fn default() -> Self {
        Passwords {
            accepted: Mutex::default(),
            turn: Semaphore::new(1),
        }
    }
}

impl Passwords {
    /// Whether this is the password of a user in `users`, which holds bcrypt hashes by name.
    pub async fn accepts(&self, users: &BTreeMap<String, String>, user: &str, password: &[u8]) -> bool {
        let known = users.contains_key(user);
        let hash = users.get(user).map_or(HASH_OF_UNKNOWN_USER, String::as_str).to_owned();
        let digest = digest([user.as_bytes(), hash.as_bytes(), password]);
        let accepted = || self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if accepted().contains(&digest) {
            return true;
        }
        let Ok(_turn) = self.turn.acquire().await else {
            return false;
        };
        let password = password.to_vec();
        let right = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false)).await;
        if !(known && right.unwrap_or(false)) {
            return false;
        }
        let mut accepted = accepted();
        if accepted.len() >= MAX_ACCEPTED {
            accepted.clear();
        }
        accepted.insert(digest);
        true
    }
}

fn digest(parts: [&[u8]; 3]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        // The length comes first, so that moving bytes from one part to the next changes the digest.
        context.update(&part.len().to_le_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_correct_for_its_user_and_hash_only() {
        // bcrypt's lowest cost, because this does not test the cost.
        let hash = |password: &str| bcrypt::hash(password, 4).unwrap();
        let mut users = BTreeMap::from([("alice".to_owned(), hash("a")), ("bob".to_owned(), hash("b"))]);
        let passwords = Passwords::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let check = |users: &BTreeMap<String, String>, user: &str, password: &str, expected: bool| {
            let got = runtime.block_on(passwords.accepts(users, user, password.as_bytes()));
            assert_eq!(got, expected, "{user} {password:?}");
        };
        // The second check uses the cache.
        for _ in 0..2 {
            check(&users, "alice", "a", true);
            check(&users, "bob", "b", true);
            check(&users, "alice", "b", false);
            check(&users, "alice", "", false);
            check(&users, "carol", "a", false);
            check(&users, "", "", false);
        }
        users.insert("alice".to_owned(), hash("new"));
        check(&users, "alice", "a", false);
        check(&users, "alice", "new", true);
        users.remove("bob");
        check(&users, "bob", "b", false);
    }
}
