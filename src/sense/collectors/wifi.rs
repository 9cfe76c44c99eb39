//! `wifi`: wireless devices and the stations that they are connected to, from netlink (iw(8)).

mod nl80211;

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, if_present, read_text};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use std::path::Path;

/// The published metrics.
const METRICS: &str = "\
    node_wifi_interface_frequency_hertz node_wifi_station_beacon_loss_total \
    node_wifi_station_connected_seconds_total node_wifi_station_inactive_seconds node_wifi_station_info \
    node_wifi_station_receive_bits_per_second node_wifi_station_receive_bytes_total \
    node_wifi_station_received_packets_total node_wifi_station_signal_dbm node_wifi_station_transmit_bits_per_second \
    node_wifi_station_transmit_bytes_total node_wifi_station_transmit_failed_total \
    node_wifi_station_transmit_retries_total node_wifi_station_transmitted_packets_total";

pub const INFO: CollectorInfo = CollectorInfo::off(
    "wifi",
    Pace::IsolatedScrape,
    "wireless devices and stations",
    METRICS,
    |options| {
        let fixtures = options.wifi_fixtures.clone();
        Box::new(move |_| {
            let devices = match &fixtures {
                Some(directory) => read_fixtures(directory)?,
                None => nl80211::read_devices()?,
            };
            Ok(families(&devices))
        })
    },
);

/// A wireless device.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
struct Device {
    name: String,
    /// In megahertz.
    frequency: u32,
    /// The cell that the device belongs to.
    #[serde(skip)]
    cell: Option<Cell>,
    #[serde(skip)]
    stations: Vec<Station>,
}

/// A cell of a wireless network (BSS).
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
struct Cell {
    ssid: String,
    #[serde(deserialize_with = "hardware_address")]
    bssid: Vec<u8>,
    /// 0 authenticated, 1 associated, 2 joined ad hoc.
    status: u32,
}

/// A station with its counters; times are in nanoseconds, rates in bits per second.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
struct Station {
    #[serde(rename = "hardwareaddr", deserialize_with = "hardware_address")]
    hardware_address: Vec<u8>,
    connected: f64,
    inactive: f64,
    #[serde(rename = "receivebitrate")]
    receive_bitrate: f64,
    #[serde(rename = "transmitbitrate")]
    transmit_bitrate: f64,
    #[serde(rename = "receivedbytes")]
    received_bytes: f64,
    #[serde(rename = "transmittedbytes")]
    transmitted_bytes: f64,
    signal: f64,
    #[serde(rename = "transmitretries")]
    transmit_retries: f64,
    #[serde(rename = "transmitfailed")]
    transmit_failed: f64,
    #[serde(rename = "beaconloss")]
    beacon_loss: f64,
    #[serde(rename = "transmittedpackets")]
    transmitted_packets: f64,
    #[serde(rename = "receivedpackets")]
    received_packets: f64,
}

/// An address in base64, as Go writes bytes in JSON.
fn hardware_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64_STANDARD.decode(text).map_err(D::Error::custom)
}

