//! The D-Bus client of the collector `systemd`, with one connection for all rounds. Each call, and a round as a whole,
//! has a timeout.

use std::time::{Duration, Instant};
use zbus::connection::Builder;
use zbus::{Connection, OwnedObjectPath, OwnedVariant};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES_INTERFACE: &str = "org.freedesktop.DBus.Properties";

/// Timeout of a call. systemd answers within milliseconds, unless it is stuck.
const PATIENCE: Duration = Duration::from_secs(3);
/// Timeout of a round, in which hundreds of units are read one after the other: the default interval.
const PATIENCE_FOR_ALL: Duration = Duration::from_secs(15);

/// A unit as `ListUnits` returns it.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    pub name: String,
    pub load_state: String,
    pub active_state: String,
    /// Its object path on the bus.
    pub object: String,
}

/// A row of `ListUnits`: name, description, load, active and sub state, followed unit, object, job, its type and
/// object.
type Row = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

/// The bus with its connection, which is kept while it works.
#[derive(Default)]
pub struct Bus {
    /// Address of a bus other than the system bus.
    pub address: Option<String>,
    open: Option<(tokio::runtime::Runtime, Connection)>,
}

/// Why systemd could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("the bus cannot be reached: {0}")]
    Runtime(std::io::Error),
    #[error("the bus cannot be reached: {0}")]
    Connect(zbus::Error),
    #[error("the bus cannot be reached: no answer")]
    NoAnswer,
    #[error("systemd cannot be asked: {0}")]
    Call(#[from] zbus::Error),
    #[error("systemd does not tell its {0}")]
    NoProperty(String),
}

/// The calls of one round.
pub struct Round<'b> {
    open: &'b (tokio::runtime::Runtime, Connection),
    until: Instant,
}

impl Bus {
    pub fn round(&mut self) -> Result<Round<'_>, BusError> {
        let open = match self.open.take().filter(|(_, connection)| !connection.is_closed()) {
            Some(open) => open,
            None => self.connect()?,
        };
        Ok(Round {
            open: self.open.insert(open),
            until: Instant::now() + PATIENCE_FOR_ALL,
        })
    }

    fn connect(&self) -> Result<(tokio::runtime::Runtime, Connection), BusError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(BusError::Runtime)?;
        let builder = match &self.address {
            Some(address) => Builder::address(address.as_str()),
            None => Builder::system(),
        };
        let connecting = builder.method_timeout(PATIENCE).build();
        let connection = runtime
            .block_on(async { tokio::time::timeout(PATIENCE, connecting).await })
            .map_err(|_| BusError::NoAnswer)?
            .map_err(BusError::Connect)?;
        Ok((runtime, connection))
    }
}

impl Round<'_> {
    /// Reads a property of systemd itself.
    pub fn manager_property(&mut self, property: &str) -> Result<String, BusError> {
        let value = self.property(MANAGER_PATH, MANAGER, property)?;
        let value = value.and_then(|value| String::try_from(value).ok());
        value.ok_or_else(|| BusError::NoProperty(property.to_owned()))
    }

    pub fn units(&mut self) -> Result<Vec<Unit>, BusError> {
        let answer = self.call(MANAGER_PATH, MANAGER, "ListUnits", &())?;
        let rows: Vec<Row> = answer.body().deserialize()?;
        let unit = |(name, _, load_state, active_state, _, _, object, ..): Row| Unit {
            name,
            load_state,
            active_state,
            object: object.as_str().to_owned(),
        };
        Ok(rows.into_iter().map(unit).collect())
    }

    pub fn text_property(&mut self, object: &str, interface: &str, property: &str) -> Result<Option<String>, BusError> {
        let value = self.property(object, &format!("{SYSTEMD}.{interface}"), property)?;
        Ok(value.and_then(|value| String::try_from(value).ok()))
    }

    pub fn number_property(&mut self, object: &str, interface: &str, property: &str) -> Result<Option<u64>, BusError> {
        let value = self.property(object, &format!("{SYSTEMD}.{interface}"), property)?;
        Ok(value.and_then(|value| {
            let short = || u32::try_from(&value).ok().map(u64::from);
            u64::try_from(&value).ok().or_else(short)
        }))
    }

    /// Reads a property. `None` where the unit is gone or systemd is too old for the property.
    fn property(&mut self, object: &str, interface: &str, name: &str) -> Result<Option<OwnedVariant>, BusError> {
        match self.call(object, PROPERTIES_INTERFACE, "Get", &(interface, name)) {
            Ok(answer) => Ok(Some(answer.body().deserialize()?)),
            Err(zbus::Error::MethodError(name, ..)) if is_absence(name.as_str()) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn call<B>(&mut self, object: &str, interface: &str, method: &str, body: &B) -> Result<zbus::Message, zbus::Error>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        if Instant::now() >= self.until {
            return Err(zbus::Error::Failure("it takes too long to ask all units".to_owned()));
        }
        let (runtime, connection) = self.open;
        runtime.block_on(connection.call_method(Some(SYSTEMD), object, Some(interface), method, body))
    }
}

/// Whether an error means that the unit or the property does not exist. Other errors are failures of the bus or
/// systemd.
fn is_absence(error: &str) -> bool {
    error == "org.freedesktop.systemd1.NoSuchUnit"
        || [
            "UnknownObject",
            "UnknownInterface",
            "UnknownMethod",
            "UnknownProperty",
            "InvalidArgs",
        ]
        .iter()
        .any(|name| error.strip_prefix("org.freedesktop.DBus.Error.") == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    /// A private bus, which ends with the test.
    struct Daemon(Child);

    impl Drop for Daemon {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn bus_without_systemd_is_an_error_at_once() {
        let mut command = Command::new("dbus-daemon");
        command.args(["--session", "--nofork", "--print-address"]);
        let mut daemon = Daemon(
            command
                .stdout(Stdio::piped())
                .spawn()
                .expect("dbus-daemon is installed"),
        );
        let mut address = String::new();
        let stdout = daemon.0.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut address).unwrap();
        let mut bus = Bus {
            address: Some(address.trim().to_owned()),
            ..Bus::default()
        };
        let asked = Instant::now();
        for _ in 0..2 {
            let error = bus.round().unwrap().manager_property("Version").unwrap_err();
            assert!(error.to_string().starts_with("systemd cannot be asked"), "{error}");
        }
        assert!(asked.elapsed() < PATIENCE);
        drop(daemon);
        let error = match bus.round() {
            Ok(mut round) => round.units().unwrap_err(),
            Err(error) => error,
        };
        assert!(!error.to_string().is_empty());
    }

    #[test]
    fn missing_bus_is_an_error() {
        let mut bus = Bus {
            address: Some("unix:path=/nowhere/at/all".to_owned()),
            ..Bus::default()
        };
        assert!(bus.round().err().unwrap().to_string().contains("cannot be reached"));
    }
}
