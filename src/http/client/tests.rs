//! The client against evenkeel's own server, plain and with TLS.

use super::*;
use crate::http::{Access, HttpResponse, ServerLimits, response, serve};
use hyper::header::LOCATION;
use rcgen::{CertificateParams, KeyPair};
use std::fs;
use std::net::SocketAddr;
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_millis(500);

fn settings() -> ClientSettings {
    ClientSettings {
        credentials: None,
        trust: Trust::default(),
        timeout: TIMEOUT,
        max_body_bytes: 1000,
    }
}

/// Responds by path: late, with too large a body, with a redirect, or with the client's `Authorization`.
async fn service(request: Request<Incoming>) -> HttpResponse {
    let who = request
        .headers()
        .get(AUTHORIZATION)
        .map(|value| value.to_str().unwrap());
    match request.uri().path() {
        "/late" => {
            tokio::time::sleep(TIMEOUT * 4).await;
            response::text(StatusCode::OK, "late")
        }
        "/large" => response::text(StatusCode::OK, &"x".repeat(2000)),
        "/elsewhere" => {
            let mut answer = response::text(StatusCode::FOUND, "");
            answer.headers_mut().insert(LOCATION, HeaderValue::from_static("/who"));
            answer
        }
        _ => response::text(StatusCode::OK, who.unwrap_or("anonymous")),
    }
}

/// A server that runs as long as the runtime.
async fn server(access: Access) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(
        listener,
        ServerLimits::default(),
        access,
        |request, _| service(request),
        std::future::pending(),
    ));
    address
}

async fn get(address: &str, target: &'static str, settings: &ClientSettings) -> Result<(u16, String), ClientError> {
    let mut connection = Connection::open(&address.parse().unwrap(), settings).await?;
    let reply = connection
        .send(Method::GET, Uri::from_static(target), HeaderMap::new(), Bytes::new())
        .await?;
    let text = String::from_utf8_lossy(&reply.body).trim().to_owned();
    Ok((reply.status.as_u16(), text))
}

fn run<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test)
}

#[test]
fn credentials_are_read_for_each_connection_and_redacted() {
    run(async {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("token");
        let address = format!("http://{}/ignored", server(Access::open()).await);
        let with = |credentials| ClientSettings {
            credentials: Some(credentials),
            ..settings()
        };
        let basic = with(Credentials::Basic {
            username: "ann".into(),
            password: Secret::Text("secret".into()),
        });
        assert!(!format!("{basic:?}").contains("secret"));
        assert_eq!(get(&address, "/who", &basic).await.unwrap().1, "Basic YW5uOnNlY3JldA==");

        let token = with(Credentials::Authorization {
            kind: "Bearer".into(),
            credentials: Secret::File(file.clone()),
        });
        let missing = get(&address, "/who", &token).await.unwrap_err().to_string();
        assert!(missing.contains("token"), "{missing}");
        for secret in ["one", "two"] {
            fs::write(&file, format!("{secret}\n")).unwrap();
            assert_eq!(
                get(&address, "/who", &token).await.unwrap().1,
                format!("Bearer {secret}")
            );
        }
        assert_eq!(get(&address, "/who", &settings()).await.unwrap().1, "anonymous");
    });
}

#[test]
fn redirects_are_not_followed_and_bounds_hold() {
    run(async {
        let address = format!("http://{}", server(Access::open()).await);
        assert_eq!(get(&address, "/elsewhere", &settings()).await.unwrap().0, 302);
        let large = get(&address, "/large", &settings()).await;
        assert!(
            matches!(large, Err(ClientError::Body(BodyError::TooLarge { .. }))),
            "{large:?}"
        );
        let late = get(&address, "/late", &settings()).await;
        assert!(matches!(late, Err(ClientError::TimedOut(_))), "{late:?}");
        let refused = get("http://127.0.0.1:1", "/", &settings()).await;
        assert!(matches!(refused, Err(ClientError::Connect { .. })), "{refused:?}");
        let odd = get("ftp://127.0.0.1:1", "/", &settings()).await;
        assert!(matches!(odd, Err(ClientError::Address(_))), "{odd:?}");
    });
}

#[test]
fn one_connection_serves_several_requests() {
    run(async {
        let address = format!("http://{}", server(Access::open()).await).parse().unwrap();
        let mut connection = Connection::open(&address, &settings()).await.unwrap();
        for _ in 0..3 {
            let sent = connection.send(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
            assert_eq!(sent.await.unwrap().status, StatusCode::OK);
        }
    });
}

#[test]
fn https_servers_are_verified_as_configured() {
    run(async {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["am.example".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        fs::write(path("server.crt"), certificate.pem()).unwrap();
        fs::write(path("server.key"), key.serialize_pem()).unwrap();
        fs::write(
            path("web.yml"),
            "tls_server_config: {cert_file: server.crt, key_file: server.key}\n",
        )
        .unwrap();
        let access = Access::open().with_web_config(&path("web.yml")).unwrap();
        let address = format!("https://{}", server(access).await);
        let check = async |trust: Trust, is_believed: bool| {
            let got = get(&address, "/", &ClientSettings { trust, ..settings() }).await;
            match is_believed {
                true => assert_eq!(got.unwrap().0, 200),
                false => assert!(matches!(got, Err(ClientError::Handshake { .. })), "{got:?}"),
            }
        };
        let named = Trust {
            ca_file: Some(path("server.crt")),
            server_name: Some("am.example".into()),
            ..Trust::default()
        };
        check(named.clone(), true).await;
        // The certificate has another name, and no authority of this system has signed it.
        check(
            Trust {
                server_name: None,
                ..named.clone()
            },
            false,
        )
        .await;
        check(Trust { ca_file: None, ..named }, false).await;
        check(
            Trust {
                insecure_skip_verify: true,
                ..Trust::default()
            },
            true,
        )
        .await;
    });
}