fn address_text(address: &[u8]) -> String {
    let bytes: Vec<String> = address.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

fn families(devices: &[Device]) -> Vec<Family> {
    let mut set = FamilySet::default();
    for device in devices.iter().filter(|device| !device.name.is_empty()) {
        let name = label("device", device.name.clone());
        let hertz = f64::from(device.frequency) * 1e6;
        let help = "Frequency of a device.";
        set.add(
            "node_wifi_interface_frequency_hertz",
            help,
            std::slice::from_ref(&name),
            hertz,
        );
        if let Some(cell) = &device.cell {
            let mode = match cell.status {
                0 | 1 => "client",
                2 => "ad-hoc",
                _ => "unknown",
            };
            let labels = [
                name.clone(),
                label("bssid", address_text(&cell.bssid)),
                label("ssid", cell.ssid.clone()),
                label("mode", mode),
            ];
            let help = "The network of a device; the value is always 1.";
            set.add("node_wifi_station_info", help, &labels, 1.0);
        }
        for station in &device.stations {
            let labels = [
                name.clone(),
                label("mac_address", address_text(&station.hardware_address)),
            ];
            for (name, help, value) in [
                (
                    "node_wifi_station_connected_seconds_total",
                    "Time of the connection.",
                    station.connected / 1e9,
                ),
                (
                    "node_wifi_station_inactive_seconds",
                    "Time since the last packet.",
                    station.inactive / 1e9,
                ),
                (
                    "node_wifi_station_receive_bits_per_second",
                    "Rate of receiving.",
                    station.receive_bitrate,
                ),
                (
                    "node_wifi_station_transmit_bits_per_second",
                    "Rate of sending.",
                    station.transmit_bitrate,
                ),
                (
                    "node_wifi_station_receive_bytes_total",
                    "Bytes received.",
                    station.received_bytes,
                ),
                (
                    "node_wifi_station_transmit_bytes_total",
                    "Bytes sent.",
                    station.transmitted_bytes,
                ),
                (
                    "node_wifi_station_signal_dbm",
                    "Strength of the signal.",
                    station.signal,
                ),
                (
                    "node_wifi_station_transmit_retries_total",
                    "Packets sent again.",
                    station.transmit_retries,
                ),
                (
                    "node_wifi_station_transmit_failed_total",
                    "Packets that could not be sent.",
                    station.transmit_failed,
                ),
                (
                    "node_wifi_station_beacon_loss_total",
                    "Beacons that were missed.",
                    station.beacon_loss,
                ),
                (
                    "node_wifi_station_transmitted_packets_total",
                    "Packets sent.",
                    station.transmitted_packets,
                ),
                (
                    "node_wifi_station_received_packets_total",
                    "Packets received.",
                    station.received_packets,
                ),
            ] {
                set.add(name, help, &labels, value);
            }
        }
    }
    set.into_families()
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ReadError> {
    let text = read_text(path)?;
    serde_json::from_str(&text).map_err(|error| ReadError::System(format!("{}: {error}", path.display())))
}

/// `--collector.wifi.fixtures`: the devices of a directory, in node_exporter's format.
fn read_fixtures(directory: &Path) -> Result<Vec<Device>, ReadError> {
    let devices: Vec<Device> = read_json(&directory.join("interfaces.json"))?;
    let with_files = devices.into_iter().map(|device| {
        let of_device = directory.join(&device.name);
        Ok(Device {
            cell: if_present(read_json(&of_device.join("bss.json")))?,
            stations: if_present(read_json(&of_device.join("stationinfo.json")))?.unwrap_or_default(),
            ..device
        })
    });
    with_files.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::text_of;

    #[test]
    fn fixtures_have_devices_cells_and_stations() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("wlan0")).unwrap();
        for (file, text) in [
            (
                "interfaces.json",
                r#"[{"name": "wlan0", "type": 2, "frequency": 2412}, {"name": "wlan1"}, {"type": 10}]"#,
            ),
            (
                "wlan0/bss.json",
                r#"{"ssid": "Home", "bssid": "ABEiM0RV", "status": 2}"#,
            ),
            (
                "wlan0/stationinfo.json",
                r#"[{"hardwareaddr": "AQIDBAUG", "connected": 2000000000, "signal": -52}]"#,
            ),
        ] {
            std::fs::write(directory.path().join(file), text).unwrap();
        }
        let lines = text_of(&families(&read_fixtures(directory.path()).unwrap()), "");
        assert_eq!(
            lines[..4],
            [
                "node_wifi_interface_frequency_hertz{device=\"wlan0\"} 2412000000",
                "node_wifi_interface_frequency_hertz{device=\"wlan1\"} 0",
                "node_wifi_station_info{device=\"wlan0\",bssid=\"00:11:22:33:44:55\",ssid=\"Home\",mode=\"ad-hoc\"} 1",
                "node_wifi_station_connected_seconds_total{device=\"wlan0\",mac_address=\"01:02:03:04:05:06\"} 2",
            ]
        );
        assert_eq!(lines.len(), 15);
        std::fs::write(directory.path().join("wlan0/bss.json"), "{").unwrap();
        assert!(read_fixtures(directory.path()).is_err());
    }
}
