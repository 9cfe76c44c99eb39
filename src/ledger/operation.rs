//! What operators do with the daemon, with who asked and the reason given. Data only.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest reason that a request may give, in characters.
pub const MAX_REASON: usize = 500;

/// The sender of a request to the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requester {
    /// The user, or the way in which a request without a user arrived: `SIGHUP`.
    pub name: String,
    /// The user id of the sender, by the credentials of its socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The user who logged in, where that is another one: `alice` for `sudo evenkeel pause` of alice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
}

impl Requester {
    /// A sender that is known only by the way in which its request arrived.
    pub fn by_way_of(name: impl Into<String>) -> Requester {
        Requester {
            name: name.into(),
            uid: None,
            login: None,
        }
    }
}

/// As in `root (uid 0, login alice)`.
impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match (self.uid, &self.login) {
            (Some(uid), Some(login)) => write!(f, " (uid {uid}, login {login})"),
            (Some(uid), None) => write!(f, " (uid {uid})"),
            (None, _) => Ok(()),
        }
    }
}

/// A request of an operator: who asked, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRequest {
    pub by: Requester,
    /// The reason given; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl OperatorRequest {
    pub fn new(by: Requester, reason: &str) -> OperatorRequest {
        let reason = reason.trim().chars().take(MAX_REASON).collect();
        OperatorRequest { by, reason }
    }

    #[cfg(test)]
    pub fn example() -> OperatorRequest {
        let by = Requester {
            uid: Some(0),
            ..Requester::by_way_of("root")
        };
        OperatorRequest::new(by, "a test")
    }
}

/// As in `by root (uid 0): disk is being replaced`.
impl fmt::Display for OperatorRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by {}", self.by)?;
        match self.reason.as_str() {
            "" => Ok(()),
            reason => write!(f, ": {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_names_user_login_and_reason() {
        let mut request = OperatorRequest::example();
        assert_eq!(request.to_string(), "by root (uid 0): a test");
        request.by.login = Some("alice".to_owned());
        request.reason.clear();
        assert_eq!(request.to_string(), "by root (uid 0, login alice)");
        assert_eq!(Requester::by_way_of("SIGHUP").to_string(), "SIGHUP");
        let long = OperatorRequest::new(request.by, &"é".repeat(2000));
        assert_eq!(long.reason.chars().count(), MAX_REASON);
    }
}
