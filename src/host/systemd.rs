//! The client of systemd over D-Bus. A limit of a unit is set as a runtime property, because systemd drops values in
//! the files of its cgroups at the next `daemon-reload`.
//!
//! A runtime property leaves a drop-in below `/run/systemd`, which outlives the unit's cgroup and overrides the unit
//! file until the next boot. So a revert writes the former value, and then a drop-in that assigns nothing, or removes
//! the drop-in if there was none before. `RevertUnitFiles` does not work here, because it also removes the
//! administrator's overrides in `/etc`.

use super::Standing;
use super::limit::{Device, Setting};
use super::unit::{self, Property, UnitState};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant};

const BUS: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// systemd answers within milliseconds; freezing waits until a unit rests.
const TIMEOUT: Duration = Duration::from_secs(3);
/// One that did not answer is left alone this long, because the engine waits for it and has other work, and what could
/// not be undone is tried again.
const RESPITE: Duration = Duration::from_secs(10);
/// Where drop-ins of properties that were set at runtime are: of units that have a file, and of transient ones
/// (systemd.unit(5), "Unit File Load Path").
const RUNTIME_FOLDERS: [&str; 2] = ["/run/systemd/system.control", "/run/systemd/transient"];

/// What stays of a drop-in. systemd keeps a list of those that it has read, and shows `NeedDaemonReload=yes` for a unit while
/// one of the list is missing or newer than when it was read.
const EMPTY_DROP_IN: &str = "\
# evenkeel had set a limit here and has put back what was there before. This file assigns nothing: without it systemd would
# ask for a daemon-reload. It may be deleted, and is gone after the next boot.
";

/// Whether systemd is the init of this host (sd_booted(3)).
pub fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A connection to the system bus that is made when it is first needed, and again after it broke.
pub struct Systemd {
    runtime: tokio::runtime::Runtime,
    connection: Option<Connection>,
    silent_until: Option<Instant>,
}

