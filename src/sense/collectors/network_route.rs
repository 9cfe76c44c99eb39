//! `network_route`: routes of the host, from netlink (ip-route(8)).

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::ReadError;
use crate::sense::runtime::netlink::{Message, Netlink, attribute, u16_at, u32_at};
use crate::sense::runtime::network_links::{Link, error, links};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

/// The published metrics.
const METRICS: &str = "node_network_route_info node_network_routes";

pub const INFO: CollectorInfo = CollectorInfo::off("network_route", Pace::Slow, "routes", METRICS, |_| {
    Box::new(|_| read_network_route())
});

const GET_ROUTE: u16 = 26;
const HEADER: usize = 12;
/// The type of routes to other hosts.
const UNICAST: u8 = 1;
const DESTINATION: u16 = 1;
const DEVICE: u16 = 4;
const GATEWAY: u16 = 5;
const PRIORITY: u16 = 6;
const SOURCE: u16 = 7;
const MULTIPATH: u16 = 9;

/// Numbers of `rtm_protocol` with their names in node_exporter.
const PROTOCOLS: [(u8, &str); 21] = [
    (0, "unspec"),
    (1, "redirect"),
    (2, "kernel"),
    (3, "boot"),
    (4, "static"),
    (8, "gated"),
    (9, "ra"),
    (10, "mrt"),
    (11, "zebra"),
    (12, "bird"),
    (13, "dnrouted"),
    (14, "xorp"),
    (15, "ntk"),
    (16, "dhcp"),
    (17, "mrouted"),
    (42, "babel"),
    (186, "bgp"),
    (187, "isis"),
    (188, "ospf"),
    (189, "rip"),
    (192, "eigrp"),
];

/// A route over one device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Route {
    device: u32,
    source: String,
    destination: String,
    gateway: String,
    priority: u32,
    protocol: &'static str,
    /// Empty where the route has one path only.
    weight: String,
}

fn address(value: Option<&[u8]>) -> String {
    let address = value.and_then(|value| match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
    });
    address.map(|address| address.to_string()).unwrap_or_default()
}

