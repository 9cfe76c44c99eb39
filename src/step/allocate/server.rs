//! The server of an allocator: authorization, TLS and timeout of a request, as keys and as data.

use crate::diagnostic::Findings;
use crate::host::job::{Authorization, Server};
use crate::http::client::Trust;
use crate::schema::{Key, Kind, Object, optional, required};
use crate::step::read::read_timeout;
use crate::yaml::{Fields, Node};
use std::path::PathBuf;
use std::time::Duration;

/// As Prometheus waits for a scrape.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

pub static AUTHORIZATION: Object = Object::new(
    "the authorization of a request",
    &[
        optional("type", Kind::Text, "Default Bearer."),
        required(
            "credentials_file",
            Kind::Text,
            "The file that holds the secret, read for each request.",
        ),
    ],
);

pub static BASIC_AUTH: Object = Object::new(
    "the basic authentication of a request",
    &[
        required("username", Kind::Text, "The name of the user."),
        required(
            "password_file",
            Kind::Text,
            "The file that holds the password, read for each request.",
        ),
    ],
);

/// The keys of `tls_config`, as Prometheus spells them.
pub const TLS_KEYS: &[Key] = &[
    optional(
        "ca_file",
        Kind::Text,
        "CA certificates to trust instead of the system's.",
    ),
    optional("cert_file", Kind::Text, "Client certificate."),
    optional("key_file", Kind::Text, "Key of the client certificate."),
    optional(
        "server_name",
        Kind::Text,
        "Name that the server's certificate must have. Default the host in the address.",
    ),
    optional(
        "insecure_skip_verify",
        Kind::Flag,
        "Skip certificate verification. Default false.",
    ),
];

pub static TLS: Object = Object::new("the TLS of a request", TLS_KEYS);

pub(super) fn read_server(fields: &Fields, is_https: bool, findings: &mut Findings) -> Option<Server> {
    let timeout = read_timeout(fields, findings).unwrap_or(DEFAULT_TIMEOUT);
    let authorization = fields.get("authorization").map(|node| {
        refuse_secret(node, "credentials", findings);
        let fields = Fields::open(node, &AUTHORIZATION, findings)?;
        let kind = fields.text("type", findings).map(|text| text.value);
        Some(Authorization::Header {
            kind: kind.unwrap_or_else(|| "Bearer".to_owned()),
            credentials_file: read_path(&fields, "credentials_file", findings)?,
        })
    });
    let basic = fields.get("basic_auth").map(|node| {
        refuse_secret(node, "password", findings);
        let fields = Fields::open(node, &BASIC_AUTH, findings)?;
        let username = fields.text("username", findings)?.value;
        if username.contains(':') {
            findings.error(fields.span, "a user name with a `:`", "RFC 7617 does not allow it");
        }
        Some(Authorization::Basic {
            username,
            password_file: read_path(&fields, "password_file", findings)?,
        })
    });
    if let (Some(_), Some(node)) = (&authorization, fields.get("basic_auth")) {
        let help = "remove one of them";
        findings.error(node.span, "`basic_auth` and `authorization` set the same header", help);
        return None;
    }
    let tls = fields.get("tls_config").map(|node| {
        let fields = Fields::open(node, &TLS, findings)?;
        let mut path = |key| fields.get(key).map(|_| read_path(&fields, key, findings));
        let (ca_file, cert_file, key_file) = (path("ca_file"), path("cert_file"), path("key_file"));
        if cert_file.is_some() != key_file.is_some() {
            let help = "a client certificate needs both";
            findings.error(fields.span, "`cert_file` without `key_file`, or the reverse", help);
        }
        let identity = match (cert_file, key_file) {
            (Some(cert_file), Some(key_file)) => Some((cert_file?, key_file?)),
            _ => None,
        };
        Some(Trust {
            ca_file: ca_file.flatten(),
            certificate: identity,
            server_name: fields.text("server_name", findings).map(|name| name.value),
            insecure_skip_verify: fields
                .flag("insecure_skip_verify", findings)
                .is_some_and(|flag| flag.value),
        })
    });
    if !is_https && let Some(node) = fields.get("tls_config") {
        findings.warning(
            node.span,
            "`tls_config` applies to https only",
            "write https:// in `url`",
        );
    }
    let authorization = match authorization.or(basic) {
        Some(authorization) => Some(authorization?),
        None => None,
    };
    Some(Server {
        authorization,
        tls: match tls {
            Some(tls) => tls?,
            None => Trust::default(),
        },
        timeout,
    })
}

/// Refuses inline secrets, because the ledger stores the data for the release.
fn refuse_secret(node: &Node, key: &str, findings: &mut Findings) {
    if let Some(entry) = node.entry(key) {
        let help = format!("put it into a file that other users cannot read, and set {key}_file");
        findings.error(entry.key_span, "a secret in a rule file", help);
    }
}

/// Paths in rules must be absolute, because rules may be used from any directory.
fn read_path(fields: &Fields, key: &str, findings: &mut Findings) -> Option<PathBuf> {
    let text = fields.text(key, findings)?;
    if !text.value.starts_with('/') {
        let help = format!("such as /etc/evenkeel/{}", text.value);
        findings.error(text.span, format!("`{key}` must be an absolute path"), help);
        return None;
    }
    Some(PathBuf::from(text.value))
}
