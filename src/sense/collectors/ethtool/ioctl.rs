//! The requests `SIOCETHTOOL` (ethtool(8)), and parsers of their answers. The parsers are pure.

use nix::errno::Errno;
use nix::libc;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const GET_SETTINGS: u32 = 0x1;
const GET_DRIVER: u32 = 0x3;
const GET_STRINGS: u32 = 0x1b;
const GET_STATISTICS: u32 = 0x1d;
/// The set of strings with the names of counters.
const STATISTICS_NAMES: u32 = 1;

const SETTINGS_BYTES: usize = 44;
const DRIVER_BYTES: usize = 196;
const TEXT_BYTES: usize = 32;
/// Where the number of counters is.
const COUNT_AT: usize = 180;

/// No driver has more counters. Those of the largest switches have some thousands.
const MAX_COUNTERS: usize = 1 << 16;
/// What an answer has room for. A driver may get further counters between two requests, and the kernel writes them
/// all, without asking how much fits.
const ROOM_COUNTERS: usize = 2 * MAX_COUNTERS;

/// Supported and advertised modes of a link, in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkModes {
    pub supported: u32,
    pub advertised: u32,
    pub is_negotiated: bool,
}

/// The texts of a driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    pub name: String,
    pub version: String,
    pub firmware: String,
    pub bus: String,
    pub rom: String,
    counters: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let number = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    number.map_or(0, u32::from_ne_bytes)
}

/// Text of a fixed length, filled with zero bytes.
fn text_at(bytes: &[u8], at: usize) -> String {
    let text = bytes.get(at..at + TEXT_BYTES).unwrap_or_default();
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    String::from_utf8_lossy(&text[..end]).into_owned()
}

fn parse_link_modes(bytes: &[u8]) -> LinkModes {
    LinkModes {
        supported: u32_at(bytes, 4),
        advertised: u32_at(bytes, 8),
        is_negotiated: bytes.get(18) == Some(&1),
    }
}

fn parse_driver(bytes: &[u8]) -> Driver {
    let text = |index: usize| text_at(bytes, 4 + index * TEXT_BYTES);
    Driver {
        name: text(0),
        version: text(1),
        firmware: text(2),
        bus: text(3),
        rom: text(4),
        counters: u32_at(bytes, COUNT_AT) as usize,
    }
}

/// Names and counts. Both answers say how many they have.
fn parse_counters(names: &[u8], counts: &[u8]) -> Vec<(String, u64)> {
    let length = u32_at(names, 8).min(u32_at(counts, 4)) as usize;
    let counters = (0..length).map_while(|index| {
        let at = 8 + index * 8;
        let count = counts.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)?;
        let name_at = 12 + index * TEXT_BYTES;
        names.get(name_at..name_at + TEXT_BYTES)?;
        Some((text_at(names, name_at), count))
    });
    counters.collect()
}

/// A socket for the requests.
pub struct Ethtool(OwnedFd);

