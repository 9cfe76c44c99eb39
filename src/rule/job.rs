//! The steps `allocate` and `exec` for the host as a whole: their keys, and their conversion from the written form to
//! data. The labels of the alert are filled in later.

use crate::diagnostic::{Findings, Span};
use crate::host::job::{Authorization, Server};
use crate::http::client::Trust;
use crate::schema::{Key, Kind, Object, optional, required};
use crate::template::{self, JsonTemplate, Segment};
use crate::yaml::{Content, Fields, Node, Text};
use hyper::Uri;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// As Prometheus waits for a scrape.
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest timeout, because a request occupies a worker.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
const METHODS: Kind = Kind::Choice(&["GET", "POST", "PUT", "PATCH", "DELETE"]);

pub static ALLOCATE: Object = Object {
    title: "an allocation",
    keys: &[
        required(
            "url",
            Kind::Text,
            "Address of the request. A label fills one segment, percent-encoded.",
        ),
        optional("method", METHODS, "Default POST."),
        optional(
            "body",
            Kind::Json,
            "Sent as JSON; strings can contain labels. Default the alert. None with GET.",
        ),
        required(
            "resource",
            Kind::Text,
            "JSON pointer to the name of the granted resource, such as /resource.",
        ),
        optional(
            "ttl",
            Kind::Text,
            "JSON pointer to the duration of the grant in seconds. evenkeel renews the grant in time.",
        ),
        optional(
            "release",
            Kind::Object(&RELEASE),
            "Request that releases the resource. Without it the grant expires by itself.",
        ),
        optional("timeout", Kind::Duration, "Timeout of each request. Default 10s."),
        optional(
            "authorization",
            Kind::Object(&AUTHORIZATION),
            "The Authorization header.",
        ),
        optional("basic_auth", Kind::Object(&BASIC_AUTH), "User name and password."),
        optional("tls_config", Kind::Object(&TLS), "TLS settings."),
    ],
    one_of: false,
};

pub static RELEASE: Object = Object {
    title: "a release",
    keys: &[
        required(
            "url",
            Kind::Text,
            "As above; '{{ $resource }}' is the granted resource.",
        ),
        optional("method", METHODS, "Default DELETE."),
        optional("body", Kind::Json, "As above. Default none."),
    ],
    one_of: false,
};

pub static AUTHORIZATION: Object = Object {
    title: "the authorization of a request",
    keys: &[
        optional("type", Kind::Text, "Default Bearer."),
        required(
            "credentials_file",
            Kind::Text,
            "The file that holds the secret, read for each request.",
        ),
    ],
    one_of: false,
};

pub static BASIC_AUTH: Object = Object {
    title: "the basic authentication of a request",
    keys: &[
        required("username", Kind::Text, "The name of the user."),
        required(
            "password_file",
            Kind::Text,
            "The file that holds the password, read for each request.",
        ),
    ],
    one_of: false,
};

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

pub static TLS: Object = Object {
    title: "the TLS of a request",
    keys: TLS_KEYS,
    one_of: false,
};

pub static EXEC: Object = Object {
    title: "a command",
    keys: &[
        required(
            "argv",
            Kind::List(&Kind::Text),
            "Path of the program, and its arguments. No shell is involved.",
        ),
        optional(
            "undo",
            Kind::List(&Kind::Text),
            "The command that reverts it when the alert resolves.",
        ),
        optional(
            "timeout",
            Kind::Duration,
            "SIGTERM after this time, SIGKILL 5s later. Default 60s.",
        ),
        optional(
            "user",
            Kind::Text,
            "User that the command runs as. Default the user of evenkeel.",
        ),
        optional(
            "env",
            Kind::Texts,
            "Environment variables in addition to those of the alert. Values can contain labels.",
        ),
    ],
    one_of: false,
};

/// `allocate:`.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocate {
    pub method: String,
    pub url: Vec<Segment>,
    pub body: Body,
    /// JSON pointers (RFC 6901).
    pub resource_at: String,
    pub ttl_at: Option<String>,
    pub release: Option<GiveBack>,
    pub server: Server,
    /// The URL as written.
    pub written: String,
}

