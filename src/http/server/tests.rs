//! The real server with real TLS on a free port, and certificates made for the test.

use super::*;
use crate::http::response;
use hyper::StatusCode;
use hyper::body::Bytes;
use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use std::fs;
use std::io::Write as _;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring, version};

/// A folder with a certificate authority.
struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(dir.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority {
            dir,
            issuer: Issuer::new(params, key),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes NAME.crt and NAME.key.
    fn issue(&self, name: &str, names: &[SanType]) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names.to_vec();
        fs::write(
            self.path(&format!("{name}.crt")),
            params.signed_by(&key, &self.issuer).unwrap().pem(),
        )
        .unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn config(&self, text: &str) -> PathBuf {
        let path = self.path("web.yml");
        fs::write(&path, text).unwrap();
        path
    }

    fn certificates(&self, name: &str) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(self.path(name))
            .unwrap()
            .map(Result::unwrap)
            .collect()
    }

    /// A client that trusts the authority, and shows the certificate of this name.
    fn client(&self, certificate: Option<&str>) -> ClientConfig {
        self.client_of(certificate, &[&version::TLS13, &version::TLS12])
    }

    fn client_of(
        &self,
        certificate: Option<&str>,
        versions: &[&'static tokio_rustls::rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.certificates("ca.crt"));
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match certificate {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
                builder
                    .with_client_auth_cert(self.certificates(&format!("{name}.crt")), key)
                    .unwrap()
            }
        }
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(name).unwrap())
}

/// A server that admits each request and responds with the HTTP version.
struct Site {
    addr: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    fn start(config: &Path) -> Site {
        Site::start_with(Access::open().with_web_config(config).unwrap())
    }

    fn start_with(access: Access) -> Site {
        let service = move |request: Request<Incoming>, access: Access| async move {
            match access.admit(request.headers()).await {
                Ok(()) => response::text(StatusCode::OK, &format!("{:?}", request.version())),
                Err(denied) => denied.to_response(),
            }
        };
        Site::serve(ServerLimits::default(), access, service)
    }

    fn serve<S, F>(limits: ServerLimits, access: Access, service: S) -> Site
    where
        S: Fn(Request<Incoming>, Access) -> F + Send + Sync + 'static,
        F: Future<Output = HttpResponse> + Send + 'static,
    {
        let (shutdown, stop) = oneshot::channel::<()>();
        let (bound, addr) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                let judge = access.clone();
                let service = move |request: Request<Incoming>, _: Peer| service(request, judge.clone());
                super::serve(listener, limits, access, service, async { drop(stop.await) }).await;
            });
        });
        Site {
            addr: addr.recv().unwrap(),
            shutdown: Some(shutdown),
            thread: Some(thread),
        }
    }

    /// The response, or `None` if the connection failed.
    fn get(&self, client: ClientConfig, headers: &str) -> Option<String> {
        let tls = ClientConnection::new(Arc::new(client), ServerName::try_from("localhost").unwrap()).unwrap();
        let stream = std::net::TcpStream::connect(self.addr).unwrap();
        exchange(StreamOwned::new(tls, stream), headers)
    }

    fn get_plain(&self, headers: &str) -> Option<String> {
        let stream = std::net::TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        exchange(stream, headers)
    }
}

