//! The keys `alertmanagers` and `reconcile`: the Alertmanagers that evenkeel polls, in the format of Prometheus's
//! `alerting` section.

use super::file_source::{self, FileSource};
use super::{Alertmanagers, Reconcile};
use crate::diagnostic::{Findings, SourceText};
use crate::http::client::{ClientSettings, Credentials, Secret, Trust};
use crate::schema::{Kind, Object, optional, required};
use crate::step::allocate::TLS_KEYS;
use crate::yaml::{Fields, Text, from_str};
use hyper::Uri;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The receiver of the shipped `alertmanager.yml`.
const DEFAULT_RECEIVER: &str = "evenkeel";
/// Prometheus's default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a response, about 30,000 alerts.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// Minimum interval, because shorter ones would burden the Alertmanagers.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

pub(super) static ALERTMANAGERS: Object = Object::new(
    "the Alertmanagers",
    &[
        optional(
            "receiver",
            Kind::Text,
            "evenkeel reads only alerts that are routed to this receiver. Default evenkeel.",
        ),
        optional("scheme", Kind::Choice(&["http", "https"]), "Default http."),
        optional("path_prefix", Kind::Text, "Path before /api/v2. Default none."),
        optional("timeout", Kind::Duration, "Timeout of each request. Default 10s."),
        optional(
            "api_version",
            Kind::Choice(&["v2"]),
            "API version, as in Prometheus. v2 is the only one.",
        ),
        optional("static_configs", Kind::List(&Kind::Object(&STATIC)), "Fixed addresses."),
        optional(
            "file_sd_configs",
            Kind::List(&Kind::Object(&FILE_SD)),
            "Files with addresses, read again at every poll.",
        ),
        optional("basic_auth", Kind::Object(&BASIC_AUTH), "User name and password."),
        optional(
            "authorization",
            Kind::Object(&AUTHORIZATION),
            "The Authorization header.",
        ),
        optional("tls_config", Kind::Object(&TLS), "TLS settings."),
    ],
);

pub(super) static STATIC: Object = Object::new(
    "a list of addresses",
    &[
        required("targets", Kind::List(&Kind::Text), "HOST:PORT each."),
        optional(
            "labels",
            Kind::Texts,
            "Ignored. Accepted because Prometheus has this key.",
        ),
    ],
);

pub(super) static FILE_SD: Object = Object::new(
    "a list of files",
    &[
        required(
            "files",
            Kind::List(&Kind::Text),
            "Files or globs. Each file is a list of {targets: [HOST:PORT]} in YAML or JSON.",
        ),
        optional(
            "refresh_interval",
            Kind::Duration,
            "Ignored: evenkeel reads the files at every poll.",
        ),
    ],
);

pub(super) static BASIC_AUTH: Object = Object::new(
    "basic authentication",
    &[
        required("username", Kind::Text, "The name of the user."),
        optional("password", Kind::Text, "The password itself."),
        optional("password_file", Kind::Text, "The file that holds the password."),
    ],
);

pub(super) static AUTHORIZATION: Object = Object::new(
    "the authorization",
    &[
        optional("type", Kind::Text, "Default Bearer."),
        optional("credentials", Kind::Text, "The secret itself."),
        optional("credentials_file", Kind::Text, "The file that holds the secret."),
    ],
);

pub(super) static TLS: Object = Object::new("TLS to Alertmanagers", TLS_KEYS);

pub(super) static RECONCILE: Object = Object::new(
    "reconciling",
    &[
        optional(
            "interval",
            Kind::Duration,
            "Interval at which evenkeel polls the Alertmanagers. Default 30s.",
        ),
        optional(
            "patience",
            Kind::Duration,
            "Time for which an alert must be absent from all of them before evenkeel closes it. Default 5m.",
        ),
    ],
);

impl Default for Reconcile {
    fn default() -> Self {
        Reconcile {
            interval: Duration::from_secs(30),
            patience: Duration::from_secs(300),
        }
    }
}

pub(super) fn read_reconcile(fields: &Fields, findings: &mut Findings) -> Reconcile {
    let mut reconcile = Reconcile::default();
    if let Some(interval) = fields.duration("interval", findings) {
        if interval.value < MIN_INTERVAL {
            findings.error(interval.span, "`interval` is too short", "at least 1s");
        }
        reconcile.interval = interval.value;
    }
    if let Some(patience) = fields.duration("patience", findings) {
        reconcile.patience = patience.value;
        if patience.value < 2 * reconcile.interval {
            findings.error(
                patience.span,
                "`patience` is too short: one answer would decide",
                "at least twice the interval",
            );
        }
    }
    reconcile
}

