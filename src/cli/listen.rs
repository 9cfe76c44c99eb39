//! Addresses to listen on, as Prometheus writes them: `:19797` is every address of the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address such as :19797, 127.0.0.1:19797 or [::1]:19797")]
pub struct InvalidAddress(String);

/// # Errors
/// When the text is not an address; the message shows what one looks like.
pub fn parse(text: &str) -> Result<SocketAddr, InvalidAddress> {
    let wrong = || InvalidAddress(text.to_owned());
    if let Some(port) = text.strip_prefix(':') {
        let port: u16 = port.parse().map_err(|_| wrong())?;
        return Ok(SocketAddr::new(every_address(), port));
    }
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    // A name, such as localhost.
    text.to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(wrong)
}

/// `::` accepts IPv4 as well, but binding it fails on a kernel without IPv6.
fn every_address() -> IpAddr {
    match std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_prometheus_writes_them() {
        assert_eq!(parse(":19797").unwrap().port(), 19797);
        assert!(parse(":0").unwrap().ip().is_unspecified());
        assert_eq!(parse("127.0.0.1:1").unwrap().to_string(), "127.0.0.1:1");
        assert!(parse("localhost:1").unwrap().ip().is_loopback());
        for wrong in ["", "19797", ":x", "127.0.0.1", ":99999"] {
            assert!(parse(wrong).unwrap_err().to_string().contains("such as"), "{wrong:?}");
        }
    }
}
