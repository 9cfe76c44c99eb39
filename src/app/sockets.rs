//! The sockets of both listeners: bound here, or opened by systemd and passed on (sd_listen_fds(3)), as with
//! exporter-toolkit's `--web.systemd-socket`. Then a restart loses no webhook, and a port below 1024 needs no capability.

use super::stop::Stop;
use crate::cli;
use listenfd::ListenFd;
use std::net::SocketAddr;
use tokio::net::TcpListener;

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
pub fn inherited(web: bool, webhook: bool) -> Result<Inherited<std::net::TcpListener>, SocketError> {
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

/// The bound sockets of both listeners.
pub struct BoundSockets {
    pub metrics: Vec<TcpListener>,
    pub webhook: TcpListener,
}

impl BoundSockets {
    /// Binds the sockets that systemd has not passed on.
    pub async fn open(run: &cli::Run, inherited: Inherited<std::net::TcpListener>) -> Result<BoundSockets, Stop> {
        let mut metrics = Vec::new();
        if run.web_systemd_socket {
            for listener in inherited.metrics {
                metrics.push(announce("metrics", TcpListener::from_std(listener))?);
            }
        } else {
            for addr in &run.web_listen {
                metrics.push(bind("metrics", *addr).await?);
            }
        }
        let webhook = match inherited.webhook {
            Some(listener) => announce("webhook", TcpListener::from_std(listener))?,
            None => bind("webhook", run.webhook_listen).await?,
        };
        Ok(BoundSockets { metrics, webhook })
    }

    /// Where clients on this host reach the first metrics listener and the webhook listener.
    pub fn addresses(&self) -> [Option<String>; 2] {
        [self.metrics.first(), Some(&self.webhook)].map(|listener| listener?.local_addr().ok().map(reachable))
    }
}

async fn bind(name: &'static str, addr: SocketAddr) -> Result<TcpListener, Stop> {
    let failed = |error| Stop::Because(format!("cannot listen on {addr} for {name}: {error}"));
    announce(name, Ok(TcpListener::bind(addr).await.map_err(failed)?))
}

/// Logs the address of a listener.
fn announce(name: &'static str, listener: std::io::Result<TcpListener>) -> Result<TcpListener, Stop> {
    let failed = |error| Stop::Because(format!("cannot listen for {name}: {error}"));
    let listener = listener.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    tracing::info!(listener = name, addr = %addr, "listening");
    Ok(listener)
}

/// An address that clients on this host can use.
fn reachable(addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() {
        format!("localhost:{}", addr.port())
    } else {
        addr.to_string()
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
