//! The client of systemd over D-Bus. A limit of a unit is set as a runtime property, because systemd overwrites the
//! files of its cgroups at the next `daemon-reload`.
//!
//! A runtime property leaves a drop-in below `/run/systemd`, which outlives the unit's cgroup and overrides the unit
//! file until the next boot. So a revert writes the former value, and then a drop-in that assigns nothing, or removes
//! the drop-in if there was none before. `RevertUnitFiles` does not work here, because it also removes the
//! administrator's overrides in `/etc`.

use super::LimitState;
use super::unit::{self, UnitState};
use crate::knob::limit::{Device, Property, Setting};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant};

const BUS: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// systemd responds within milliseconds; freezing waits until all processes of the unit are frozen.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Time without calls after systemd did not respond, because the engine blocks on each call. A failed revert is
/// retried anyway.
const PAUSE_AFTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Folders of the drop-ins of runtime properties: for units with a file, and for transient units (systemd.unit(5),
/// "Unit File Load Path").
const RUNTIME_FOLDERS: [&str; 2] = ["/run/systemd/system.control", "/run/systemd/transient"];

/// The content of a drop-in after a revert. systemd shows `NeedDaemonReload=yes` for a unit while a drop-in that it has
/// read is missing or newer, so an empty drop-in of the same age replaces the former one.
const EMPTY_DROP_IN: &str = "\
# evenkeel had set a limit here and has restored the former value. This file assigns nothing. Without the file, systemd
# would ask for a daemon-reload. You may delete the file; the next boot removes it.
";

/// Whether systemd is the init of this host (sd_booted(3)).
pub fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A connection to the system bus, opened at first use and reopened after an error.
pub struct Systemd {
    runtime: tokio::runtime::Runtime,
    connection: Option<Connection>,
    silent_until: Option<Instant>,
}

impl Systemd {
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn new() -> io::Result<Systemd> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Systemd {
            runtime,
            connection: None,
            silent_until: None,
        })
    }

    /// The unit whose own cgroup has this path, with the current values of these properties. `None` where systemd has
    /// no unit for exactly this cgroup, as below a unit with delegation.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    pub fn state(&mut self, path: &str, names: &[&str]) -> Result<Option<UnitState>, zbus::Error> {
        let object: OwnedObjectPath = match self.call(MANAGER_PATH, MANAGER, "GetUnitByControlGroup", &(path,)) {
            Ok(message) => message.body().deserialize()?,
            Err(error) if is_no_such_unit(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let unit = String::try_from(self.property(&object, "org.freedesktop.systemd1.Unit", "Id")?)?;
        let Some(interface) = unit::interface(&unit) else {
            return Ok(None);
        };
        if String::try_from(self.property(&object, &interface, "ControlGroup")?)? != path {
            return Ok(None);
        }
        let mut properties = Vec::new();
        for name in names {
            let value = self.property(&object, &interface, name)?;
            properties.push(((*name).to_owned(), known(value)?));
        }
        // A drop-in that a persistent one hides has no effect and does not count.
        let at_runtime = properties
            .iter()
            .filter(|(name, live)| has_drop_in(&unit, name, live))
            .map(|(name, _)| name.clone())
            .collect();
        Ok(Some(UnitState {
            unit,
            properties,
            at_runtime,
        }))
    }

    /// Sets the properties for a setting, until the next boot.
    ///
    /// # Errors
    /// When systemd cannot be asked, or refuses.
    pub fn set(&mut self, unit: &str, setting: &Setting) -> Result<(), zbus::Error> {
        let wanted = wanted(setting);
        let now = self.now(unit, &wanted)?;
        let wanted = beside_others(wanted, &now, setting);
        let changed = wanted.into_iter().zip(now).filter(|((_, wanted), now)| wanted != now);
        let changed: Vec<_> = changed.collect();
        self.set_properties(unit, &changed)
    }

    /// Restores the former properties of a unit, and removes drop-ins that did not exist before.
    ///
    /// # Errors
    /// When systemd cannot be asked, or refuses, or a drop-in cannot be removed.
    pub fn restore(&mut self, state: &UnitState) -> Result<(), zbus::Error> {
        let live = self.load(&state.unit, &state.properties)?;
        let mut changed = Vec::new();
        for ((name, former), live) in state.properties.iter().zip(live.into_iter().flatten()) {
            let is_hidden = state.at_runtime.contains(name) && !has_drop_in(&state.unit, name, former);
            if live != *former || is_hidden {
                changed.push(((name.clone(), former.clone()), live));
            }
        }
        self.set_properties(&state.unit, &changed)?;
        let ours = state.properties.iter().map(|(name, _)| name);
        ours.filter(|name| !state.at_runtime.contains(name))
            .try_for_each(|name| self.clear_drop_ins(&state.unit, name))
    }

    /// Restores the former limits of one device; limits of other devices stay.
    ///
    /// # Errors
    /// As [`Systemd::restore`].
    pub fn restore_device(&mut self, state: &UnitState, device: Device) -> Result<(), zbus::Error> {
        match self.load(&state.unit, &state.properties)? {
            Some(live) => self.restore(&state.of_device(device, &live, device_number)),
            None => self.restore(state),
        }
    }

    /// What changed a limit that the cgroup's file no longer has. A reload reads properties from drop-ins, and a
    /// persistent drop-in hides or overrides the runtime one (systemd#16592). The property then has its former value
    /// although the runtime drop-in still has evenkeel's.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    pub fn limit_state(&mut self, state: &UnitState, ours: &Setting) -> Result<LimitState, zbus::Error> {
        let (setting, ours) = (ours, wanted(ours));
        let live = self.now(&state.unit, &ours)?;
        let mut limit_state = LimitState::Overwritten;
        for (((name, ours), live), (_, former)) in ours.iter().zip(&live).zip(&state.properties) {
            if has_part(name, live, ours, setting) {
                continue;
            }
            let is_former = has_part(name, live, former, setting);
            if !is_former || drop_in_with(&state.unit, name, ours, setting).is_none() {
                return Ok(LimitState::Changed);
            }
            limit_state = LimitState::ResetBySystemd;
        }
        Ok(limit_state)
    }

    /// Replaces evenkeel's setting in each property and drop-in of a unit that still has it, by `next` or, without
    /// `next`, by the former value. Changes by another program and limits of other devices stay. Returns false if
    /// another program changed the setting.
    ///
    /// # Errors
    /// As for restoring it.
    pub fn withdraw(&mut self, state: &UnitState, ours: &Setting, next: Option<&Setting>) -> Result<bool, zbus::Error> {
        let (setting, ours) = (ours, wanted(ours));
        // Setting a property overwrites its drop-in, so the drop-ins are read first.
        let in_files: Vec<Option<Property>> = ours
            .iter()
            .map(|(name, ours)| drop_in_with(&state.unit, name, ours, setting))
            .collect();
        let live = self.load(&state.unit, &ours)?;
        let former = match &live {
            Some(live) => with_others(state, live, setting),
            None => state.clone(),
        };
        let goals = match (next, &live) {
            (None, _) => former.properties.clone(),
            (Some(next), Some(live)) => beside_others(wanted(next), live, next),
            (Some(next), None) => wanted(next),
        };
        let is_live = |index: usize| {
            let (name, ours) = &ours[index];
            live.as_ref()
                .is_none_or(|live| has_part(name, &live[index], ours, setting))
        };
        let (mut changed, mut cleared) = (Vec::new(), Vec::new());
        for (index, (name, _)) in ours.iter().enumerate() {
            let live = live.as_ref().map(|live| &live[index]);
            match (is_live(index), live, &in_files[index]) {
                (true, live, _) => {
                    if let Some(live) = live.filter(|live| **live != goals[index].1) {
                        changed.push((goals[index].clone(), live.clone()));
                    }
                    if next.is_none() && !former.at_runtime.contains(name) {
                        cleared.push(name);
                    }
                }
                // A hidden drop-in would take effect once the one that hides it is removed.
                (false, Some(live), Some(in_file)) if is_needed_by_others(state, name, in_file, setting) => {
                    changed.push(((name.clone(), live.clone()), live.clone()));
                }
                (false, _, Some(_)) => cleared.push(name),
                (false, _, None) => {}
            }
        }
        self.set_properties(&state.unit, &changed)?;
        cleared
            .into_iter()
            .try_for_each(|name| self.clear_drop_ins(&state.unit, name))?;
        Ok((0..ours.len()).all(is_live))
    }

    /// Freezes or thaws all processes of a unit.
    ///
    /// # Errors
    /// When systemd cannot be asked, or refuses.
    pub fn freeze(&mut self, unit: &str, frozen: bool) -> Result<(), zbus::Error> {
        let method = if frozen { "FreezeUnit" } else { "ThawUnit" };
        self.call(MANAGER_PATH, MANAGER, method, &(unit,)).map(drop)
    }

    /// Disables the runtime drop-ins of a property, without making a reload necessary.
    fn clear_drop_ins(&mut self, unit: &str, property: &str) -> Result<(), zbus::Error> {
        for drop_in in drop_ins(unit, property).filter(|path| path.exists()) {
            match self.may_stay_empty(unit, property)? {
                true => empty(&drop_in)?,
                false => remove(&drop_in)?,
            }
        }
        Ok(())
    }

    /// Whether an empty drop-in should replace the former one: the unit is loaded and needs no reload, and the empty
    /// drop-in would hide no other drop-in of the same name.
    fn may_stay_empty(&mut self, unit: &str, property: &str) -> Result<bool, zbus::Error> {
        let object = match self.object("GetUnit", unit) {
            Ok(object) => object,
            Err(error) if is_no_such_unit(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        if bool::try_from(self.property(&object, "org.freedesktop.systemd1.Unit", "NeedDaemonReload")?)? {
            return Ok(false);
        }
        let manager = OwnedObjectPath::try_from(MANAGER_PATH)?;
        let search = Vec::<String>::try_from(self.property(&manager, MANAGER, "UnitPath")?)?;
        let folders = unit::drop_in_folders(unit);
        let name = unit::drop_in_name(property);
        let others = search.iter().filter(|path| !RUNTIME_FOLDERS.contains(&path.as_str()));
        let mut others = others.flat_map(|path| folders.iter().map(move |folder| Path::new(path).join(folder)));
        Ok(!others.any(|folder| folder.join(&name).exists()))
    }

    /// The current values of these properties of a unit; `None` if the unit no longer exists. Loads a unit that is not
    /// loaded, because its drop-ins apply to it at the next start.
    fn load(&mut self, unit: &str, properties: &[(String, Property)]) -> Result<Option<Vec<Property>>, zbus::Error> {
        match self.now(unit, properties) {
            Ok(now) => return Ok(Some(now)),
            Err(error) if is_no_such_unit(&error) => {}
            Err(error) => return Err(error),
        }
        // systemd unloads an unreferenced unit at once and loads it again for each call on its object.
        let object = self.object("LoadUnit", unit)?;
        let state = String::try_from(self.property(&object, "org.freedesktop.systemd1.Unit", "LoadState")?)?;
        match state == "loaded" {
            true => self.values(unit, &object, properties).map(Some),
            false => Ok(None),
        }
    }

    /// The current values of these properties of a loaded unit.
    fn now(&mut self, unit: &str, properties: &[(String, Property)]) -> Result<Vec<Property>, zbus::Error> {
        let object = self.object("GetUnit", unit)?;
        self.values(unit, &object, properties)
    }

    fn object(&mut self, method: &str, unit: &str) -> Result<OwnedObjectPath, zbus::Error> {
        self.call(MANAGER_PATH, MANAGER, method, &(unit,))?.body().deserialize()
    }

    fn values(
        &mut self,
        unit: &str,
        object: &OwnedObjectPath,
        properties: &[(String, Property)],
    ) -> Result<Vec<Property>, zbus::Error> {
        let interface = unit::interface(unit).ok_or_else(|| zbus::Error::Failure(format!("{unit} has no limits")))?;
        let values = properties
            .iter()
            .map(|(name, _)| known(self.property(object, &interface, name)?));
        values.collect()
    }

    fn set_properties(&mut self, unit: &str, changed: &[((String, Property), Property)]) -> Result<(), zbus::Error> {
        if changed.is_empty() {
            return Ok(());
        }
        let mut assignments: Vec<(&str, Variant<'_>)> = Vec::new();
        // systemd asks for a reload unless drop-ins were created in the order of their names.
        let mut changed: Vec<_> = changed.iter().collect();
        changed.sort_by_key(|((name, _), _)| unit::drop_in_name(name));
        for ((name, wanted), now) in changed {
            // systemd appends to a list property; only an empty list clears it.
            if matches!((wanted, now), (Property::Devices(_), Property::Devices(now)) if !now.is_empty()) {
                assignments.push((name, Variant::from(Vec::<(String, u64)>::new())));
            }
            match wanted {
                Property::Number(number) => assignments.push((name, Variant::from(*number))),
                Property::Devices(devices) if devices.is_empty() => {}
                Property::Devices(devices) => assignments.push((name, Variant::from(devices.clone()))),
            }
        }
        let runtime = true;
        self.call(
            MANAGER_PATH,
            MANAGER,
            "SetUnitProperties",
            &(unit, runtime, assignments),
        )
        .map(drop)
    }

    fn property(&mut self, object: &OwnedObjectPath, interface: &str, name: &str) -> Result<OwnedVariant, zbus::Error> {
        self.call(object.as_str(), PROPERTIES, "Get", &(interface, name))?
            .body()
            .deserialize()
    }

    fn call<B>(&mut self, object: &str, interface: &str, method: &str, body: &B) -> Result<zbus::Message, zbus::Error>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        if self.silent_until.is_some_and(|until| Instant::now() < until) {
            return Err(zbus::Error::Failure("systemd did not answer a moment ago".to_owned()));
        }
        let Systemd {
            runtime, connection, ..
        } = self;
        let ask = async {
            let bus = match connection {
                Some(bus) if !bus.is_closed() => bus.clone(),
                _ => connection.insert(Connection::system().await?).clone(),
            };
            bus.call_method(Some(BUS), object, Some(interface), method, body).await
        };
        // The timeout includes the connection, because a bus may accept connections and never respond.
        let answer = runtime.block_on(async { tokio::time::timeout(TIMEOUT, ask).await });
        let answer = answer.unwrap_or_else(|_| {
            let silence = format!("systemd did not answer within {} s", TIMEOUT.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, silence).into())
        });
        if let Err(zbus::Error::InputOutput(error)) = &answer {
            *connection = None;
            if error.kind() == io::ErrorKind::TimedOut {
                self.silent_until = Some(Instant::now() + PAUSE_AFTER_TIMEOUT);
            }
        }
        answer
    }
}

