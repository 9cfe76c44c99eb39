//! Wireless devices and stations as the kernel's nl80211 lists them.

use super::{Cell, Device, Station};
use crate::sense::runtime::kernel_file::ReadError;
use crate::sense::runtime::netlink::{Message, Netlink, attribute, attributes, encode, text, u16_at, u32_at, u64_at};
use crate::sense::runtime::network_links::error;
use rustix::net::netlink;
use std::io;

/// The family that knows the numbers of the others.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

const GET_INTERFACE: u8 = 5;
const GET_STATION: u8 = 17;
const GET_SCAN: u8 = 32;

/// Command, version and padding before the attributes.
const HEADER: usize = 4;
const INDEX: u16 = 3;
const NAME: u16 = 4;
const MAC: u16 = 6;
const STATION: u16 = 21;
const FREQUENCY: u16 = 38;
const CELL: u16 = 47;

fn request(command: u8, fields: &[u8]) -> Vec<u8> {
    [&[command, 1, 0, 0], fields].concat()
}

/// The devices, each with what it is connected to.
pub fn read_devices() -> Result<Vec<Device>, ReadError> {
    let mut netlink = Netlink::open(Some(netlink::GENERIC)).map_err(error)?;
    let ask = request(GET_FAMILY, &encode(FAMILY_NAME, b"nl80211\0"));
    let family = match netlink.get(CONTROL, &ask) {
        Ok(family) => family,
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            return Err(ReadError::Absent("no wireless network"));
        }
        Err(source) => return Err(error(source)),
    };
    let id = family.and_then(|family| u16_at(attribute(family.body.get(HEADER..)?, FAMILY_ID)?, 0));
    let Some(id) = id else {
        return Err(ReadError::Absent("no wireless network"));
    };
    let mut devices = Vec::new();
    for message in netlink.dump(id, &request(GET_INTERFACE, &[])).map_err(error)? {
        let Some((index, device)) = parse_device(&message) else {
            continue;
        };
        // The kernel refuses both lists for a device that is down or of another kind.
        let of_device = encode(INDEX, &index.to_ne_bytes());
        let cells = netlink.dump(id, &request(GET_SCAN, &of_device)).unwrap_or_default();
        let stations = netlink.dump(id, &request(GET_STATION, &of_device)).unwrap_or_default();
        devices.push(Device {
            cell: cells.iter().find_map(parse_cell),
            stations: stations.iter().filter_map(parse_station).collect(),
            ..device
        });
    }
    Ok(devices)
}

fn parse_device(message: &Message) -> Option<(u32, Device)> {
    let fields = message.body.get(HEADER..)?;
    let device = Device {
        name: text(attribute(fields, NAME)?),
        frequency: attribute(fields, FREQUENCY)
            .and_then(|value| u32_at(value, 0))
            .unwrap_or_default(),
        ..Device::default()
    };
    Some((u32_at(attribute(fields, INDEX)?, 0)?, device))
}

/// The cell that the device belongs to; those that it only sees have no status.
fn parse_cell(message: &Message) -> Option<Cell> {
    let cell = attribute(message.body.get(HEADER..)?, CELL)?;
    let elements = attribute(cell, 6).unwrap_or_default();
    Some(Cell {
        bssid: attribute(cell, 1)?.to_vec(),
        ssid: ssid(elements).unwrap_or_default(),
        status: u32_at(attribute(cell, 9)?, 0)?,
    })
}

/// The name in the elements of a beacon: element 0, which is text of any bytes.
fn ssid(mut elements: &[u8]) -> Option<String> {
    loop {
        let (kind, length) = (*elements.first()?, usize::from(*elements.get(1)?));
        let value = elements.get(2..2 + length)?;
        if kind == 0 {
            return Some(String::from_utf8_lossy(value).into_owned());
        }
        elements = &elements[2 + length..];
    }
}