/// The body of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    None,
    /// The alert as JSON.
    Alert,
    JsonTemplate(JsonTemplate),
}

/// `release:` of an allocation.
#[derive(Debug, Clone, PartialEq)]
pub struct GiveBack {
    pub method: String,
    pub url: Vec<Segment>,
    pub body: Option<JsonTemplate>,
}

/// `exec:`.
#[derive(Debug, Clone, PartialEq)]
pub struct Exec {
    /// Each template fills one argument.
    pub argv: Vec<Vec<Segment>>,
    pub undo: Option<Vec<Vec<Segment>>>,
    pub timeout: Duration,
    pub user: Option<String>,
    pub env: BTreeMap<String, Vec<Segment>>,
    /// The path of the program as written.
    pub written: String,
}

impl Allocate {
    /// Whether the request needs an earlier grant.
    pub fn wants_resource(&self) -> bool {
        self.url.contains(&Segment::Resource)
            || matches!(&self.body, Body::JsonTemplate(shape) if shape.wants_resource())
    }
}

impl Exec {
    /// Whether the command needs a grant.
    pub fn wants_resource(&self) -> bool {
        let arguments = self.argv.iter().chain(self.undo.iter().flatten());
        arguments
            .chain(self.env.values())
            .any(|pieces| pieces.contains(&Segment::Resource))
    }
}

impl fmt::Display for Allocate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "allocate {} {}", self.method, without_query(&self.written))
    }
}

/// A URL without its query, for logs and pages, because some servers expect a secret there.
pub fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

/// Without the arguments, which may contain secrets.
impl fmt::Display for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exec {}", self.written)
    }
}

pub(super) fn read_allocate(node: &Node, findings: &mut Findings) -> Option<Allocate> {
    let fields = Fields::open(node, &ALLOCATE, findings)?;
    let method = fields.choice("method", findings).map_or("POST", |method| method.value);
    let url = fields.text("url", findings);
    let pieces = url.as_ref().and_then(|url| read_url(url, findings));
    let body = match fields.get("body") {
        None if method == "GET" => Body::None,
        None => Body::Alert,
        Some(node) if method == "GET" => {
            let help = "put the data into the URL, or use method: POST";
            findings.error(node.span, "a GET request has no body", help);
            return None;
        }
        Some(node) => Body::JsonTemplate(read_shape(node, findings)?),
    };
    let resource_at = read_pointer(&fields, "resource", findings);
    let ttl_at = read_pointer(&fields, "ttl", findings);
    let release = fields.get("release").map(|node| read_release(node, findings));
    if release.is_none() && fields.get("ttl").is_none() {
        let help = "add a `release`, or a `ttl` after which the grant expires";
        findings.warning(fields.span, "the granted resource is never released", help);
    }
    let is_https = url.as_ref().is_some_and(|url| url.value.starts_with("https://"));
    let server = read_server(&fields, is_https, findings);
    let release = match release {
        Some(release) => Some(release?),
        None => None,
    };
    Some(Allocate {
        method: method.to_owned(),
        url: pieces?,
        body,
        resource_at: resource_at?,
        ttl_at,
        release,
        server: server?,
        written: url?.value,
    })
}

fn read_release(node: &Node, findings: &mut Findings) -> Option<GiveBack> {
    let fields = Fields::open(node, &RELEASE, findings)?;
    let url = fields.text("url", findings)?;
    let pieces = read_url(&url, findings)?;
    let body = match fields.get("body") {
        Some(node) => Some(read_shape(node, findings)?),
        None => None,
    };
    let method = fields.choice("method", findings).map_or("DELETE", |word| word.value);
    if !pieces.contains(&Segment::Resource) && !body.as_ref().is_some_and(JsonTemplate::wants_resource) {
        let help = "put '{{ $resource }}' into the URL or the body";
        findings.warning(url.span, "the release does not name the granted resource", help);
    }
    Some(GiveBack {
        method: method.to_owned(),
        url: pieces,
        body,
    })
}