impl Systemd {
    /// # Errors
    /// When the kernel gives no descriptors for waiting on sockets.
    pub fn new() -> io::Result<Systemd> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Systemd {
            runtime,
            connection: None,
            silent_until: None,
        })
    }

    /// The unit whose own cgroup has this path, with what these properties are now. `None` where systemd has no unit
    /// for exactly this cgroup, as below a unit that manages its own part of the tree.
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
        // One that is hidden by a persistent one counts as none: what it assigns has no effect.
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

    /// Sets what stands for a setting, until the next boot.
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

    /// Makes a unit what it was: its properties, and no drop-in that was not there before.
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

    /// Makes of a unit what it was for one device; what other devices have stays.
    ///
    /// # Errors
    /// As [`Systemd::restore`].
    pub fn restore_device(&mut self, state: &UnitState, device: Device) -> Result<(), zbus::Error> {
        match self.load(&state.unit, &state.properties)? {
            Some(live) => self.restore(&state.of_device(device, &live, device_number)),
            None => self.restore(state),
        }
    }

    /// Who changed what was set, where the file of the cgroup does not hold it any more. A reload makes properties from
    /// drop-ins, and a persistent one hides or overrides the one that was made at runtime (systemd#16592): then a property
    /// is what it was before, though the drop-in still has what was set.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    pub fn standing(&mut self, state: &UnitState, ours: &Setting) -> Result<Standing, zbus::Error> {
        let (setting, ours) = (ours, wanted(ours));
        let live = self.now(&state.unit, &ours)?;
        let mut standing = Standing::Overwritten;
        for (((name, ours), live), (_, former)) in ours.iter().zip(&live).zip(&state.properties) {
            if has_part(name, live, ours, setting) {
                continue;
            }
            let is_former = has_part(name, live, former, setting);
            if !is_former || drop_in_with(&state.unit, name, ours, setting).is_none() {
                return Ok(Standing::Changed);
            }
            standing = Standing::TakenBySystemd;
        }
        Ok(standing)
    }

    /// Takes what was set out of each property and drop-in of a unit that still has it, for what is `next` or, without
    /// that, for what was there before. What another program changed stays, and what other devices have. Returns false
    /// where another program changed what was set.
    ///
    /// # Errors
    /// As for restoring it.
    pub fn withdraw(&mut self, state: &UnitState, ours: &Setting, next: Option<&Setting>) -> Result<bool, zbus::Error> {
        let (setting, ours) = (ours, wanted(ours));
        // Setting a property writes its drop-in, so they are read first.
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
                // One that is hidden by another of its name would come back when that one goes.
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

    /// Freezes all processes of a unit, or lets them go on.
    ///
    /// # Errors
    /// When systemd cannot be asked, or refuses.
    pub fn freeze(&mut self, unit: &str, frozen: bool) -> Result<(), zbus::Error> {
        let method = if frozen { "FreezeUnit" } else { "ThawUnit" };
        self.call(MANAGER_PATH, MANAGER, method, &(unit,)).map(drop)
    }

    /// Takes what was made at runtime for a property out of force, with no need for a reload where there was none.
    fn clear_drop_ins(&mut self, unit: &str, property: &str) -> Result<(), zbus::Error> {
        for drop_in in drop_ins(unit, property).filter(|path| path.exists()) {
            match self.may_stay_empty(unit, property)? {
                true => empty(&drop_in)?,
                false => remove(&drop_in)?,
            }
        }
        Ok(())
    }

    /// Whether an empty drop-in avoids something: the unit is loaded, its files are as systemd has read them, and no
    /// drop-in of the same name would stay hidden.
    fn may_stay_empty(&mut self, unit: &str, property: &str) -> Result<bool, zbus::Error> {
        let object: OwnedObjectPath = match self.call(MANAGER_PATH, MANAGER, "GetUnit", &(unit,)) {
            Ok(message) => message.body().deserialize()?,
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

    /// What these properties of a unit are; `None` of one that systemd does not know any more. One that is not loaded is
    /// loaded, because its drop-ins wait for it.
    fn load(&mut self, unit: &str, properties: &[(String, Property)]) -> Result<Option<Vec<Property>>, zbus::Error> {
        match self.now(unit, properties) {
            Ok(now) => return Ok(Some(now)),
            Err(error) if is_no_such_unit(&error) => {}
            Err(error) => return Err(error),
        }
        // systemd unloads at once what nothing refers to, and loads it again for each question about its object.
        let object: OwnedObjectPath = self
            .call(MANAGER_PATH, MANAGER, "LoadUnit", &(unit,))?
            .body()
            .deserialize()?;
        let state = String::try_from(self.property(&object, "org.freedesktop.systemd1.Unit", "LoadState")?)?;
        match state == "loaded" {
            true => self.values(unit, &object, properties).map(Some),
            false => Ok(None),
        }
    }

    /// What these properties of a unit are now.
    fn now(&mut self, unit: &str, properties: &[(String, Property)]) -> Result<Vec<Property>, zbus::Error> {
        let object: OwnedObjectPath = self
            .call(MANAGER_PATH, MANAGER, "GetUnit", &(unit,))?
            .body()
            .deserialize()?;
        self.values(unit, &object, properties)
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
        // systemd lists drop-ins in the order in which it made them, and asks for a reload where it is not that of their names.
        let mut changed: Vec<_> = changed.iter().collect();
        changed.sort_by_key(|((name, _), _)| unit::drop_in_name(name));
        for ((name, wanted), now) in changed {
            // systemd adds to a list what it is given; only an empty one empties it.
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
        // A bus that takes connections and no more is as silent as one that does not answer.
        let answer = runtime.block_on(async { tokio::time::timeout(TIMEOUT, ask).await });
        let answer = answer.unwrap_or_else(|_| {
            let silence = format!("systemd did not answer within {} s", TIMEOUT.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, silence).into())
        });
        if let Err(zbus::Error::InputOutput(error)) = &answer {
            *connection = None;
            if error.kind() == io::ErrorKind::TimedOut {
                self.silent_until = Some(Instant::now() + RESPITE);
            }
        }
        answer
    }
}

/// The properties for a setting, devices under the names that they have here.
fn wanted(setting: &Setting) -> Vec<(String, Property)> {
    let named = |(number, limit): (String, u64)| (device_path(&number).unwrap_or(number), limit);
    unit::properties(setting)
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

/// Where a setting is about one device, what the others have now is wanted too.
fn beside_others(wanted: Vec<(String, Property)>, now: &[Property], setting: &Setting) -> Vec<(String, Property)> {
    let Setting::IoLimit(limit) = setting else {
        return wanted;
    };
    let merge = |((name, wanted), now): ((String, Property), &Property)| {
        (name, now.with_device(limit.device, &wanted, device_number))
    };
    wanted.into_iter().zip(now).map(merge).collect()
}

/// What a unit was before, where a setting is about one device with what the others have now.
fn with_others(former: &UnitState, now: &[Property], setting: &Setting) -> UnitState {
    match setting {
        Setting::IoLimit(limit) => former.of_device(limit.device, now, device_number),
        _ => former.clone(),
    }
}

/// Whether a property has what a setting is about as it was set: of a list of devices, the entry of one.
fn has_part(name: &str, found: &Property, set: &Property, setting: &Setting) -> bool {
    match setting {
        Setting::IoLimit(limit) => {
            found.limits_of(limit.device, device_number) == set.limits_of(limit.device, device_number)
        }
        _ => unit::is_same(name, found, set),
    }
}

/// Whether a drop-in has more than what was set on one device and what was there before.
fn is_needed_by_others(former: &UnitState, name: &str, in_file: &Property, setting: &Setting) -> bool {
    let is_of_device = matches!(setting, Setting::IoLimit(_));
    let rest = with_others(former, std::slice::from_ref(in_file), setting);
    is_of_device && rest.at_runtime.iter().any(|needed| needed == name)
}

/// The device that a path in a property leads to: systemd limits the disk that holds it.
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

/// `/dev/block/8:0` is a link that udev makes; where there is no udev, the kernel tells the name of the device.
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

/// What drop-ins that were made at runtime assign to a property.
fn in_drop_ins<'a>(unit: &'a str, property: &'a str) -> impl Iterator<Item = Property> + 'a {
    let texts = drop_ins(unit, property).filter_map(|path| fs::read_to_string(path).ok());
    texts.filter_map(move |text| unit::assigned(property, &text))
}

/// Whether a drop-in that was made at runtime assigns this to a property.
fn has_drop_in(unit: &str, property: &str, value: &Property) -> bool {
    in_drop_ins(unit, property).any(|found| unit::is_same(property, &found, value))
}

/// What a drop-in that was made at runtime assigns to a property, if that has what was set.
fn drop_in_with(unit: &str, property: &str, set: &Property, setting: &Setting) -> Option<Property> {
    in_drop_ins(unit, property).find(|found| has_part(property, found, set, setting))
}

/// Replaces a drop-in by one that assigns nothing, and is as old.
fn empty(drop_in: &Path) -> io::Result<()> {
    let read_at = fs::metadata(drop_in)?.modified()?;
    // systemd reads names that end in .conf.
    let new = drop_in.with_extension("conf.evenkeel");
    fs::write(&new, EMPTY_DROP_IN)?;
    fs::OpenOptions::new().write(true).open(&new)?.set_modified(read_at)?;
    fs::rename(&new, drop_in)
}

fn remove(drop_in: &Path) -> io::Result<()> {
    fs::remove_file(drop_in)?;
    // The folder goes with its last file; that others are in it is no fault.
    if let Some(folder) = drop_in.parent() {
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

fn is_no_such_unit(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..) if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit")
}
