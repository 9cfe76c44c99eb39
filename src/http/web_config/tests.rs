//! Files that the toolkit accepts and rejects (compared with `promtool check web-config` 2.42). evenkeel is stricter
//! where the toolkit would serve a file less safely than it reads.

use super::*;

const HASH: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

fn parse(text: &str) -> Result<WebConfig, WebConfigError> {
    WebConfig::parse(text, Path::new("/etc/evenkeel"))
}

#[test]
fn complete_file_is_read_as_by_the_toolkit() {
    let text = format!(
        "
tls_server_config:
  cert_file: server.crt
  key_file: /keys/server.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
  client_allowed_sans: [prometheus.example]
  min_version: TLS10
  max_version: TLS12
  prefer_server_cipher_suites: true
  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
  curve_preferences: [X25519]
http_server_config:
  http2: false
  headers: {{X-Frame-Options: DENY, Strict-Transport-Security: 'max-age=60', X-XSS-Protection: ''}}
basic_auth_users: {{alice: {HASH}}}
rate_limit: {{interval: 1m30s, burst: 20}}
"
    );
    let config = parse(&text).unwrap();
    let tls = config.tls.unwrap();
    assert_eq!(tls.cert_file, Path::new("/etc/evenkeel/server.crt"));
    assert_eq!(tls.key_file, Path::new("/keys/server.key"));
    assert_eq!(tls.clients, ClientAuth::RequireAndVerify);
    assert_eq!(
        (tls.min_version, tls.max_version),
        (TlsVersion::Tls12, TlsVersion::Tls12)
    );
    assert!(!config.http2);
    let names: Vec<&str> = config.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["strict-transport-security", "x-frame-options"]);
    assert_eq!(config.users["alice"], HASH);
    assert_eq!(
        config.rate_limit,
        Some(RateLimit {
            interval: Duration::from_secs(90),
            burst: 20
        })
    );
}

#[test]
fn empty_files_are_valid() {
    for text in [
        "",
        "# nothing\n",
        "{}",
        "tls_server_config: {}",
        "rate_limit: {interval: 0s}",
        "rate_limit: {}",
    ] {
        let config = parse(text).unwrap();
        assert_eq!(
            (config.tls, config.rate_limit, config.http2),
            (None, None, true),
            "{text}"
        );
    }
}

#[test]
fn no_error_quotes_a_hash() {
    for text in [
        format!("basic_auth_users: alice:{HASH}"),
        format!("basic_auth_users: [{HASH}]"),
        format!("basic_auth_users: {{{HASH}: alice}}"),
        format!("basic_auth_users: {{{HASH}: {HASH}, {HASH}: {HASH}}}"),
        format!("{HASH}: alice"),
        format!("rate_limit: {{burst: {HASH}}}"),
        "basic_auth_users: alice:QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ".into(),
    ] {
        let error = parse(&text).expect_err(&text).to_string();
        assert!(!error.contains("QOauh"), "{error}");
    }
}

#[test]
fn an_error_without_a_place_names_none() {
    let error = parse("http_server_config: {\n}\nbasic_auth_users: alice\n").unwrap_err();
    assert_eq!(error.to_string(), "invalid type: a string, expected a map");
}

#[test]
fn bad_file_error_names_the_place_and_a_fix() {
    let check = |text: &str, says: &[&str]| {
        let wrong = parse(text).expect_err(text).to_string();
        for says in says {
            assert!(wrong.contains(says), "{text}: {wrong}");
        }
    };
    let tls = |more: &str, says: &[&str]| {
        check(
            &format!("tls_server_config: {{cert_file: a, key_file: b, {more}}}"),
            says,
        );
    };
    check("tls: {}", &["unknown field `tls`", "tls_server_config", "line 1"]);
    check("[]", &["invalid type"]);
    check("tls_server_config: [", &["line 2", "not YAML"]);
    check("tls_server_config: {cert_file: a}", &["key_file", "missing"]);
    check("tls_server_config: {key_file: a}", &["cert_file", "missing"]);
    check("tls_server_config: {client_ca_file: a}", &["cert_file", "missing"]);
    check("tls_server_config: {}\ntls_server_config: {}", &["duplicate"]);
    tls("cert_file: c", &["duplicate"]);
    tls("certfile: c", &["unknown field `certfile`"]);
    tls("client_auth_type: Maybe", &["\"Maybe\"", "RequireAndVerifyClientCert"]);
    tls("client_ca_file: c", &["client_auth_type"]);
    tls(
        "client_auth_type: RequireAndVerifyClientCert",
        &["client_ca_file", "missing"],
    );
    tls("client_allowed_sans: [x]", &["client_allowed_sans", "client_auth_type"]);
    tls("min_version: SSL3", &["min_version", "TLS12"]);
    tls("max_version: TLS11", &["max_version", "TLS12"]);
    tls("min_version: TLS13, max_version: TLS12", &["newer"]);
    tls(
        "cipher_suites: [TLS_RC4]",
        &["\"TLS_RC4\"", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"],
    );
    tls("curve_preferences: [P1]", &["\"P1\"", "X25519"]);
    check("basic_auth_users: {alice: secret}", &["\"alice\"", "bcrypt"]);
    check(&format!("basic_auth_users: {{'a:b': {HASH}}}"), &["colon"]);
    check(
        &format!("basic_auth_users: {{a: {HASH}, a: {HASH}}}"),
        &["duplicate key `a`"],
    );
    check(
        "http_server_config: {headers: {Server: x}}",
        &["\"Server\"", "X-Frame-Options"],
    );
    check(
        "http_server_config: {headers: {X-Frame-Options: allow}}",
        &["\"allow\"", "sameorigin"],
    );
    check("http_server_config: {http2: maybe}", &["boolean"]);
    check("rate_limit: {interval: soon}", &["\"soon\"", "100ms"]);
    check("rate_limit: {interval: -1s}", &["100ms"]);
    check("rate_limit: {interval: 1s, burst: 0}", &["burst"]);
}