pub(super) fn read_exec(node: &Node, findings: &mut Findings) -> Option<Exec> {
    let (argv, fields) = match &node.content {
        Content::Sequence(items) => (read_argv(items, node.span, findings), None),
        Content::Mapping(_) => {
            let fields = Fields::open(node, &EXEC, findings)?;
            let items = fields.list("argv", findings);
            let span = fields.get("argv").map_or(node.span, |node| node.span);
            (read_argv(items, span, findings), Some(fields))
        }
        Content::Scalar { .. } => {
            let help = "no shell splits the line; write exec: [/usr/local/bin/notify, --now]";
            findings.error(node.span, "`exec` must be a list of arguments, or a mapping", help);
            return None;
        }
    };
    let (written, argv) = argv?;
    let mut exec = Exec {
        argv,
        undo: None,
        timeout: DEFAULT_COMMAND_TIMEOUT,
        user: None,
        env: BTreeMap::new(),
        written,
    };
    let Some(fields) = fields else { return Some(exec) };
    if let Some(node) = fields.get("undo") {
        let items = fields.list("undo", findings);
        exec.undo = Some(read_argv(items, node.span, findings)?.1);
    }
    if let Some(timeout) = read_timeout(&fields, findings) {
        exec.timeout = timeout;
    }
    exec.user = fields.text("user", findings).map(|user| user.value);
    for (name, text) in fields.map_of_texts("env", findings) {
        if !template::is_label_name(&name) {
            let help = "letters, digits and `_`, no digit first";
            findings.error(
                text.span,
                format!("`{name}` is not a name of an environment variable"),
                help,
            );
        }
        exec.env.insert(name, read_template(&text, findings)?);
    }
    Some(exec)
}

/// The program as written, and each argument as a template.
fn read_argv(items: &[Node], span: Span, findings: &mut Findings) -> Option<(String, Vec<Vec<Segment>>)> {
    let texts: Vec<Text> = items
        .iter()
        .filter_map(|item| item.text("argv", &Kind::Text, findings))
        .collect();
    let Some(program) = texts.first().filter(|_| texts.len() == items.len()) else {
        if items.is_empty() {
            let help = "such as [/usr/local/bin/notify, --now]";
            findings.error(span, "a command without a program", help);
        }
        return None;
    };
    let argv: Option<Vec<Vec<Segment>>> = texts.iter().map(|text| read_template(text, findings)).collect();
    let argv = argv?;
    if !matches!(argv.first().map(Vec::as_slice), Some([Segment::Text(path)]) if path.starts_with('/')) {
        let help = "write the absolute path, without labels, because an alert must not choose the program";
        findings.error(
            program.span,
            format!("`{}` is not an absolute path of a program", program.value),
            help,
        );
        return None;
    }
    Some((program.value.clone(), argv))
}

fn read_template(text: &Text, findings: &mut Findings) -> Option<Vec<Segment>> {
    match template::parse(&text.value) {
        Ok(pieces) => Some(pieces),
        Err(error) => {
            let help = "write {{ $labels.NAME }}, or {{ $resource }}";
            findings.error(text.part(error.offset, error.width), error.problem, help);
            None
        }
    }
}

/// A URL with a fixed scheme and server, so that no label chooses the server.
fn read_url(text: &Text, findings: &mut Findings) -> Option<Vec<Segment>> {
    let pieces = read_template(text, findings)?;
    let fixed = match pieces.first() {
        Some(Segment::Text(fixed)) => fixed.as_str(),
        _ => "",
    };
    let rest = fixed.strip_prefix("http://").or(fixed.strip_prefix("https://"));
    let Some(rest) = rest else {
        let help = "write https://HOST/PATH; a label can stand in path and query only";
        findings.error(text.span, "a URL must begin with http:// or https://", help);
        return None;
    };
    let authority = rest.find(['/', '?', '#']).map(|end| &rest[..end]);
    if authority.is_none() && pieces.len() > 1 {
        let help =
            "write the host, and use labels only after the next `/`, because an alert must not choose the server";
        findings.error(text.span, "a template in the host of a URL", help);
        return None;
    }
    if authority.unwrap_or(rest).contains('@') {
        findings.error(
            text.span,
            "a user in a URL",
            "use `basic_auth`, because URLs are shown and logged",
        );
        return None;
    }
    // The placeholder for a template is valid everywhere.
    let example: String = pieces
        .iter()
        .map(|piece| if let Segment::Text(text) = piece { text } else { "x" })
        .collect();
    let climbs = example.split('?').next().is_some_and(|path| {
        let decoded = path.to_lowercase().replace("%2e", ".");
        decoded.split('/').any(|segment| matches!(segment, "." | ".."))
    });
    let problem = match example.parse::<Uri>() {
        Err(error) => Some(error.to_string()),
        Ok(uri) if uri.host().is_none_or(str::is_empty) => Some("it names no host".to_owned()),
        Ok(_) if example.contains('#') => Some("`#` is never sent to a server".to_owned()),
        Ok(_) if climbs => Some("write the path without `.` and `..`".to_owned()),
        Ok(_) => None,
    };
    if let Some(problem) = problem {
        findings.error(text.span, format!("`{}` is no URL", text.value), problem);
        return None;
    }
    Some(pieces)
}