/// The properties for a setting, with devices under their names on this host.
fn wanted(setting: &Setting) -> Vec<(String, Property)> {
    let named = |(number, limit): (String, u64)| (device_path(&number).unwrap_or(number), limit);
    setting
        .properties()
        .into_iter()
        .map(|(name, property)| match property {
            Property::Devices(devices) => (
                name.to_owned(),
                Property::Devices(devices.into_iter().map(named).collect()),
            ),
            number => (name.to_owned(), number),
        })
        .collect()
}

/// For a setting of one device, adds the current limits of other devices, because a property is a list of all devices.
fn beside_others(wanted: Vec<(String, Property)>, now: &[Property], setting: &Setting) -> Vec<(String, Property)> {
    let Setting::IoLimit(limit) = setting else {
        return wanted;
    };
    let merge = |((name, wanted), now): ((String, Property), &Property)| {
        (name, now.with_device(limit.device, &wanted, device_number))
    };
    wanted.into_iter().zip(now).map(merge).collect()
}

/// The former state of a unit; for a setting of one device, with the current limits of other devices.
fn with_others(former: &UnitState, now: &[Property], setting: &Setting) -> UnitState {
    match setting {
        Setting::IoLimit(limit) => former.of_device(limit.device, now, device_number),
        _ => former.clone(),
    }
}

