//! Requests over HTTP and commands, and their reports. Data only. They name the files of secrets and contain no
//! secret, because they are stored in the ledger.

use crate::http::client::Trust;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// An asynchronous job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    Request(Request, Server),
    Command(Run),
}

/// One HTTP request, with the labels of the alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub method: String,
    /// `http` or `https`.
    pub url: String,
    /// JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// `Idempotency-Key`.
    pub key: String,
}

/// The connection settings of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Authorization>,
    pub tls: Trust,
    /// Timeout of the connection, and of the response.
    pub timeout: Duration,
}

/// The `Authorization` header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Authorization {
    Basic {
        username: String,
        password_file: PathBuf,
    },
    Header {
        /// Such as `Bearer`.
        kind: String,
        credentials_file: PathBuf,
    },
}

/// One run of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The path of the program, and its arguments.
    pub argv: Vec<String>,
    /// Its environment besides `PATH`, `HOME`, `USER` and `LOGNAME`.
    pub env: BTreeMap<String, String>,
    /// Name of the user to run as; `None` is evenkeel's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Time until SIGTERM, which SIGKILL follows after a grace period.
    pub timeout: Duration,
}

/// The result of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The server responded, with any status.
    Answered {
        status: u16,
        #[serde(with = "base64_bytes")]
        body: Vec<u8>,
        /// `Retry-After` of the server (RFC 9110, section 10.2.3).
        retry_after: Option<Duration>,
    },
    /// There is no complete response. `was_sent` is false if no request can have reached the server.
    Unanswered { reason: String, was_sent: bool },
    /// The command exited. `output` has the end of both its outputs.
    Ended { end: End, output: String },
    /// The command could not be started.
    NotStarted { reason: String },
    /// The command was started, and how it ended is unknown.
    Lost { reason: String },
}

/// Bytes in JSON, which would write a number for each one.
mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Status(status) => write!(f, "it ended with status {status}"),
            End::Signal(signal) => write!(f, "killed by signal {signal}"),
            End::TimedOut => f.write_str("killed after its timeout"),
        }
    }
}

/// The exit of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    Status(i32),
    /// Killed by this signal.
    Signal(i32),
    /// Killed after its timeout.
    TimedOut,
}
