//! A client of netlink(7) that asks for dumps, and a parser of their messages. The parser is pure.

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// A dump whose end does not come must not hold its reader for ever.
const PATIENCE: Duration = Duration::from_secs(2);

/// The kernel puts at most 32 KiB of a dump into one datagram.
const BUFFER_BYTES: usize = 64 << 10;

const HEADER_BYTES: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
/// The bits of an attribute's type that are flags.
const TYPE_MASK: u16 = 0x3fff;

/// A message of an answer without its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: u16,
    pub body: Vec<u8>,
}

/// A socket of one family of netlink.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// The family of links, routes and queues, where there is no protocol.
    ///
    /// # Errors
    /// When the kernel has no such family or refuses the socket.
    pub fn open(protocol: Option<Protocol>) -> io::Result<Netlink> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// All messages of the answer to a request for a list.
    ///
    /// # Errors
    /// The kernel's error, or that of a socket without an answer in time.
    pub fn dump(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Message>> {
        self.request(kind, DUMP, body)
    }

    /// The answer to a request for one thing.
    ///
    /// # Errors
    /// Like [`Netlink::dump`].
    pub fn get(&mut self, kind: u16, body: &[u8]) -> io::Result<Option<Message>> {
        Ok(self.request(kind, 0, body)?.into_iter().next())
    }

    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Message>> {
        self.sequence += 1;
        let length = u32::try_from(HEADER_BYTES + body.len()).map_err(io::Error::other)?;
        let mut request = Vec::with_capacity(HEADER_BYTES + body.len());
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((REQUEST | flags).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend(0u32.to_ne_bytes());
        request.extend(body);
        send(&self.socket, &request, SendFlags::empty())?;
        let mut messages = Vec::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let (length, _) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            let is_done = parse_messages(&buffer[..length], self.sequence, &mut messages)?;
            // A request for one thing has one message, without an end.
            if is_done || (flags == 0 && !messages.is_empty()) {
                return Ok(messages);
            }
        }
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The number of 16 bits at an offset.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    number(bytes, at).map(u16::from_ne_bytes)
}

/// The number of 32 bits at an offset.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at).map(u32::from_ne_bytes)
}

/// The number of 64 bits at an offset.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at).map(u64::from_ne_bytes)
}

/// Messages and attributes begin at multiples of four bytes.
fn align(length: usize) -> usize {
    length.div_ceil(4) * 4
}

/// Adds the messages of one datagram; returns whether the answer ends with it.
fn parse_messages(mut bytes: &[u8], sequence: u32, messages: &mut Vec<Message>) -> io::Result<bool> {
    while let (Some(length), Some(kind), Some(of)) = (u32_at(bytes, 0), u16_at(bytes, 4), u32_at(bytes, 8)) {
        let length = length as usize;
        let Some(body) = bytes.get(HEADER_BYTES..length) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        match kind {
            // The rest of an earlier answer that was given up.
            _ if of != sequence => {}
            DONE => return Ok(true),
            ERROR => match u32_at(body, 0).map(u32::cast_signed) {
                Some(0) => return Ok(true),
                Some(error) => return Err(io::Error::from_raw_os_error(error.saturating_neg())),
                None => return Err(io::ErrorKind::InvalidData.into()),
            },
            _ => messages.push(Message {
                kind,
                body: body.to_vec(),
            }),
        }
        bytes = bytes.get(align(length)..).unwrap_or_default();
    }
    Ok(false)
}

/// The attributes of a message or of another attribute: type and value.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a type.
pub fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// An attribute to send.
pub fn encode(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(align(bytes.len()), 0);
    bytes
}

/// The text of an attribute, which ends with a zero byte.
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.resize(align(bytes.len()), 0);
        bytes
    }

    #[test]
    fn messages_are_parsed_up_to_the_end() {
        let mut messages = Vec::new();
        let bytes = [message(20, 7, b"abcde"), message(20, 6, b"old"), message(DONE, 7, &[])].concat();
        assert!(parse_messages(&bytes, 7, &mut messages).unwrap());
        assert_eq!(
            messages,
            [Message {
                kind: 20,
                body: b"abcde".to_vec()
            }]
        );
        let refused = message(ERROR, 7, &(-2i32).to_ne_bytes());
        let error = parse_messages(&refused, 7, &mut messages).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(parse_messages(&[99, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0], 7, &mut messages).is_err());
    }

    #[test]
    fn attributes_nest_and_are_aligned() {
        let inner = [encode(1, b"abc"), encode(2, &7u32.to_ne_bytes())].concat();
        let outer = [encode(9, &inner), encode(3, b"eth0\0")].concat();
        assert_eq!(
            attribute(attribute(&outer, 9).unwrap(), 2).and_then(|value| u32_at(value, 0)),
            Some(7)
        );
        assert_eq!(attribute(&outer, 3).map(text).as_deref(), Some("eth0"));
        assert_eq!(attribute(&outer, 4), None);
    }

    #[test]
    fn links_of_this_host_are_listed() {
        let links = Netlink::open(None).unwrap().dump(18, &[0; 16]).unwrap();
        let names: Vec<_> = links
            .iter()
            .filter_map(|link| attribute(link.body.get(16..)?, 3))
            .map(text)
            .collect();
        assert!(names.contains(&"lo".to_owned()), "{names:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_messages(&bytes, 1, &mut Vec::new());
            prop_assert!(attributes(&bytes).count() <= 16);
        }
    }
}