impl Ethtool {
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn open() -> io::Result<Ethtool> {
        // A socket of any family passes the requests on; this one needs no network.
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Ethtool(socket))
    }

    /// Sends a request about a device; the answer overwrites it.
    fn ask(&self, device: &str, request: &mut [u8]) -> nix::Result<()> {
        // SAFETY: zero bytes are a valid ifreq, which has numbers, bytes and a pointer.
        let mut argument: libc::ifreq = unsafe { std::mem::zeroed() };
        if device.len() >= argument.ifr_name.len() {
            return Err(Errno::ENODEV);
        }
        for (slot, byte) in argument.ifr_name.iter_mut().zip(device.bytes()) {
            *slot = byte.cast_signed();
        }
        argument.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
        // SAFETY: both structures live during the call, and each request is as long as its answer, with room to spare
        // where the driver decides the length.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), SIOCETHTOOL, &raw mut argument) }).map(drop)
    }

    fn answer(&self, device: &str, head: &[u32], length: usize) -> nix::Result<Vec<u8>> {
        // Zeroed pages cost nothing until the kernel writes to them.
        let mut request = vec![0; length];
        for (place, number) in request.chunks_exact_mut(4).zip(head) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        self.ask(device, &mut request)?;
        Ok(request)
    }

    pub fn link_modes(&self, device: &str) -> nix::Result<LinkModes> {
        Ok(parse_link_modes(&self.answer(
            device,
            &[GET_SETTINGS],
            SETTINGS_BYTES,
        )?))
    }

    pub fn driver(&self, device: &str) -> nix::Result<Driver> {
        Ok(parse_driver(&self.answer(device, &[GET_DRIVER], DRIVER_BYTES)?))
    }

    /// The counters of a device whose driver is known.
    ///
    /// # Errors
    /// When the kernel refuses, or when the driver has more counters than an answer has room for.
    pub fn counters(&self, device: &str, driver: &Driver) -> nix::Result<Vec<(String, u64)>> {
        if driver.counters == 0 {
            return Ok(Vec::new());
        }
        let count = u32::try_from(driver.counters).unwrap_or(u32::MAX);
        if driver.counters > MAX_COUNTERS {
            return Err(Errno::EOVERFLOW);
        }
        let head = [GET_STRINGS, STATISTICS_NAMES, count];
        let names = self.answer(device, &head, 12 + ROOM_COUNTERS * TEXT_BYTES)?;
        let counts = self.answer(device, &[GET_STATISTICS, count], 8 + ROOM_COUNTERS * 8)?;
        Ok(parse_counters(&names, &counts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_parsed() {
        let mut settings = vec![0; SETTINGS_BYTES];
        settings[4..8].copy_from_slice(&0x2fu32.to_ne_bytes());
        settings[8..12].copy_from_slice(&0x20u32.to_ne_bytes());
        settings[18] = 1;
        let modes = LinkModes {
            supported: 0x2f,
            advertised: 0x20,
            is_negotiated: true,
        };
        assert_eq!(parse_link_modes(&settings), modes);
        let mut driver = vec![0; DRIVER_BYTES];
        driver[4..8].copy_from_slice(b"igb\0");
        driver[100..105].copy_from_slice(b"0000:");
        driver[COUNT_AT] = 2;
        let driver = parse_driver(&driver);
        assert_eq!(
            (driver.name.as_str(), driver.bus.as_str(), driver.counters),
            ("igb", "0000:", 2)
        );
        let mut names = vec![0; 12 + 2 * TEXT_BYTES];
        names[8] = 2;
        names[12..14].copy_from_slice(b"rx");
        names[44..46].copy_from_slice(b"tx");
        let counts = [&[0, 0, 0, 0, 2, 0, 0, 0][..], &7u64.to_ne_bytes(), &9u64.to_ne_bytes()].concat();
        assert_eq!(
            parse_counters(&names, &counts),
            [("rx".to_owned(), 7), ("tx".to_owned(), 9)]
        );
        // An answer that is shorter than it says.
        assert_eq!(parse_counters(&names[..50], &counts), [("rx".to_owned(), 7)]);
        assert_eq!(parse_counters(&[], &[]), []);
    }

    #[test]
    fn driver_with_too_many_counters_is_not_asked() {
        let ethtool = Ethtool::open().unwrap();
        for counters in [MAX_COUNTERS + 1, u32::MAX as usize] {
            let mut bytes = vec![0; DRIVER_BYTES];
            bytes[COUNT_AT..COUNT_AT + 4].copy_from_slice(&u32::try_from(counters).unwrap().to_ne_bytes());
            assert_eq!(ethtool.counters("none0", &parse_driver(&bytes)), Err(Errno::EOVERFLOW));
        }
    }

    #[test]
    fn unknown_devices_are_an_error() {
        let ethtool = Ethtool::open().unwrap();
        for device in ["none0", "a-name-that-is-too-long"] {
            assert_eq!(ethtool.driver(device), Err(Errno::ENODEV), "{device}");
        }
    }
}
