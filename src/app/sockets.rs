//! Listeners that systemd opens and passes on (sd_listen_fds(3)), as with exporter-toolkit's `--web.systemd-socket`.
//! A restart then loses no webhook, and a port below 1024 needs no capability.

use listenfd::ListenFd;
use std::net::TcpListener;

/// `FileDescriptorName=` of the webhook's socket unit, if systemd passes both listeners.
const WEBHOOK: &str = "webhook";

/// The sockets from systemd, or their numbers, for the listeners that use them.
#[derive(Debug, PartialEq)]
pub struct Inherited<T> {
    pub metrics: Vec<T>,
    pub webhook: Option<T>,
}

/// Why a socket could not be taken over from systemd: what its unit needs.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("socket {index} from systemd is no TCP listener: {source}")]
    NotTcp { index: usize, source: std::io::Error },
    #[error("socket {index} from systemd is gone")]
    Gone { index: usize },
    #[error("socket {index} from systemd: {source}")]
    Blocking { index: usize, source: std::io::Error },
    #[error(
        "--{flag}: systemd handed over no such socket (it handed over {count}); start evenkeel through a .socket unit{more}"
    )]
    Missing {
        flag: &'static str,
        count: usize,
        more: &'static str,
    },
    #[error(
        "--webhook.systemd-socket: systemd handed over several sockets, and there is one webhook listener; give its unit \
         one ListenStream="
    )]
    SeveralWebhooks,
}

/// Takes the sockets for `--web.systemd-socket` and `--webhook.systemd-socket`. Call it before any thread starts,
/// because it changes the environment.
///
/// # Errors
/// When a socket is missing; the message says what its unit needs.
pub fn inherited(web: bool, webhook: bool) -> Result<Inherited<TcpListener>, SocketError> {
    if !web && !webhook {
        return Ok(Inherited {
            metrics: Vec::new(),
            webhook: None,
        });
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut handed_over = ListenFd::from_env();
    let names: Vec<&str> = (0..handed_over.len())
        .map(|index| names.split(':').nth(index).unwrap_or(""))
        .collect();
    let shares = share_out(&names, web, webhook)?;
    let mut take = |index: usize| {
        let listener = handed_over.take_tcp_listener(index);
        let listener = listener.map_err(|source| SocketError::NotTcp { index, source })?;
        let listener = listener.ok_or(SocketError::Gone { index })?;
        let is_ready = listener.set_nonblocking(true).map(|()| listener);
        is_ready.map_err(|source| SocketError::Blocking { index, source })
    };
    Ok(Inherited {
        metrics: shares.metrics.into_iter().map(&mut take).collect::<Result<_, _>>()?,
        webhook: shares.webhook.map(take).transpose()?,
    })
}

/// Assigns sockets by name with both flags, and all to the one listener otherwise.
fn share_out(names: &[&str], web: bool, webhook: bool) -> Result<Inherited<usize>, SocketError> {
    let is_webhook = |index: &usize| webhook && (!web || names[*index] == WEBHOOK);
    let (webhooks, metrics): (Vec<usize>, Vec<usize>) = (0..names.len()).partition(is_webhook);
    let missing = |flag, more| {
        Err(SocketError::Missing {
            flag,
            count: names.len(),
            more,
        })
    };
    if web && metrics.is_empty() {
        return missing("web.systemd-socket", "");
    }
    match webhooks[..] {
        [] if webhook && web => missing("webhook.systemd-socket", " that says FileDescriptorName=webhook"),
        [] if webhook => missing("webhook.systemd-socket", ""),
        [_, _, ..] => Err(SocketError::SeveralWebhooks),
        _ => Ok(Inherited {
            metrics,
            webhook: webhooks.first().copied(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_sockets_go_to_the_listener_of_their_name() {
        let shares = |metrics: &[usize], webhook| Inherited {
            metrics: metrics.to_vec(),
            webhook,
        };
        assert_eq!(share_out(&["a", "webhook"], true, true).unwrap(), shares(&[0], Some(1)));
        assert_eq!(
            share_out(&["webhook", "a", "b"], true, true).unwrap(),
            shares(&[1, 2], Some(0))
        );
        assert_eq!(
            share_out(&["a", "webhook"], true, false).unwrap(),
            shares(&[0, 1], None)
        );
        assert_eq!(share_out(&["whatever"], false, true).unwrap(), shares(&[], Some(0)));
    }

    #[test]
    fn missing_socket_is_named_with_a_fix() {
        for (names, web, webhook, expected) in [
            (&[][..], true, false, "--web.systemd-socket"),
            (&[][..], false, true, "--webhook.systemd-socket"),
            (&["a"][..], true, true, "FileDescriptorName=webhook"),
            (&["webhook"][..], true, true, "--web.systemd-socket"),
            (&["a", "b"][..], false, true, "one ListenStream="),
        ] {
            let error = share_out(names, web, webhook).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
