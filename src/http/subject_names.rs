//! The subject alternative names of a client's certificate, because rustls verifies certificates but exposes no names.

use der::asn1::AnyRef;
use der::{Decode, Reader, Tag, TagNumber, Tagged};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio_rustls::rustls::pki_types::CertificateDer;

/// The value of the object identifier 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Returns the names that exporter-toolkit compares, as text: DNS names, mail addresses, IP addresses and URIs. `None` means
/// that the certificate is malformed (RFC 5280, 4.1 and 4.2.1.6).
pub(super) fn subject_names(certificate: &CertificateDer<'_>) -> Option<Vec<String>> {
    let certificate = elements(AnyRef::from_der(certificate).ok()?)?;
    let fields = elements(*certificate.first()?)?;
    let Some(extensions) = fields.iter().find(|field| context_number(field) == Some(3)) else {
        return Some(Vec::new());
    };
    let mut extension_value = None;
    for extension in elements(AnyRef::from_der(extensions.value()).ok()?)? {
        let parts = elements(extension)?;
        let (id, value) = (parts.first()?, parts.last()?);
        if id.tag() != Tag::ObjectIdentifier || value.tag() != Tag::OctetString {
            return None;
        }
        if id.value() != SUBJECT_ALT_NAME {
            continue;
        }
        // A second extension of the same kind is forbidden.
        if extension_value.replace(value.value()).is_some() {
            return None;
        }
    }
    let Some(value) = extension_value else {
        return Some(Vec::new());
    };
    let mut names = Vec::new();
    for name in elements(AnyRef::from_der(value).ok()?)? {
        match (context_number(&name), name.value()) {
            // A mail address, a DNS name, a URI: IA5String, which is ASCII.
            (Some(1 | 2 | 6), text) if text.is_ascii() => names.push(String::from_utf8_lossy(text).into_owned()),
            (Some(1 | 2 | 6), _) => return None,
            (Some(7), bytes) => names.extend(ip_address(bytes).map(|address| address.to_string())),
            _ => {}
        }
    }
    Some(names)
}

/// The elements of a sequence.
fn elements(sequence: AnyRef<'_>) -> Option<Vec<AnyRef<'_>>> {
    let mut elements = Vec::new();
    sequence
        .sequence(|reader| {
            while !reader.is_finished() {
                elements.push(reader.decode()?);
            }
            Ok::<_, der::Error>(())
        })
        .ok()?;
    Some(elements)
}

/// N of a value that is tagged `[N]`.
fn context_number(value: &AnyRef<'_>) -> Option<u32> {
    match value.tag() {
        Tag::ContextSpecific {
            number: TagNumber(number),
            ..
        } => Some(number),
        _ => None,
    }
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes)
            .ok()
            .map(|bytes| Ipv4Addr::from(bytes).into()),
        _ => <[u8; 16]>::try_from(bytes)
            .ok()
            .map(|bytes| Ipv6Addr::from(bytes).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, CustomExtension, KeyPair, SanType};

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn all_kinds_of_names_are_read() {
        let names = certificate(|params| {
            params.subject_alt_names = vec![
                SanType::DnsName("a.example".try_into().unwrap()),
                SanType::Rfc822Name("a@example".try_into().unwrap()),
                SanType::URI("spiffe://example/a".try_into().unwrap()),
                SanType::IpAddress("192.0.2.1".parse().unwrap()),
                SanType::IpAddress("2001:db8::1".parse().unwrap()),
            ];
            params.is_ca = rcgen::IsCa::ExplicitNoCa;
        });
        let expected = [
            "a.example",
            "a@example",
            "spiffe://example/a",
            "192.0.2.1",
            "2001:db8::1",
        ];
        assert_eq!(subject_names(&names).unwrap(), expected);
    }

    #[test]
    fn certificate_without_names_has_none() {
        assert_eq!(subject_names(&certificate(|_| {})), Some(Vec::new()));
        let other = CustomExtension::from_oid_content(&[2, 5, 29, 99], vec![0x30, 0]);
        let other = certificate(|params| params.custom_extensions = vec![other]);
        assert_eq!(subject_names(&other), Some(Vec::new()));
    }

    #[test]
    fn malformed_certificates_are_refused() {
        let good = certificate(|params| params.subject_alt_names = vec![SanType::DnsName("a".try_into().unwrap())]);
        for length in 0..good.len() {
            assert_eq!(subject_names(&CertificateDer::from(&good[..length])), None, "{length}");
        }
        let longer = [&good[..], &[0]].concat();
        assert_eq!(subject_names(&CertificateDer::from(longer)), None);
        let names = |content: &[u8]| CustomExtension::from_oid_content(&[2, 5, 29, 17], content.to_vec());
        let twice = [names(&[0x30, 3, 0x82, 1, b'a']), names(&[0x30, 3, 0x82, 1, b'b'])];
        for extensions in [
            twice.to_vec(),
            vec![names(&[0x30, 3, 0x82, 1, 0xff])],
            vec![names(&[0x30, 3, 0x82, 2, b'a'])],
            vec![names(b"")],
        ] {
            let wrong = certificate(|params| params.custom_extensions = extensions);
            assert_eq!(subject_names(&wrong), None);
        }
    }
}