pub(super) fn read(fields: &Fields, file_source: &FileSource, findings: &mut Findings) -> Alertmanagers {
    let scheme = fields.choice("scheme", findings).map_or("http", |word| word.value);
    let prefix = fields.string("path_prefix", findings).unwrap_or_default();
    let prefix = prefix.trim_matches('/');
    fields.choice("api_version", findings);
    let mut read = Alertmanagers {
        scheme,
        path_prefix: if prefix.is_empty() {
            String::new()
        } else {
            format!("/{prefix}")
        },
        receiver: fields
            .string("receiver", findings)
            .unwrap_or_else(|| DEFAULT_RECEIVER.to_owned()),
        targets: Vec::new(),
        target_files: Vec::new(),
        client: ClientSettings {
            credentials: credentials(fields, file_source, findings),
            trust: trust(fields, file_source, findings),
            timeout: fields
                .duration("timeout", findings)
                .map_or(DEFAULT_TIMEOUT, |timeout| timeout.value),
            max_body_bytes: MAX_ANSWER_BYTES,
        },
    };
    for group in fields.objects("static_configs", &STATIC, findings) {
        for target in group.texts("targets", findings) {
            match read.address(&target.value) {
                Ok(_) => read.targets.push(target.value),
                Err(problem) => findings.error(target.span, problem, "such as alertmanager.example:9093"),
            }
        }
    }
    for group in fields.objects("file_sd_configs", &FILE_SD, findings) {
        group.duration("refresh_interval", findings);
        for pattern in group.texts("files", findings) {
            read_pattern(&mut read, &pattern, file_source, findings);
        }
    }
    if fields.get("static_configs").is_none() && fields.get("file_sd_configs").is_none() {
        findings.error(
            fields.span,
            "no address of an Alertmanager",
            "such as static_configs: [{targets: ['localhost:9093']}]",
        );
    }
    // Read here, so that a missing secret or certificate is reported before the start.
    if let Err(problem) = read.client.prepare(scheme == "https") {
        findings.error(fields.span, problem.to_string(), "");
    }
    read
}

fn read_pattern(read: &mut Alertmanagers, pattern: &Text, file_source: &FileSource, findings: &mut Findings) {
    let path = file_source.path(&pattern.value).display().to_string();
    match files(&path) {
        Err(problem) => findings.error(
            pattern.span,
            format!("not a pattern for files: {problem}"),
            "such as targets/*.yml",
        ),
        Ok(files) => {
            if files.is_empty() {
                findings.warning(pattern.span, format!("`{}` matches no file", pattern.value), "");
            }
            for file in files {
                if let Err(problem) = read.addresses_in(&file) {
                    findings.error(pattern.span, problem, "a list such as [{targets: ['localhost:9093']}]");
                }
            }
            read.target_files.push(path);
        }
    }
}

fn credentials(fields: &Fields, file_source: &FileSource, findings: &mut Findings) -> Option<Credentials> {
    let basic = fields.nested("basic_auth", &BASIC_AUTH, findings);
    let authorization = fields.nested("authorization", &AUTHORIZATION, findings);
    if let (Some(_), Some(second)) = (&basic, &authorization) {
        findings.error(
            second.span,
            "`basic_auth` and `authorization` set the same header",
            "remove one of them",
        );
    }
    if let Some(basic) = basic {
        return Some(Credentials::Basic {
            username: basic.text("username", findings)?.value,
            password: secret(&basic, ("password", "password_file"), file_source, findings)?,
        });
    }
    let authorization = authorization?;
    let kind = authorization.text("type", findings);
    Some(Credentials::Authorization {
        kind: kind.map_or_else(|| "Bearer".to_owned(), |kind| kind.value),
        credentials: secret(
            &authorization,
            ("credentials", "credentials_file"),
            file_source,
            findings,
        )?,
    })
}