/// Bits per second of a rate in steps of 100 kbit/s; the wide field is the exact one.
fn bits_per_second(rate: &[u8]) -> f64 {
    let wide = attribute(rate, 5).and_then(|value| u32_at(value, 0));
    let narrow = || attribute(rate, 1).and_then(|value| u16_at(value, 0)).map(u32::from);
    f64::from(wide.or_else(narrow).unwrap_or_default()) * 1e5
}

fn parse_station(message: &Message) -> Option<Station> {
    let fields = message.body.get(HEADER..)?;
    let mut station = Station {
        hardware_address: attribute(fields, MAC)?.to_vec(),
        ..Station::default()
    };
    let (mut received, mut sent) = (None, None);
    for (kind, value) in attributes(attribute(fields, STATION)?) {
        let number = || u32_at(value, 0).map_or(0.0, f64::from);
        let wide = || u64_at(value, 0).map(|number| number as f64);
        match kind {
            1 => station.inactive = number() * 1e6,
            2 => received = received.or_else(|| Some(number())),
            3 => sent = sent.or_else(|| Some(number())),
            7 => station.signal = value.first().map_or(0.0, |byte| f64::from(byte.cast_signed())),
            8 => station.transmit_bitrate = bits_per_second(value),
            9 => station.received_packets = number(),
            10 => station.transmitted_packets = number(),
            11 => station.transmit_retries = number(),
            12 => station.transmit_failed = number(),
            14 => station.receive_bitrate = bits_per_second(value),
            16 => station.connected = number() * 1e9,
            18 => station.beacon_loss = number(),
            23 => received = wide(),
            24 => sent = wide(),
            _ => {}
        }
    }
    station.received_bytes = received.unwrap_or_default();
    station.transmitted_bytes = sent.unwrap_or_default();
    Some(station)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fields: &[Vec<u8>]) -> Message {
        Message {
            kind: 30,
            body: [vec![0; HEADER], fields.concat()].concat(),
        }
    }

    #[test]
    fn devices_cells_and_stations_are_parsed() {
        let (index, device) = parse_device(&message(&[
            encode(INDEX, &4u32.to_ne_bytes()),
            encode(NAME, b"wlan0\0"),
            encode(FREQUENCY, &2412u32.to_ne_bytes()),
        ]))
        .unwrap();
        assert_eq!((index, device.name.as_str(), device.frequency), (4, "wlan0", 2412));

        let cell = |status: Option<u32>| {
            let mut fields = vec![encode(1, &[0, 1, 2, 3, 4, 5]), encode(6, b"\x01\x01x\x00\x04Home")];
            fields.extend(status.map(|status| encode(9, &status.to_ne_bytes())));
            parse_cell(&message(&[encode(CELL, &fields.concat())]))
        };
        assert_eq!(cell(None), None);
        assert_eq!(
            cell(Some(1)).map(|cell| (cell.ssid, cell.status)),
            Some(("Home".to_owned(), 1))
        );

        let info = [
            encode(1, &400u32.to_ne_bytes()),
            encode(2, &9u32.to_ne_bytes()),
            encode(23, &5_000_000_000u64.to_ne_bytes()),
            encode(7, &[0xcc]),
            encode(8, &encode(5, &1640u32.to_ne_bytes())),
            encode(14, &encode(1, &1280u16.to_ne_bytes())),
            encode(16, &30u32.to_ne_bytes()),
        ];
        let station = parse_station(&message(&[encode(MAC, &[6; 6]), encode(STATION, &info.concat())])).unwrap();
        assert_eq!(
            station,
            Station {
                hardware_address: vec![6; 6],
                inactive: 4e8,
                received_bytes: 5e9,
                signal: -52.0,
                transmit_bitrate: 1.64e8,
                receive_bitrate: 1.28e8,
                connected: 3e10,
                ..Station::default()
            }
        );
        assert_eq!(ssid(b"\x00\x09short"), None);
    }

    #[test]
    fn host_answers_or_has_no_wireless_network() {
        match read_devices() {
            Ok(_) | Err(ReadError::Absent(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
