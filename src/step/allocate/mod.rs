//! `allocate`: requests a resource from an allocator, and releases it when the alert resolves. This file has the keys
//! and the step as data, `requests` the requests, `grant_response` reads the responses, and `lifecycle` what follows.

mod grant_response;
pub mod lifecycle;
mod requests;
mod server;
mod url;

pub use server::{AUTHORIZATION, BASIC_AUTH, TLS, TLS_KEYS};

use super::read::read_json_template;
use super::step_type::{ReadStep, StepType};
use crate::diagnostic::{Findings, Span};
use crate::host::job::{Request, Server};
use crate::ledger::{Effect, Episode};
use crate::process::target::Targets;
use crate::schema::{Key, Kind, Object, optional, required};
use crate::template::{JsonTemplate, Segment};
use crate::yaml::{Fields, Node};
use server::read_server;
use std::fmt;
use std::sync::Arc;
use url::{read_pointer, read_url};

pub const KEYS: &[Key] = &[optional(
    "allocate",
    Kind::Object(&ALLOCATE),
    "Request a resource from an allocator, once per episode. Released on revert.",
)];
pub const TARGETS: Targets = Targets::Host;

const METHODS: Kind = Kind::Choice(&["GET", "POST", "PUT", "PATCH", "DELETE"]);

pub static ALLOCATE: Object = Object::new(
    "an allocation",
    &[
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
);

pub static RELEASE: Object = Object::new(
    "a release",
    &[
        required(
            "url",
            Kind::Text,
            "As above; '{{ $resource }}' is the granted resource.",
        ),
        optional("method", METHODS, "Default DELETE."),
        optional("body", Kind::Json, "As above. Default none."),
    ],
);

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

impl StepType for Arc<Allocate> {
    fn is_lease(&self) -> bool {
        true
    }

    fn wants_resource(&self) -> bool {
        self.url.contains(&Segment::Resource)
            || matches!(&self.body, Body::JsonTemplate(shape) if shape.wants_resource())
    }

    fn host_effect(
        &self,
        episode: &Episode,
        resource: Option<&str>,
        key: &dyn Fn() -> String,
    ) -> Option<Result<Effect, String>> {
        let allocation = requests::plan(self, episode, resource, key());
        Some(allocation.map(|allocation| Effect::Allocation(Box::new(allocation))))
    }

    fn preview(&self, episode: &Episode, resource: Option<&str>) -> Option<Result<String, String>> {
        let allocation = requests::plan(self, episode, resource, "KEY".to_owned());
        Some(allocation.map(|allocation| {
            let Request { method, url, body, .. } = allocation.ask;
            let body = body.map_or(String::new(), |body| format!(" {body}"));
            format!("would send {method} {url}{body}")
        }))
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

pub(super) fn read(fields: &Fields, _: Span, findings: &mut Findings) -> Option<ReadStep> {
    let allocate = read_allocate(fields.get(KEYS[0].name)?, findings)?;
    Some(ReadStep::valid(Arc::new(allocate)))
}

fn read_allocate(node: &Node, findings: &mut Findings) -> Option<Allocate> {
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
        Some(node) => Body::JsonTemplate(read_json_template(node, findings)?),
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
        Some(node) => Some(read_json_template(node, findings)?),
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