fn secret(
    fields: &Fields,
    (inline, file): (&'static str, &'static str),
    file_source: &FileSource,
    findings: &mut Findings,
) -> Option<Secret> {
    let (text, path) = (fields.text(inline, findings), fields.text(file, findings));
    match (text, path) {
        (Some(text), None) => Some(Secret::Text(text.value)),
        (None, Some(path)) => Some(Secret::File(file_source.path(&path.value))),
        (found, _) => {
            let many = if found.is_some() { "both" } else { "neither" };
            findings.error(
                fields.span,
                format!("{} has {many} of `{inline}` and `{file}`", fields.object.title),
                "give one of them",
            );
            None
        }
    }
}

fn trust(fields: &Fields, file_source: &FileSource, findings: &mut Findings) -> Trust {
    let Some(tls) = fields.nested("tls_config", &TLS, findings) else {
        return Trust::default();
    };
    let mut path = |key| tls.text(key, findings).map(|text| file_source.path(&text.value));
    let (ca_file, cert_file, key_file) = (path("ca_file"), path("cert_file"), path("key_file"));
    if cert_file.is_some() != key_file.is_some() {
        findings.error(
            tls.span,
            "a certificate and its key go together",
            "give both `cert_file` and `key_file`",
        );
    }
    Trust {
        ca_file,
        certificate: cert_file.zip(key_file),
        server_name: tls.string("server_name", findings),
        insecure_skip_verify: tls
            .flag("insecure_skip_verify", findings)
            .is_some_and(|flag| flag.value),
    }
}

fn files(pattern: &str) -> Result<Vec<PathBuf>, &'static str> {
    let paths = glob::glob(pattern).map_err(|problem| problem.msg)?;
    Ok(paths.flatten().filter(|path| !path.is_dir()).collect())
}

/// The addresses from the last successful reading of each file.
#[derive(Debug, Default)]
pub struct LastGood(BTreeMap<PathBuf, Vec<Uri>>);

impl Alertmanagers {
    /// The present addresses with the path prefix, from the configuration and its files, and the errors in the files.
    /// An unreadable file keeps its former addresses.
    pub fn addresses(&self, last_good: &mut LastGood) -> (Vec<Uri>, Vec<String>) {
        let mut problems = Vec::new();
        let mut addresses: Vec<Uri> = self
            .targets
            .iter()
            .filter_map(|target| self.address(target).ok())
            .collect();
        for file in self
            .target_files
            .iter()
            .flat_map(|pattern| files(pattern).unwrap_or_default())
        {
            match self.addresses_in(&file) {
                Ok(read) => drop(last_good.0.insert(file.clone(), read)),
                Err(problem) => problems.push(problem),
            }
            addresses.extend(last_good.0.get(&file).into_iter().flatten().cloned());
        }
        let mut seen = std::collections::BTreeSet::new();
        addresses.retain(|address| seen.insert(address.to_string()));
        (addresses, problems)
    }

    /// The files with targets.
    pub fn files(&self) -> Vec<PathBuf> {
        let patterns = self.target_files.iter();
        patterns
            .flat_map(|pattern| files(pattern).unwrap_or_default())
            .collect()
    }

    fn address(&self, target: &str) -> Result<Uri, String> {
        let wrong = || format!("`{target}` is no address of an Alertmanager: HOST:PORT, without scheme and path");
        if target.contains(['/', '@', '?', '#']) {
            return Err(wrong());
        }
        let uri: Uri = format!("{}://{target}{}/", self.scheme, self.path_prefix)
            .parse()
            .map_err(|_| wrong())?;
        match uri.host() {
            Some(host) if !host.is_empty() => Ok(uri),
            _ => Err(wrong()),
        }
    }

    fn addresses_in(&self, file: &Path) -> Result<Vec<Uri>, String> {
        /// The format of Prometheus's file_sd, without its labels.
        #[derive(Deserialize)]
        struct Group {
            targets: Vec<String>,
        }
        let source: SourceText =
            file_source::read(file).map_err(|problem| format!("cannot read {}: {problem}", file.display()))?;
        let groups: Option<Vec<Group>> =
            from_str(&source).map_err(|wrong| format!("{}: {}", file.display(), wrong.message))?;
        let targets = groups.into_iter().flatten().flat_map(|group| group.targets);
        targets
            .map(|target| {
                self.address(&target)
                    .map_err(|problem| format!("{}: {problem}", file.display()))
            })
            .collect()
    }
}
