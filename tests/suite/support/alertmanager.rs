//! A real Alertmanager on loopback that calls one webhook, with short intervals.

use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

use super::process::Process;
use super::prometheus::start_server;
use super::tools::tool;
use super::{eventually, free_address, http};

const START_ATTEMPTS: u32 = 5;
const START_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Alertmanager {
    pub address: SocketAddr,
    pub cluster: Option<SocketAddr>,
    process: Process,
    dir: TempDir,
}

impl Alertmanager {
    /// Sends every alert to `webhook` with the bearer token, at once, and again every three seconds.
    pub fn start(webhook: SocketAddr, token: &str) -> Self {
        Alertmanager::start_with(Some((webhook, token)), "", None)
    }

    /// The same with further top-level lines of configuration, as a member of the cluster of `peers`. Without a webhook
    /// it has an empty receiver.
    pub fn start_with(webhook: Option<(SocketAddr, &str)>, more: &str, peers: Option<&[SocketAddr]>) -> Self {
        Alertmanager::start_trusting(webhook, None, more, peers)
    }

    /// Sends its alerts over TLS, and trusts this certificate (PEM).
    pub fn start_with_tls(webhook: SocketAddr, token: &str, trusted: &str) -> Self {
        Alertmanager::start_trusting(Some((webhook, token)), Some(trusted), "", None)
    }

    fn start_trusting(
        webhook: Option<(SocketAddr, &str)>,
        trusted: Option<&str>,
        more: &str,
        peers: Option<&[SocketAddr]>,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        if let Some(certificate) = trusted {
            std::fs::write(ca_file(&dir), certificate).expect("a writable folder");
        }
        let token_file = dir.path().join("token");
        let mut config = "route: {receiver: evenkeel, group_by: [alertname], group_wait: 0s, group_interval: 1s, \
                          repeat_interval: 3s}\n\
                          receivers:\n\
                          \x20 - name: evenkeel\n"
            .to_owned();
        if let Some((webhook, token)) = webhook {
            std::fs::write(&token_file, token).expect("a writable folder");
            let (scheme, tls) = match trusted {
                None => ("http", String::new()),
                Some(_) => (
                    "https",
                    format!(", tls_config: {{ca_file: '{}'}}", ca_file(&dir).display()),
                ),
            };
            config.push_str(&format!(
                "    webhook_configs:\n\
                 \x20     - url: {scheme}://{webhook}/webhook\n\
                 \x20       send_resolved: true\n\
                 \x20       http_config: {{authorization: {{type: Bearer, credentials_file: '{}'}}{tls}}}\n",
                token_file.display()
            ));
        }
        config.push_str(more);
        std::fs::write(dir.path().join("alertmanager.yml"), config).expect("a writable folder");
        let cluster = peers.map(|_| free_address());
        let (address, process) = start_server("alertmanager", START_ATTEMPTS, |address| {
            command(&dir, address, cluster, peers.unwrap_or_default())
        });
        Alertmanager {
            address,
            cluster,
            process,
            dir,
        }
    }

    /// Trusts another certificate (PEM) from now on.
    pub fn trust(&self, certificate: &str) {
        std::fs::write(ca_file(&self.dir), certificate).expect("a writable folder");
    }

    pub fn log(&self) -> Vec<String> {
        self.process.log()
    }

    /// Restarts it on the same address. It keeps silences and forgets alerts.
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    pub fn stop(&mut self) {
        self.process.end_by(Signal::SIGTERM);
    }

    /// Kills it, so that it cannot notify its peers.
    pub fn kill(&mut self) {
        self.process.end_by(Signal::SIGKILL);
    }

    /// Stops it with SIGSTOP. The kernel still accepts connections for it.
    pub fn freeze(&self) {
        self.process.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.process.signal(Signal::SIGCONT);
    }

    pub fn start_again(&mut self) {
        let address = self.address;
        self.process = Process::start("alertmanager", &mut command(&self.dir, address, self.cluster, &[]));
        eventually("alertmanager to be ready again", START_TIMEOUT, || {
            matches!(http::get(address, "/-/ready"), Ok(answer) if answer.status == 200).then_some(())
        });
    }

    /// Posts JSON to its API and returns the response's JSON.
    pub fn post(&self, path: &str, body: &serde_json::Value) -> serde_json::Value {
        let headers = [("Content-Type", "application/json")];
        let answer = http::request(self.address, "POST", path, &headers, body.to_string().as_bytes())
            .expect("Alertmanager answers");
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str(&answer.body).unwrap_or_default()
    }

    pub fn delete(&self, path: &str) {
        let answer = http::request(self.address, "DELETE", path, &[], b"").expect("Alertmanager answers");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

fn ca_file(dir: &TempDir) -> PathBuf {
    dir.path().join("ca.crt")
}

fn command(dir: &TempDir, address: SocketAddr, cluster: Option<SocketAddr>, peers: &[SocketAddr]) -> Command {
    let mut command = tool("alertmanager");
    command
        .arg(format!(
            "--config.file={}",
            dir.path().join("alertmanager.yml").display()
        ))
        .arg(format!("--storage.path={}", dir.path().join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        // An empty address disables the cluster. The default one would listen beyond loopback.
        .arg(format!(
            "--cluster.listen-address={}",
            cluster.map_or(String::new(), |address| address.to_string())
        ));
    if cluster.is_some() {
        // A member waits this long for the ones before it to send a notification.
        command.args(["--cluster.peer-timeout=1s", "--cluster.settle-timeout=5s"]);
    }
    command.args(peers.iter().map(|peer| format!("--cluster.peer={peer}")));
    command
}