fn exchange(mut stream: impl std::io::Read + std::io::Write, headers: &str) -> Option<String> {
    stream
        .write_all(format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").as_bytes())
        .ok()?;
    let mut answer = String::new();
    // The server may close without TLS's close_notify.
    let _ = stream.read_to_string(&mut answer);
    Some(answer.to_ascii_lowercase()).filter(|answer| answer.starts_with("http/1.1 "))
}

fn code(answer: &Option<String>) -> Option<u16> {
    answer.as_ref().map(|answer| answer[9..12].parse().unwrap())
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.shutdown.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

const TLS: &str = "cert_file: server.crt, key_file: server.key";

#[test]
fn tls_is_accepted_in_the_set_versions_and_plain_text_never() {
    let authority = Authority::new();
    authority.issue("server", &[dns("localhost")]);
    let check = |settings: &str, tls12: bool, tls13: bool| {
        let site = Site::start(&authority.config(&format!("tls_server_config: {{{TLS}{settings}}}")));
        for (version, spoken) in [(&version::TLS12, tls12), (&version::TLS13, tls13)] {
            let answer = site.get(authority.client_of(None, &[version]), "");
            assert_eq!(code(&answer), spoken.then_some(200), "{settings} {version:?}");
        }
        assert_eq!(site.get_plain(""), None);
    };
    check("", true, true);
    check(", min_version: TLS10", true, true);
    check(", min_version: TLS13", false, true);
    check(", max_version: TLS12", true, false);
    check(", cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]", false, true);
    // The certificate has an elliptic key.
    check(", cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]", false, true);
    check(
        ", cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256], curve_preferences: [CurveP521, X25519]",
        true,
        true,
    );
}

#[test]
fn client_certificates_are_required_as_configured() {
    let (ours, others) = (Authority::new(), Authority::new());
    ours.issue("server", &[dns("localhost")]);
    let mail = SanType::Rfc822Name(Ia5String::try_from("ops@example.com").unwrap());
    let uri = SanType::URI(Ia5String::try_from("spiffe://example.com/alertmanager").unwrap());
    ours.issue("by_dns", &[dns("alertmanager.example")]);
    ours.issue("by_ip", &[SanType::IpAddress("192.0.2.7".parse().unwrap())]);
    ours.issue("by_ip6", &[SanType::IpAddress("2001:db8::7".parse().unwrap())]);
    ours.issue("by_mail", &[mail]);
    ours.issue("by_uri", &[uri]);
    ours.issue("unnamed", &[]);
    others.issue("stranger", &[dns("alertmanager.example")]);
    for file in ["stranger.crt", "stranger.key"] {
        fs::copy(others.path(file), ours.path(file)).unwrap();
    }
    let check = |settings: &str, expected: &[(Option<&str>, bool)], authenticates: bool| {
        let config = ours.config(&format!("tls_server_config: {{{TLS}{settings}}}"));
        let access = Access::open().with_web_config(&config).unwrap();
        assert_eq!(access.authenticates(), authenticates, "{settings}");
        let site = Site::start_with(access);
        for (certificate, let_in) in expected {
            for version in [&version::TLS12, &version::TLS13] {
                let answer = site.get(ours.client_of(*certificate, &[version]), "");
                assert_eq!(
                    code(&answer),
                    let_in.then_some(200),
                    "{settings} {certificate:?} {version:?}"
                );
            }
        }
    };
    let (none, known, stranger) = (None, Some("unnamed"), Some("stranger"));
    let ca = "client_ca_file: ca.crt";
    check("", &[(none, true), (known, true)], false);
    let each = |kind: &str| format!(", client_auth_type: {kind}");
    check(
        &each("RequestClientCert"),
        &[(none, true), (known, true), (stranger, true)],
        false,
    );
    check(
        &each("RequireAnyClientCert"),
        &[(none, false), (known, true), (stranger, true)],
        false,
    );
    let verify = |kind: &str| format!(", {ca}, client_auth_type: {kind}");
    check(
        &verify("VerifyClientCertIfGiven"),
        &[(none, true), (known, true), (stranger, false)],
        false,
    );
    check(
        &verify("RequireAndVerifyClientCert"),
        &[(none, false), (known, true), (stranger, false)],
        true,
    );
    let named = "alertmanager.example, ops@example.com, 192.0.2.7, '2001:db8::7', 'spiffe://example.com/alertmanager'";
    let names = ["by_dns", "by_mail", "by_ip", "by_ip6", "by_uri"].map(|name| (Some(name), true));
    let sans = format!(
        "{}, client_allowed_sans: [{named}]",
        verify("RequireAndVerifyClientCert")
    );
    check(
        &sans,
        &[&names[..], &[(known, false), (stranger, false), (none, false)]].concat(),
        true,
    );
}

#[test]
fn http2_is_used_if_tls_negotiated_it() {
    let authority = Authority::new();
    authority.issue("server", &[dns("localhost")]);
    let check = |http: &str, expected: Option<&str>| {
        let site = Site::start(&authority.config(&format!("tls_server_config: {{{TLS}}}\n{http}")));
        let mut client = authority.client(None);
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let said = runtime.block_on(async {
            let stream = TcpStream::connect(site.addr).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let stream = tokio_rustls::TlsConnector::from(Arc::new(client))
                .connect(name, stream)
                .await
                .unwrap();
            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                return None;
            }
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let request = Request::get("https://localhost/")
                .body(http_body_util::Empty::<Bytes>::new())
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.headers()["x-frame-options"], "deny");
            let body = http_body_util::BodyExt::collect(answer.into_body())
                .await
                .unwrap()
                .to_bytes();
            Some(String::from_utf8(body.to_vec()).unwrap())
        });
        assert_eq!(said.as_deref(), expected, "{http}");
    };
    let headers = "headers: {X-Frame-Options: deny}";
    check(&format!("http_server_config: {{{headers}}}"), Some("HTTP/2.0\n"));
    check(&format!("http_server_config: {{http2: false, {headers}}}"), None);
}