/// A JSON pointer (RFC 6901).
fn read_pointer(fields: &Fields, key: &str, findings: &mut Findings) -> Option<String> {
    let text = fields.text(key, findings)?;
    let is_escaped = |rest: &str| rest.starts_with('0') || rest.starts_with('1');
    let is_pointer = text.value.starts_with('/') && text.value.split('~').skip(1).all(is_escaped);
    if !is_pointer {
        let help = match text.value.trim_start_matches(['$', '.']) {
            "" => "such as /resource, or /items/0/id".to_owned(),
            path => format!(
                "it begins with `/`: /{}",
                path.trim_start_matches('/').replace('.', "/")
            ),
        };
        findings.error(text.span, format!("`{}` is no JSON pointer", text.value), help);
        return None;
    }
    Some(text.value)
}

/// A JSON value as written in YAML: numbers and booleans stay, strings are templates.
fn read_shape(node: &Node, findings: &mut Findings) -> Option<JsonTemplate> {
    Some(match &node.content {
        Content::Scalar { text, plain, .. } => match (*plain, text.as_str()) {
            (true, _) if node.is_null() => JsonTemplate::Plain(Value::Null),
            (true, "true" | "false") => JsonTemplate::Plain(Value::Bool(text == "true")),
            (true, number) if is_json_number(number) => JsonTemplate::Plain(serde_json::from_str(number).ok()?),
            _ => JsonTemplate::Text(read_template(&node.text("body", &Kind::Text, findings)?, findings)?),
        },
        Content::Sequence(items) => {
            let items = items.iter().map(|item| read_shape(item, findings));
            JsonTemplate::List(items.collect::<Option<_>>()?)
        }
        Content::Mapping(entries) => {
            let entries = entries
                .iter()
                .map(|entry| Some((entry.key.clone(), read_shape(&entry.value, findings)?)));
            JsonTemplate::Map(entries.collect::<Option<_>>()?)
        }
    })
}

/// The same without templates.
pub fn read_json(node: &Node, findings: &mut Findings) -> Option<Value> {
    match read_shape(node, findings)?.value() {
        Ok(value) => Some(value),
        Err(_) => {
            let help = "write the value itself";
            findings.error(node.span, "no template is allowed here", help);
            None
        }
    }
}

fn is_json_number(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit() || first == '-')
        && serde_json::from_str::<serde_json::Number>(text).is_ok()
}

fn read_timeout(fields: &Fields, findings: &mut Findings) -> Option<Duration> {
    let timeout = fields.duration("timeout", findings)?;
    if timeout.value.is_zero() || timeout.value > MAX_TIMEOUT {
        findings.error(timeout.span, "`timeout` is out of range", "more than 0s, at most 1h");
        return None;
    }
    Some(timeout.value)
}

fn read_server(fields: &Fields, is_https: bool, findings: &mut Findings) -> Option<Server> {
    let timeout = read_timeout(fields, findings).unwrap_or(DEFAULT_REQUEST_TIMEOUT);
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
    if let Content::Mapping(entries) = &node.content
        && let Some(entry) = entries.iter().find(|entry| entry.key == key)
    {
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
