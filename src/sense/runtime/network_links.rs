//! The network devices as netlink lists them: index, name and other names.

use super::kernel_file::ReadError;
use super::netlink::{Message, Netlink, attribute, attributes, text, u32_at};
use std::collections::HashMap;
use std::io;

const GET_LINK: u16 = 18;
const LINK_HEADER: usize = 16;
const NAME: u16 = 3;
const PROPERTIES: u16 = 52;
const OTHER_NAME: u16 = 53;

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    /// Its other names (`altname` of ip-link(8)).
    pub other_names: Vec<String>,
}

fn parse_link(message: &Message) -> Option<(u32, Link)> {
    let index = u32_at(&message.body, 4)?;
    let fields = message.body.get(LINK_HEADER..)?;
    let others = attribute(fields, PROPERTIES).unwrap_or_default();
    let others = attributes(others).filter(|(kind, _)| *kind == OTHER_NAME);
    let link = Link {
        name: text(attribute(fields, NAME)?),
        other_names: others.map(|(_, value)| text(value)).collect(),
    };
    Some((index, link))
}

/// The devices by index.
///
/// # Errors
/// When netlink does not answer.
pub fn links(netlink: &mut Netlink) -> Result<HashMap<u32, Link>, ReadError> {
    let messages = netlink.dump(GET_LINK, &[0; LINK_HEADER]).map_err(error)?;
    Ok(messages.iter().filter_map(parse_link).collect())
}

/// The error of a collector that asks netlink.
pub fn error(source: io::Error) -> ReadError {
    ReadError::System(format!("netlink: {source}"))
}

#[cfg(test)]
mod tests {
    use super::super::netlink::encode;
    use super::*;

    #[test]
    fn links_have_names_by_index() {
        let properties = [encode(OTHER_NAME, b"wan0\0"), encode(OTHER_NAME, b"enp1s0\0")].concat();
        let fields = [encode(NAME, b"eth0\0"), encode(PROPERTIES, &properties)].concat();
        let header = [&[0; 4][..], &7u32.to_ne_bytes(), &[0; 8]].concat();
        let message = Message {
            kind: 16,
            body: [header, fields].concat(),
        };
        let link = Link {
            name: "eth0".to_owned(),
            other_names: vec!["wan0".to_owned(), "enp1s0".to_owned()],
        };
        assert_eq!(parse_link(&message), Some((7, link)));
        let own = links(&mut Netlink::open(None).unwrap()).unwrap();
        assert!(own.values().any(|link| link.name == "lo"));
    }
}