#[test]
fn passwords_tokens_headers_and_rates_are_enforced() {
    let authority = Authority::new();
    let token = authority.path("token");
    fs::write(&token, "s3cret").unwrap();
    let hash = |password: &str| bcrypt::hash(password, 4).unwrap();
    let text = format!(
        "basic_auth_users: {{alice: '{}'}}\nhttp_server_config: {{headers: {{X-Frame-Options: deny}}}}\n",
        hash("päss:wörd")
    );
    let config = authority.config(&text);
    let access = Access::open()
        .with_token_file(&token)
        .unwrap()
        .with_web_config(&config)
        .unwrap();
    assert!(access.authenticates());
    let site = Site::start_with(access);
    let basic = |pair: &str| {
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pair);
        format!("Authorization: Basic {encoded}\r\n")
    };
    let check = |headers: &str, expected: u16| {
        let answer = site.get_plain(headers);
        assert_eq!(code(&answer), Some(expected), "{headers}");
        let answer = answer.unwrap();
        assert!(answer.contains("x-frame-options: deny"), "{answer}");
        let challenged = answer.contains("www-authenticate: basic") && answer.contains("www-authenticate: bearer");
        assert_eq!(challenged, expected == 401, "{answer}");
    };
    check(&basic("alice:päss:wörd"), 200);
    check("Authorization: Bearer s3cret\r\n", 200);
    for wrong in ["alice:", "alice", "alice:päss", "bob:päss:wörd", ":", ""] {
        check(&basic(wrong), 401);
    }
    check("", 401);
    check("Authorization: Basic !!!\r\n", 401);
    check("Authorization: Bearer alice\r\n", 401);

    // Changed users apply at once. An invalid file and a file without users change nothing.
    fs::write(&config, text.replace("alice", "carol")).unwrap();
    check(&basic("alice:päss:wörd"), 401);
    check(&basic("carol:päss:wörd"), 200);
    fs::write(&config, "basic_auth_users: {alice: plain}").unwrap();
    check(&basic("carol:päss:wörd"), 200);
    fs::write(&config, "http_server_config: {}").unwrap();
    check(&basic("carol:päss:wörd"), 200);
    check("", 401);

    let config = authority.config("rate_limit: {interval: 1h, burst: 2}");
    let site = Site::start(&config);
    let codes: Vec<u16> = (0..4).filter_map(|_| code(&site.get_plain(""))).collect();
    assert_eq!(codes, [200, 200, 429, 429]);
}

#[test]
fn a_changed_certificate_is_used_for_the_next_connection() {
    let (first, second) = (Authority::new(), Authority::new());
    first.issue("server", &[dns("localhost")]);
    second.issue("server", &[dns("localhost")]);
    let site = Site::start(&first.config(&format!("tls_server_config: {{{TLS}}}")));
    let check = |trusting_first: bool| {
        for (authority, works) in [(&first, trusting_first), (&second, !trusting_first)] {
            assert_eq!(code(&site.get(authority.client(None), "")), works.then_some(200));
        }
    };
    check(true);
    // Certificate and key cannot change at the same time. In between the former pair stays active.
    fs::copy(second.path("server.crt"), first.path("server.crt")).unwrap();
    check(true);
    fs::copy(second.path("server.key"), first.path("server.key")).unwrap();
    check(false);
    fs::remove_file(first.path("server.key")).unwrap();
    check(false);
}

