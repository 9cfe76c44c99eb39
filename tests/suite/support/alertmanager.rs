//! A real Alertmanager on loopback that calls one webhook, without the patience that people need.

use std::net::SocketAddr;
use tempfile::TempDir;

use super::process::Process;
use super::prometheus::start_server;
use super::tools::tool;

const START_ATTEMPTS: u32 = 5;

pub struct Alertmanager {
    pub address: SocketAddr,
    _process: Process,
    _dir: TempDir,
}

impl Alertmanager {
    /// Sends every alert to `webhook` with the bearer token, at once, and again every three seconds.
    pub fn start(webhook: SocketAddr, token: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let token_file = dir.path().join("token");
        std::fs::write(&token_file, token).expect("a writable folder");
        let config = format!(
            "route: {{receiver: evenkeel, group_by: [alertname], group_wait: 0s, group_interval: 1s, repeat_interval: 3s}}\n\
             receivers:\n\
             \x20 - name: evenkeel\n\
             \x20   webhook_configs:\n\
             \x20     - url: http://{webhook}/webhook\n\
             \x20       send_resolved: true\n\
             \x20       http_config: {{authorization: {{type: Bearer, credentials_file: '{}'}}}}\n",
            token_file.display()
        );
        std::fs::write(dir.path().join("alertmanager.yml"), config).expect("a writable folder");
        let (address, process) = start_server("alertmanager", START_ATTEMPTS, |address| {
            let mut command = tool("alertmanager");
            command
                .arg(format!(
                    "--config.file={}",
                    dir.path().join("alertmanager.yml").display()
                ))
                .arg(format!("--storage.path={}", dir.path().join("data").display()))
                .arg(format!("--web.listen-address={address}"))
                // No cluster: it would listen beyond loopback.
                .arg("--cluster.listen-address=");
            command
        });
        Alertmanager {
            address,
            _process: process,
            _dir: dir,
        }
    }
}
