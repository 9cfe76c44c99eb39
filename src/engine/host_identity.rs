//! The identity of this host, which decides whether an alert is about it. Pure.

use crate::alert::Labels;

/// Names that every host has, and that therefore identify none.
const LOOPBACK_NAMES: [&str; 4] = ["localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"];

/// The labels and names that identify alerts about this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostIdentity {
    /// Labels that name a host; one that names this host is enough.
    labels: Vec<String>,
    /// Lower case: nodename, FQDN and what the configuration lists.
    names: Vec<String>,
}

impl HostIdentity {
    /// `nodename` as uname(2) says; `hosts` is the text of `/etc/hosts`, which knows the FQDN without a network;
    /// `listed` are `identity.names` of the configuration.
    pub fn new(labels: Vec<String>, nodename: &str, hosts: &str, listed: &[String]) -> HostIdentity {
        let nodename = nodename.to_lowercase();
        let mut names: Vec<String> = listed.iter().map(|name| name.to_lowercase()).collect();
        let fqdn = hosts
            .lines()
            .filter_map(|line| line.split('#').next())
            .map(|line| {
                line.split_ascii_whitespace()
                    .skip(1)
                    .map(str::to_lowercase)
                    .collect::<Vec<_>>()
            })
            .filter(|aliases| aliases.contains(&nodename))
            .flatten()
            .find(|alias| alias.starts_with(&format!("{nodename}.")));
        let own = [Some(nodename), fqdn].into_iter().flatten();
        names.extend(own.filter(|name| !name.is_empty() && !LOOPBACK_NAMES.contains(&name.as_str())));
        HostIdentity { labels, names }
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether an alert names any host.
    pub fn is_named_in(&self, alert: &Labels) -> bool {
        let is_given = |label: &String| alert.get(label).is_some_and(|value| !value.is_empty());
        self.labels.iter().any(is_given)
    }

    /// # Errors
    /// With the labels and the names that were compared.
    pub fn recognises(&self, alert: &Labels) -> Result<(), String> {
        let mut compared = Vec::new();
        for label in &self.labels {
            let Some(value) = alert.get(label).filter(|value| !value.is_empty()) else {
                continue;
            };
            let host = without_port(value);
            let is_here = |host: &str| self.names.iter().any(|name| is_same_host(host, name));
            // The spelling is nearly always the same, so this is the fast path.
            if is_here(host) || is_here(&host.to_lowercase()) {
                return Ok(());
            }
            compared.push(format!("{label}={value:?}"));
        }
        if compared.is_empty() {
            return Err(format!("no label of {:?} names a host", self.labels));
        }
        Err(format!(
            "{} is not one of this host's names {:?}",
            compared.join(", "),
            self.names
        ))
    }
}

/// A short name matches only a label without dots; a name with dots matches the whole, or its first part where the
/// label is short.
fn is_same_host(host: &str, name: &str) -> bool {
    let is_address = name.parse::<std::net::IpAddr>().is_ok();
    host == name || (!host.contains('.') && !is_address && name.split('.').next() == Some(host))
}

fn without_port(value: &str) -> &str {
    if let Some(rest) = value.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match value.rsplit_once(':') {
        // More than one colon without brackets is an IPv6 address without a port.
        Some((host, port)) if !host.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(nodename: &str, listed: &[&str], instance: &str, expected: bool) {
        let hosts = "127.0.0.1 localhost\n127.0.1.1 web1.example.org web1 # us\n";
        let listed: Vec<String> = listed.iter().map(|name| (*name).to_owned()).collect();
        let host_identity = HostIdentity::new(vec!["instance".into()], nodename, hosts, &listed);
        let labels = [("instance".to_owned(), instance.to_owned())].into();
        assert_eq!(
            host_identity.recognises(&labels).is_ok(),
            expected,
            "{nodename} {listed:?} {instance:?}"
        );
    }

    #[test]
    fn a_host_knows_its_names() {
        check("web1", &[], "web1", true);
        check("web1", &[], "WEB1:9100", true);
        check("web1", &[], "web1.example.org:9100", true);
        check("web1", &[], "web1.other.org", false);
        check("web1", &[], "web11", false);
        check("web1.example.org", &[], "web1", true);
        check("db1.example.org", &[], "db1.elsewhere.org", false);
        check("web1", &[], "", false);
        check("localhost", &[], "localhost:9100", false);
        check("web1", &[], "127.0.0.1:9100", false);
        check("web1", &["127.0.0.1"], "127.0.0.1:9100", true);
        check("web1", &["127.0.0.1"], "127", false);
        check("web1", &["::1"], "[::1]:9100", true);
        check("web1", &["::1"], "::1", true);
        check("web1", &["www.example.org"], "www.example.org:443", true);
    }

    #[test]
    fn no_identity_label_is_no_alert_about_us() {
        let host_identity = HostIdentity::new(vec!["instance".into(), "host".into()], "web1", "", &[]);
        assert!(
            host_identity
                .recognises(&Labels::new())
                .unwrap_err()
                .contains("no label of")
        );
        let by_second = [
            ("instance".to_owned(), "probe".to_owned()),
            ("host".to_owned(), "web1".to_owned()),
        ]
        .into();
        assert!(host_identity.recognises(&by_second).is_ok());
    }
}