#[test]
fn unusable_files_are_rejected_with_the_reason() {
    let authority = Authority::new();
    authority.issue("server", &[dns("localhost")]);
    authority.issue("other", &[dns("localhost")]);
    let check = |text: &str, says: &str| {
        let wrong = Access::open()
            .with_web_config(&authority.config(text))
            .err()
            .expect(text)
            .to_string();
        assert!(wrong.contains("web.yml") && wrong.contains(says), "{text}: {wrong}");
    };
    check(
        "tls_server_config: {cert_file: server.crt, key_file: none.key}",
        "none.key",
    );
    check(
        "tls_server_config: {cert_file: none.crt, key_file: server.key}",
        "none.crt",
    );
    check(
        "tls_server_config: {cert_file: server.crt, key_file: other.key}",
        "do not match",
    );
    check(
        "tls_server_config: {cert_file: server.crt, key_file: server.crt}",
        "a private key",
    );
    check(
        "tls_server_config: {cert_file: server.key, key_file: server.key}",
        "has no certificate",
    );
    check(
        "tls_server_config: {cert_file: web.yml, key_file: server.key}",
        "has no certificate",
    );
    let verify = "client_auth_type: RequireAndVerifyClientCert";
    check(
        &format!("tls_server_config: {{{TLS}, {verify}, client_ca_file: server.key}}"),
        "has no certificate",
    );
    let rsa_1_2 = "max_version: TLS12, cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]";
    check(
        &format!("tls_server_config: {{{TLS}, {rsa_1_2}}}"),
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    );
    check(
        &format!("tls_server_config: {{{TLS}, curve_preferences: [CurveP521]}}"),
        "X25519",
    );
    let gone = Access::open()
        .with_web_config(&authority.path("gone.yml"))
        .err()
        .unwrap()
        .to_string();
    assert!(gone.contains("gone.yml"), "{gone}");
}

#[test]
fn peer_that_reads_no_answer_is_dropped() {
    // More than the kernel buffers for a connection.
    let large = Bytes::from(vec![b'x'; 64 * 1024 * 1024]);
    let limits = ServerLimits {
        max_connections: 1,
        write_timeout: Duration::from_millis(100),
        ..ServerLimits::default()
    };
    let site = Site::serve(limits, Access::open(), move |request: Request<Incoming>, _| {
        let body = if request.uri().path() == "/large" {
            large.clone()
        } else {
            Bytes::from("small")
        };
        async move { response::with_body(StatusCode::OK, "text/plain", body) }
    });
    let mut lazy = std::net::TcpStream::connect(site.addr).unwrap();
    lazy.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    // There is only one slot, so this succeeds only because the lazy connection lost it.
    assert_eq!(code(&site.get_plain("")), Some(200));
}

#[test]
fn idle_connections_are_closed_for_active_ones() {
    let limits = ServerLimits {
        max_connections: 2,
        header_timeout: Duration::from_secs(600),
        ..ServerLimits::default()
    };
    let site = Site::serve(limits, Access::open(), |_, _| async {
        response::text(StatusCode::OK, "fine")
    });
    let silent: Vec<_> = (0..10)
        .map(|_| std::net::TcpStream::connect(site.addr).unwrap())
        .collect();
    for mut stream in &silent {
        stream.write_all(b"GET / HTTP/1.1\r\nHost:").unwrap();
    }
    assert_eq!(code(&site.get_plain("")), Some(200));
}

#[test]
fn oversized_head_is_rejected() {
    let site = Site::start_with(Access::open());
    assert_eq!(
        code(&site.get_plain(&format!("X-Fine: {}\r\n", "x".repeat(16 * 1024)))),
        Some(200)
    );
    assert_eq!(
        code(&site.get_plain(&format!("X-Long: {}\r\n", "x".repeat(64 * 1024)))),
        Some(431)
    );
    assert_eq!(code(&site.get_plain(&"X-Many: x\r\n".repeat(200))), Some(431));
}