/// The routes of a message: one per path.
fn parse_routes(message: &Message) -> Vec<Route> {
    let (Some(header), Some(fields)) = (message.body.get(..HEADER), message.body.get(HEADER..)) else {
        return Vec::new();
    };
    if header[7] != UNICAST {
        return Vec::new();
    }
    let number = |kind| {
        attribute(fields, kind)
            .and_then(|value| u32_at(value, 0))
            .unwrap_or_default()
    };
    let protocol = PROTOCOLS.iter().find(|(number, _)| *number == header[5]);
    let destination = match header[1] {
        0 => "default".to_owned(),
        length => format!("{}/{length}", address(attribute(fields, DESTINATION))),
    };
    let route = Route {
        device: number(DEVICE),
        source: address(attribute(fields, SOURCE)),
        destination,
        gateway: address(attribute(fields, GATEWAY)),
        priority: number(PRIORITY),
        protocol: protocol.map_or("unknown", |(_, name)| name),
        weight: String::new(),
    };
    let Some(mut paths) = attribute(fields, MULTIPATH) else {
        return vec![route];
    };
    let mut routes = Vec::new();
    // Each path has its length, flags, weight less one, the device, and attributes.
    while let (Some(length), Some(device)) = (u16_at(paths, 0), u32_at(paths, 4)) {
        let length = usize::from(length);
        let Some(fields) = paths.get(8..length) else {
            break;
        };
        routes.push(Route {
            device,
            gateway: address(attribute(fields, GATEWAY)),
            weight: (u32::from(paths[3]) + 1).to_string(),
            ..route.clone()
        });
        paths = paths.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    routes
}

fn families(routes: &[Route], names: &HashMap<u32, Link>) -> Vec<Family> {
    let mut set = FamilySet::default();
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    let mut seen = HashSet::new();
    for route in routes {
        let device = names
            .get(&route.device)
            .map(|link| link.name.clone())
            .unwrap_or_default();
        *counts.entry(device.clone()).or_default() += 1;
        // Two tables may have the same route, which counts twice and has one series.
        if !seen.insert((device.clone(), route)) {
            continue;
        }
        let labels = [
            label("device", device),
            label("src", route.source.clone()),
            label("dest", route.destination.clone()),
            label("gw", route.gateway.clone()),
            label("priority", route.priority.to_string()),
            label("proto", route.protocol),
            label("weight", route.weight.clone()),
        ];
        set.add(
            "node_network_route_info",
            "A route; the value is always 1.",
            &labels,
            1.0,
        );
    }
    for (device, count) in counts {
        let labels = [label("device", device)];
        set.add(
            "node_network_routes",
            "Routes over a device.",
            &labels,
            f64::from(count),
        );
    }
    set.into_families()
}

fn read_network_route() -> Result<Vec<Family>, ReadError> {
    let mut netlink = Netlink::open(None).map_err(error)?;
    let names = links(&mut netlink)?;
    let messages = netlink.dump(GET_ROUTE, &[0; HEADER]).map_err(error)?;
    let routes: Vec<Route> = messages.iter().flat_map(parse_routes).collect();
    Ok(families(&routes, &names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::text_of;
    use crate::sense::runtime::netlink::encode;

    fn message(prefix: u8, kind: u8, fields: &[Vec<u8>]) -> Message {
        let header = [2, prefix, 0, 0, 254, 4, 0, kind, 0, 0, 0, 0];
        Message {
            kind: 24,
            body: [header.to_vec(), fields.concat()].concat(),
        }
    }

    #[test]
    fn routes_have_one_series_per_path() {
        let path = |device: u32, weight: u8, gateway: [u8; 4]| {
            let gateway = encode(GATEWAY, &gateway);
            let length = u16::try_from(8 + gateway.len()).unwrap().to_ne_bytes();
            [&length[..], &[0, weight], &device.to_ne_bytes(), &gateway].concat()
        };
        let paths = [path(2, 0, [192, 0, 2, 1]), path(3, 4, [192, 0, 2, 2])].concat();
        let messages = [
            message(0, UNICAST, &[encode(MULTIPATH, &paths)]),
            message(
                24,
                UNICAST,
                &[
                    encode(DESTINATION, &[198, 51, 100, 0]),
                    encode(DEVICE, &2u32.to_ne_bytes()),
                    encode(SOURCE, &[198, 51, 100, 7]),
                    encode(PRIORITY, &100u32.to_ne_bytes()),
                ],
            ),
            message(32, 2, &[]),
        ];
        // The same route in another table.
        let messages = [&messages[..], &messages[1..2]].concat();
        let routes: Vec<Route> = messages.iter().flat_map(parse_routes).collect();
        let names = HashMap::from([(2, "eth0"), (3, "eth1")].map(|(index, name)| {
            let link = Link {
                name: name.to_owned(),
                other_names: Vec::new(),
            };
            (index, link)
        }));
        let of = |device: &str, src: &str, dest: &str, gw: &str, rest: &str| {
            format!("node_network_route_info{{device=\"{device}\",src=\"{src}\",dest=\"{dest}\",gw=\"{gw}\",{rest}}} 1")
        };
        assert_eq!(
            text_of(&families(&routes, &names), ""),
            [
                of(
                    "eth0",
                    "",
                    "default",
                    "192.0.2.1",
                    "priority=\"0\",proto=\"static\",weight=\"1\""
                ),
                of(
                    "eth1",
                    "",
                    "default",
                    "192.0.2.2",
                    "priority=\"0\",proto=\"static\",weight=\"5\""
                ),
                of(
                    "eth0",
                    "198.51.100.7",
                    "198.51.100.0/24",
                    "",
                    "priority=\"100\",proto=\"static\",weight=\"\""
                ),
                "node_network_routes{device=\"eth0\"} 3".to_owned(),
                "node_network_routes{device=\"eth1\"} 1".to_owned(),
            ]
        );
        read_network_route().unwrap();
    }
}
