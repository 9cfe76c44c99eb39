//! The addresses of network devices, as getifaddrs(3) lists them.

use crate::family::{Family, label};
use crate::sense::collectors::name_filter::NameFilter;
use crate::sense::runtime::kernel_file::ReadError;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sys::socket::SockaddrStorage;
use std::net::IpAddr;

/// An address with the length of its prefix.
fn address(interface: &InterfaceAddress) -> Option<(IpAddr, u32)> {
    let ip = |storage: Option<SockaddrStorage>| -> Option<IpAddr> {
        let storage = storage?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    };
    let prefix = match ip(interface.netmask)? {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    };
    Some((ip(interface.address)?, prefix))
}

/// The scope as node_exporter names it.
fn scope(address: IpAddr) -> &'static str {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if address.is_loopback() || is_link_local {
        "link-local"
    } else if address.is_multicast() || address.is_unspecified() {
        ""
    } else {
        "global"
    }
}

/// A series per address.
///
/// # Errors
/// When the kernel refuses netlink, from which getifaddrs(3) has them.
pub fn read_addresses(wanted: &NameFilter) -> Result<Family, ReadError> {
    let interfaces = getifaddrs().map_err(|errno| ReadError::System(format!("getifaddrs: {}", errno.desc())))?;
    let mut family = Family::gauge(
        "node_network_address_info",
        "An address of a device; the value is always 1.",
    );
    for interface in interfaces {
        let Some((ip, prefix)) = address(&interface).filter(|_| wanted.allows(&interface.interface_name)) else {
            continue;
        };
        let labels = [
            label("device", interface.interface_name),
            label("address", ip.to_string()),
            label("netmask", prefix.to_string()),
            label("scope", scope(ip)),
        ];
        family.push(labels, 1.0);
    }
    Ok(family)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{deny_netlink, text_of};

    #[test]
    fn loopback_has_its_address() {
        let lines = text_of(&[read_addresses(&NameFilter::default()).unwrap()], "127.0.0.1");
        let expected =
            "node_network_address_info{device=\"lo\",address=\"127.0.0.1\",netmask=\"8\",scope=\"link-local\"} 1";
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn refused_netlink_is_an_error() {
        // A filter applies to one thread, so other tests go on.
        let refused = std::thread::spawn(|| {
            deny_netlink();
            read_addresses(&NameFilter::default()).map_err(|error| error.to_string())
        });
        let error = refused.join().unwrap().unwrap_err();
        assert!(error.starts_with("getifaddrs: Address family not supported"), "{error}");
    }

    #[test]
    fn scopes_are_those_of_node_exporter() {
        for (address, expected) in [
            ("127.0.0.1", "link-local"),
            ("169.254.1.1", "link-local"),
            ("fe80::1", "link-local"),
            ("192.0.2.1", "global"),
            ("2001:db8::1", "global"),
            ("0.0.0.0", ""),
        ] {
            assert_eq!(scope(address.parse().unwrap()), expected, "{address}");
        }
    }
}