/// Whether a property has the value that was set. For a setting of one device, only that device's entries count.
fn has_part(name: &str, found: &Property, set: &Property, setting: &Setting) -> bool {
    match setting {
        Setting::IoLimit(limit) => {
            found.limits_of(limit.device, device_number) == set.limits_of(limit.device, device_number)
        }
        _ => unit::is_same(name, found, set),
    }
}

/// Whether a drop-in has entries of other devices besides the former ones.
fn is_needed_by_others(former: &UnitState, name: &str, in_file: &Property, setting: &Setting) -> bool {
    let is_of_device = matches!(setting, Setting::IoLimit(_));
    let rest = with_others(former, std::slice::from_ref(in_file), setting);
    is_of_device && rest.at_runtime.iter().any(|needed| needed == name)
}

/// The device of a path in a property. systemd limits the whole disk that contains the path.
fn device_number(path: &str) -> Option<Device> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    if let Some(device) = unit::number_in(path) {
        return Some(device);
    }
    let found = fs::metadata(path).ok()?;
    let number = if found.file_type().is_block_device() {
        found.rdev()
    } else {
        found.dev()
    };
    let device = Device {
        major: rustix::fs::major(number),
        minor: rustix::fs::minor(number),
    };
    let partition = Path::new("/sys/dev/block").join(device.to_string());
    if !partition.join("partition").exists() {
        return Some(device);
    }
    fs::read_to_string(partition.join("../dev")).ok()?.trim().parse().ok()
}

