//! Limits of cgroups on the real host: through systemd if a unit owns the cgroup, otherwise through the cgroup's files.

use super::cgroup::{CgroupError, Hierarchy};
use super::systemd::{self, Systemd};
use super::unit::UnitState;
use super::{Knob, LimitState, Reading, Reclaimed, Value};
use crate::knob::limit::Setting;
use crate::process::{BootId, Cgroup};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone)]
pub struct Limits {
    hierarchy: Option<Hierarchy>,
    /// `None` where systemd is not the init. All clones share one connection.
    systemd: Option<Arc<Mutex<Systemd>>>,
    is_systemd_reached: Arc<AtomicBool>,
}

/// The unit and the cgroup of systemd itself.
const OWN_UNIT: &str = "init.scope";
const OWN_CGROUP: &str = "/init.scope";

impl Limits {
    /// Finds the cgroup hierarchy and connects to systemd.
    pub fn find(procfs: &Path, boot: BootId) -> Limits {
        let systemd = systemd::is_booted().then(Systemd::new).transpose();
        let systemd = systemd.unwrap_or_else(|error| {
            tracing::error!(%error, "could not connect to systemd, limits of units unavailable");
            None
        });
        Limits {
            hierarchy: Hierarchy::find(procfs, boot),
            systemd: systemd.map(|systemd| Arc::new(Mutex::new(systemd))),
            is_systemd_reached: Arc::default(),
        }
    }

    /// # Errors
    /// When the host has no cgroup v2.
    pub fn files(&self) -> Result<&Hierarchy, CgroupError> {
        self.hierarchy.as_ref().ok_or(CgroupError::NoHierarchy)
    }

    /// # Errors
    /// As [`super::Host::cgroups`].
    pub fn list(&self) -> Result<Vec<Cgroup>, CgroupError> {
        self.files()?.list().map_err(|source| CgroupError::Failed {
            path: "/".to_owned(),
            file: "directory",
            source,
        })
    }

    /// # Errors
    /// As [`super::Host::read_cgroup`].
    pub fn read(&self, cgroup: &Cgroup, knob: Knob) -> Result<Reading, CgroupError> {
        let files = self.files()?;
        let (value, properties) = match knob {
            Knob::Cgroup(file) => (Value::Cgroup(files.get(cgroup, file)?), file.properties()),
            Knob::Io(device, kind) => (
                Value::Cgroup(files.get_io(cgroup, device, kind)?),
                std::slice::from_ref(kind.property()),
            ),
            Knob::Freeze => (Value::Freeze(files.is_frozen(cgroup)?), &[][..]),
            knob => return Err(no_such_knob(cgroup, knob)),
        };
        let unit = self.unit(cgroup, properties)?;
        files.verify(cgroup)?;
        Ok(Reading { value, unit })
    }

    fn unit(&self, cgroup: &Cgroup, properties: &[&str]) -> Result<Option<UnitState>, CgroupError> {
        match cgroup.unit() {
            Some(name) => self
                .ask(name, |systemd| systemd.state(&cgroup.path, properties))
                .map(Option::flatten),
            None => Ok(None),
        }
    }

    /// `None` where there is no systemd.
    fn ask<T>(
        &self,
        unit: &str,
        question: impl FnOnce(&mut Systemd) -> Result<T, zbus::Error>,
    ) -> Result<Option<T>, CgroupError> {
        let Some(systemd) = &self.systemd else { return Ok(None) };
        let mut systemd = systemd.lock().unwrap_or_else(PoisonError::into_inner);
        question(&mut systemd).map(Some).map_err(|error| CgroupError::Systemd {
            unit: unit.to_owned(),
            reason: error.to_string(),
        })
    }

    /// # Errors
    /// As [`super::Host::set_cgroup`].
    pub fn set(&self, cgroup: &Cgroup, value: &Value, unit: Option<&UnitState>) -> Result<(), CgroupError> {
        let files = self.files()?;
        let Some(UnitState { unit, .. }) = unit else {
            return self.write(cgroup, value);
        };
        // systemd takes a name, not a descriptor. Verify the cgroup before and after the call.
        files.verify(cgroup)?;
        match value {
            Value::Cgroup(setting) => self.ask(unit, |systemd| systemd.set(unit, setting))?,
            Value::Freeze(frozen) => self.ask(unit, |systemd| systemd.freeze(unit, *frozen))?,
            value => return Err(no_such_knob(cgroup, value.knob())),
        };
        files.verify(cgroup)
    }

