//! A server under measurement: its start, scrapes as by Prometheus, and its cost from the kernel's counters.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// A running server, which is killed on drop.
pub struct Peer {
    pub program: PathBuf,
    pub address: SocketAddr,
    child: Child,
    scraper: Scraper,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The server may have exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory, what several processes share divided among them (PSS), from `/proc/PID/smaps_rollup`.
#[derive(Clone, Copy, Default)]
pub struct Resident {
    pub all_mb: f64,
    /// Heap, stacks and relocated data.
    pub anonymous_mb: f64,
    /// Pages of the program and of libraries, which others may share.
    pub file_mb: f64,
}

pub fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// evenkeel of this build, with `config` as its configuration and a storage directory in `home`.
pub fn evenkeel(home: &Path, config: &str, more: &[String]) -> Outcome<Peer> {
    let file = home.join("evenkeel.yml");
    fs::write(&file, config)?;
    let address = free_address()?;
    let mut args = vec![
        "run".to_owned(),
        format!("--config.file={}", file.display()),
        format!("--storage.path={}", home.join("storage").display()),
        format!("--web.listen-address={address}"),
        "--webhook.listen-address=127.0.0.1:0".to_owned(),
    ];
    args.extend_from_slice(more);
    Peer::start("evenkeel", Path::new(env!("CARGO_BIN_EXE_evenkeel")), address, &args)
}

/// A program that `tests/tools.sh` fetched into target/tools.
fn program(name: &str) -> Outcome<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .ok_or("target/tmp lies in target")?;
    Ok(target.join("tools/bin").join(name))
}

/// What the program prints about its flags.
pub fn help_of(name: &str) -> Outcome<String> {
    let Output { stdout, stderr, .. } = Command::new(program(name)?).arg("--help").output()?;
    Ok(String::from_utf8([stdout, stderr].concat())?)
}

/// Such a program, running.
pub fn tool(name: &'static str, more: &[String]) -> Outcome<Peer> {
    let address = free_address()?;
    let mut args = vec![format!("--web.listen-address={address}")];
    args.extend_from_slice(more);
    Peer::start(name, &program(name)?, address, &args)
}

impl Peer {
    fn start(name: &'static str, program: &Path, address: SocketAddr, args: &[String]) -> Outcome<Peer> {
        let child = Command::new(program)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}; run tests/tools.sh {name} first", program.display()))?;
        let started = Instant::now();
        let scraper = loop {
            match Scraper::connect(address) {
                Ok(scraper) => break scraper,
                Err(error) if started.elapsed() > PATIENCE => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        Ok(Peer {
            program: program.to_owned(),
            address,
            child,
            scraper,
        })
    }

    /// One scrape on the connection that stays open; returns its size.
    pub fn scrape(&mut self) -> Outcome<usize> {
        self.scraper.scrape()
    }

    /// Processor time of all threads of its processes, from the scheduler's nanoseconds (`/proc/PID/task/*/schedstat`).
    pub fn cpu_ms(&self) -> Outcome<f64> {
        let mut sum = 0.0;
        for pid in processes(self.child.id()) {
            for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
                let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
                sum += text
                    .split(' ')
                    .next()
                    .and_then(|field| field.parse().ok())
                    .unwrap_or(0.0);
            }
        }
        Ok(sum / 1e6)
    }

    pub fn resident(&self) -> Outcome<Resident> {
        let mut sum = Resident::default();
        for pid in processes(self.child.id()) {
            let sizes = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let megabytes = |name: &str| -> Outcome<f64> {
                let line = sizes.lines().find_map(|line| line.strip_prefix(name));
                let line = line.ok_or_else(|| format!("no {name}"))?;
                Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
            };
            sum.all_mb += megabytes("Pss:")?;
            sum.anonymous_mb += megabytes("Pss_Anon:")?;
            sum.file_mb += megabytes("Pss_File:")?;
        }
        Ok(sum)
    }
}

/// The process, and evenkeel's processes below it.
fn processes(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split(' ').filter_map(|child| child.trim().parse().ok());
    let is_own = |child: &u32| {
        let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        name.starts_with("evenkeel-")
    };
    let below = children.filter(is_own).flat_map(processes);
    std::iter::once(pid).chain(below).collect()
}

/// A persistent connection, as Prometheus has.
pub struct Scraper(BufReader<TcpStream>);

impl Scraper {
    pub fn connect(address: SocketAddr) -> Outcome<Scraper> {
        let connection = TcpStream::connect(address)?;
        connection.set_nodelay(true)?;
        Ok(Scraper(BufReader::new(connection)))
    }

    /// One scrape as Prometheus asks for it; returns its size.
    pub fn scrape(&mut self) -> Outcome<usize> {
        const REQUEST: &[u8] =
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0,\
            text/plain;version=0.0.4;q=0.5\r\nAccept-Encoding: gzip\r\n\r\n";
        self.0.get_mut().write_all(REQUEST)?;
        let mut length = None;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        if line.split(' ').nth(1) != Some("200") {
            return Err(format!("the scrape was answered with {line:?}").into());
        }
        loop {
            line.clear();
            self.0.read_line(&mut line)?;
            let head = line.trim_end().to_ascii_lowercase();
            if head.is_empty() {
                break;
            }
            if let Some(value) = head.strip_prefix("content-length:") {
                length = Some(value.trim().parse()?);
            }
        }
        let Some(length) = length else {
            return self.read_chunks();
        };
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(length)
    }

    fn read_chunks(&mut self) -> Outcome<usize> {
        let mut total = 0;
        let mut line = String::new();
        loop {
            line.clear();
            self.0.read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim(), 16)?;
            let mut chunk = vec![0; length + 2];
            self.0.read_exact(&mut chunk)?;
            total += length;
            if length == 0 {
                return Ok(total);
            }
        }
    }
}
