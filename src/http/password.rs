//! The check of passwords against bcrypt hashes: one at a time, off the async worker, and with a cache of the correct
//! ones.

use ring::digest::{Context, SHA256};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Right passwords remembered; when there are more all are forgotten. The toolkit keeps as many.
const MAX_ACCEPTED: usize = 100;

/// Compared where the user is unknown, so that the time taken does not tell who is known. Its cost is bcrypt's default.
const NOBODY: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

/// Remembers which passwords were right, because one bcrypt costs as much as thousands of requests. Wrong ones are not
/// remembered, because guesses would evict the correct ones.
pub struct Passwords {
    /// Digests of user, hash and password: a changed hash is another question, and no password is kept.
    accepted: Mutex<HashSet<[u8; 32]>>,
    /// One at a time, so that a guesser takes one processor at most.
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
        let hash = users.get(user).map_or(NOBODY, String::as_str).to_owned();
        let question = digest([user.as_bytes(), hash.as_bytes(), password]);
        let accepted = || self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if accepted().contains(&question) {
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
        accepted.insert(question);
        true
    }
}

fn digest(parts: [&[u8]; 3]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        // Lengths first: otherwise a text could wander from one part into the next.
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
    fn a_password_is_right_for_its_user_and_hash_only() {
        // The lowest cost that bcrypt has; the cost is not what is tested.
        let hash = |password: &str| bcrypt::hash(password, 4).unwrap();
        let mut users = BTreeMap::from([("alice".to_owned(), hash("a")), ("bob".to_owned(), hash("b"))]);
        let passwords = Passwords::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let check = |users: &BTreeMap<String, String>, user: &str, password: &str, expected: bool| {
            let got = runtime.block_on(passwords.accepts(users, user, password.as_bytes()));
            assert_eq!(got, expected, "{user} {password:?}");
        };
        // Twice each: what is remembered must say the same.
        for _ in 0..2 {
            check(&users, "alice", "a", true);
            check(&users, "bob", "b", true);
            check(&users, "alice", "b", false);
            check(&users, "alice", "", false);
            check(&users, "nobody", "a", false);
            check(&users, "", "", false);
        }
        users.insert("alice".to_owned(), hash("new"));
        check(&users, "alice", "a", false);
        check(&users, "alice", "new", true);
        users.remove("bob");
        check(&users, "bob", "b", false);
    }
}