    fn write(&self, cgroup: &Cgroup, value: &Value) -> Result<(), CgroupError> {
        let files = self.files()?;
        match value {
            Value::Cgroup(setting) => files.set(cgroup, setting),
            Value::Freeze(frozen) => files.freeze(cgroup, *frozen),
            value => Err(no_such_knob(cgroup, value.knob())),
        }
    }

    /// # Errors
    /// As [`super::Host::restore_cgroup`].
    pub fn restore(&self, cgroup: &Cgroup, value: &Value, unit: Option<&UnitState>) -> Result<(), CgroupError> {
        let Some(state) = unit else {
            return self.write(cgroup, value);
        };
        if let Value::Freeze(_) = value {
            return self.set(cgroup, value, unit);
        }
        self.files()?.verify(cgroup)?;
        self.ask(&state.unit, |systemd| restore_property(systemd, state, value))?;
        // The former value of the file may come from a program that bypassed systemd.
        if self.read(cgroup, value.knob())?.value != *value {
            return self.write(cgroup, value);
        }
        Ok(())
    }

    /// # Errors
    /// As [`super::Host::limit_state`].
    pub fn limit_state(&self, cgroup: &Cgroup, value: &Value, state: &UnitState) -> Result<LimitState, CgroupError> {
        let files = self.files()?;
        let Value::Cgroup(setting) = value else {
            return Ok(LimitState::Holds);
        };
        // A file with the expected value needs no D-Bus call.
        let found = match setting {
            Setting::IoLimit(limit) => files.get_io(cgroup, limit.device, limit.kind)?,
            _ => files.get(cgroup, setting.file())?,
        };
        if found == *setting {
            return Ok(LimitState::Holds);
        }
        let found = self.ask(&state.unit, |systemd| systemd.limit_state(state, setting))?;
        files.verify(cgroup)?;
        Ok(found.unwrap_or(LimitState::Overwritten))
    }

    /// # Errors
    /// As [`super::Host::restore_unit`].
    pub fn restore_unit(&self, state: &UnitState, ours: &Value, next: Option<&Value>) -> Result<bool, CgroupError> {
        let Value::Cgroup(setting) = ours else {
            // A new cgroup is not frozen.
            return Ok(true);
        };
        let next = next.and_then(|next| match next {
            Value::Cgroup(next) => Some(next),
            _ => None,
        });
        let restored = self.ask(&state.unit, |systemd| systemd.withdraw(state, setting, next))?;
        Ok(restored.unwrap_or(false))
    }

    /// # Errors
    /// As [`super::Host::reclaim`].
    pub fn reclaim(&self, cgroup: &Cgroup, bytes: u64) -> Result<Reclaimed, CgroupError> {
        let (before, after) = self.files()?.reclaim(cgroup, bytes)?;
        Ok(Reclaimed { before, after })
    }

    pub fn has_systemd(&self) -> bool {
        self.systemd.is_some()
    }

    /// Asks systemd for its own unit. After the first response this returns `Ok` without a call.
    ///
    /// # Errors
    /// When systemd is the init and does not respond; names the missing bus.
    pub fn reach_systemd(&self) -> Result<(), &'static str> {
        let is_reached = || self.is_systemd_reached.load(Ordering::Relaxed);
        if !is_reached() {
            let asked = self.ask(OWN_UNIT, |systemd| systemd.state(OWN_CGROUP, &[]));
            asked.map_err(|_| "systemd on the system bus (D-Bus)")?;
            self.is_systemd_reached.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The mount point of the hierarchy.
    pub fn mount(&self) -> Option<&Path> {
        self.hierarchy.as_ref().map(Hierarchy::mount)
    }
}

/// Restores a property. For a list of devices, `value` selects the device.
fn restore_property(systemd: &mut Systemd, state: &UnitState, value: &Value) -> Result<(), zbus::Error> {
    match value {
        Value::Cgroup(Setting::IoLimit(limit)) => systemd.restore_device(state, limit.device),
        _ => systemd.restore(state),
    }
}

fn no_such_knob(cgroup: &Cgroup, knob: Knob) -> CgroupError {
    CgroupError::Failed {
        path: cgroup.path.clone(),
        file: knob.as_str(),
        source: io::ErrorKind::InvalidInput.into(),
    }
}
