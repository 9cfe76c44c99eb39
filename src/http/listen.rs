//! The check whether a listener that triggers actions may be bound to an address. Pure.

use std::net::SocketAddr;

const AUTHENTICATE: &str = "set webhook.token_file to a file with a secret that Alertmanager sends as a bearer token, or \
     give --webhook.config.file with basic_auth_users or client certificates";

/// Why the webhook listener may not listen at an address: what to write into the configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    #[error(
        "the webhook listener would take alerts from the network at {addr} without authentication: {authenticate}, or \
         listen on 127.0.0.1",
        authenticate = AUTHENTICATE
    )]
    OpenToNetwork { addr: SocketAddr },
    #[error(
        "mode enforce without authentication on the webhook listener: every user and container on this host that reaches \
         {addr} could make evenkeel act. {authenticate}; or accept that with webhook.allow_unauthenticated: true",
        authenticate = AUTHENTICATE
    )]
    OpenToHost { addr: SocketAddr },
}

/// Decides whether the webhook listener may listen at `addr`. Every local user and every container in the host's
/// network can reach a port on loopback, and the network can reach any other. Unauthenticated clients must not make a
/// root process act.
///
/// # Errors
/// Names the configuration to change.
pub fn may_listen(
    addr: SocketAddr,
    has_auth: bool,
    enforce: bool,
    allow_unauthenticated: bool,
) -> Result<(), ListenError> {
    if has_auth {
        return Ok(());
    }
    if !addr.ip().to_canonical().is_loopback() {
        return Err(ListenError::OpenToNetwork { addr });
    }
    if enforce && !allow_unauthenticated {
        return Err(ListenError::OpenToHost { addr });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_need_authentication() {
        let check = |addr: &str, [has_auth, enforce, allowed]: [bool; 3], expected: Result<(), &str>| {
            let got = may_listen(addr.parse().unwrap(), has_auth, enforce, allowed).map_err(|error| error.to_string());
            match (&got, expected) {
                (Ok(()), Ok(())) => {}
                (Err(text), Err(says)) => assert!(text.contains(says) && text.contains("token_file"), "{text}"),
                _ => panic!("{addr} {has_auth} {enforce} {allowed}: {got:?}"),
            }
        };
        let (yes, no) = (true, false);
        for loopback in ["127.0.0.1:19798", "127.9.9.9:1", "[::1]:19798", "[::ffff:127.0.0.1]:0"] {
            check(loopback, [no, no, no], Ok(()));
            check(loopback, [no, yes, no], Err("allow_unauthenticated: true"));
            check(loopback, [no, yes, yes], Ok(()));
            check(loopback, [yes, yes, no], Ok(()));
        }
        for open in ["0.0.0.0:19798", "192.0.2.1:1", "[::]:19798", "[::ffff:192.0.2.1]:0"] {
            check(open, [no, no, no], Err("from the network"));
            check(open, [no, no, yes], Err("from the network"));
            check(open, [no, yes, yes], Err("from the network"));
            check(open, [yes, yes, no], Ok(()));
        }
    }
}