/// The device's path by the kernel's name, because `/dev/block/8:0` is a link that exists only with udev.
fn device_path(by_number: &str) -> Option<String> {
    let number = by_number.rsplit('/').next()?;
    let facts = fs::read_to_string(format!("/sys/dev/block/{number}/uevent")).ok()?;
    let name = facts.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(format!("/dev/{name}"))
}

fn known(value: OwnedVariant) -> Result<Property, zbus::Error> {
    match u64::try_from(&value) {
        Ok(number) => Ok(Property::Number(number)),
        Err(_) => Vec::<(String, u64)>::try_from(value).map(Property::Devices),
    }
}

fn drop_ins<'a>(unit: &'a str, property: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    RUNTIME_FOLDERS.iter().map(move |folder| {
        Path::new(folder)
            .join(format!("{unit}.d"))
            .join(unit::drop_in_name(property))
    })
}

/// The values that runtime drop-ins assign to a property.
fn in_drop_ins<'a>(unit: &'a str, property: &'a str) -> impl Iterator<Item = Property> + 'a {
    let texts = drop_ins(unit, property).filter_map(|path| fs::read_to_string(path).ok());
    texts.filter_map(move |text| unit::assigned(property, &text))
}

/// Whether a runtime drop-in assigns this value to a property.
fn has_drop_in(unit: &str, property: &str, value: &Property) -> bool {
    in_drop_ins(unit, property).any(|found| unit::is_same(property, &found, value))
}

/// The value that a runtime drop-in assigns to a property, if it has the value that was set.
fn drop_in_with(unit: &str, property: &str, set: &Property, setting: &Setting) -> Option<Property> {
    in_drop_ins(unit, property).find(|found| has_part(property, found, set, setting))
}

/// Replaces a drop-in by an empty one with the same modification time.
fn empty(drop_in: &Path) -> io::Result<()> {
    let read_at = fs::metadata(drop_in)?.modified()?;
    // systemd ignores names that do not end in .conf.
    let new = drop_in.with_extension("conf.evenkeel");
    fs::write(&new, EMPTY_DROP_IN)?;
    let file = fs::OpenOptions::new().write(true).open(&new)?;
    // As systemd's own, which every user may read.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.set_modified(read_at)?;
    fs::rename(&new, drop_in)
}

fn remove(drop_in: &Path) -> io::Result<()> {
    fs::remove_file(drop_in)?;
    // Removes the folder if it is empty now, and fails without harm otherwise.
    if let Some(folder) = drop_in.parent() {
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

fn is_no_such_unit(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..) if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit")
}
