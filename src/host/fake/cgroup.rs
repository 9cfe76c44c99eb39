//! A cgroup of the fake host, with the systemd unit that owns it: its files, the properties in systemd's memory, and the
//! drop-ins at runtime and on disk from which a reload reads them.

use crate::host::unit::{self, UnitState};
use crate::host::{Knob, LimitState, Reading, Value};
use crate::knob::CpuSet;
use crate::knob::limit::{CgroupFile, Device, IoKind, IoLimit, IoLimits, Limit, Property, Setting};
use std::collections::BTreeMap;

/// The limits of `io.max` in systemd's form: a list of devices for each kind.
pub type DeviceLimits = BTreeMap<IoKind, BTreeMap<Device, u64>>;

/// A cgroup with all controllers. Its members are the processes with its path.
#[derive(Debug, Clone, Default)]
pub struct FakeCgroup {
    pub inode: u64,
    pub settings: BTreeMap<CgroupFile, Setting>,
    pub is_frozen: bool,
    /// `memory.current`.
    pub memory_bytes: u64,
    /// The part of `memory_bytes` that the kernel can reclaim.
    pub reclaimable_bytes: u64,
    /// `cpuset.cpus`; `None` inherits those of the parent.
    pub cpus: Option<CpuSet>,
    /// The runtime properties of its unit, which the unit's next cgroup gets as well; `None` if no unit owns the
    /// cgroup.
    pub runtime: Option<BTreeMap<CgroupFile, Setting>>,
    /// The runtime properties for `io.max`.
    pub runtime_io: DeviceLimits,
    /// The persistent properties of the unit. After a reload they hide runtime properties.
    pub persistent: BTreeMap<CgroupFile, Setting>,
    /// The properties in systemd's memory: the last ones set, or those read at a later reload.
    pub live: BTreeMap<CgroupFile, Setting>,
    /// The persistent properties for `io.max`.
    pub persistent_io: DeviceLimits,
    pub live_io: DeviceLimits,
}

impl FakeCgroup {
    pub(super) fn new(inode: u64, is_unit: bool) -> FakeCgroup {
        FakeCgroup {
            inode,
            settings: CgroupFile::ALL.map(|file| (file, unlimited(file))).into(),
            runtime: is_unit.then(BTreeMap::new),
            ..FakeCgroup::default()
        }
    }

    fn io_limits(&mut self) -> &mut IoLimits {
        let setting = self.settings.entry(CgroupFile::IoMax);
        match setting.or_insert_with(|| Setting::IoMax(IoLimits::default())) {
            Setting::IoMax(limits) => limits,
            other => panic!("{other} in io.max"),
        }
    }

    /// The cgroup files that systemd writes from the properties in its memory.
    pub(super) fn write_live(&mut self) {
        self.settings = CgroupFile::ALL.map(|file| (file, unlimited(file))).into();
        self.settings.extend(self.live.clone());
        for (kind, devices) in self.live_io.clone() {
            for (device, limit) in devices {
                self.io_limits().put(device, kind, Limit(Some(limit)));
            }
        }
    }

    /// systemd writes changed entries of its list into the file, and leaves other devices unchanged.
    fn put_live_io(&mut self, kind: IoKind, devices: BTreeMap<Device, u64>) {
        let former = self.live_io.remove(&kind).unwrap_or_default();
        for device in former.keys().chain(devices.keys()) {
            let limit = Limit(devices.get(device).copied());
            self.io_limits().put(*device, kind, limit);
        }
        if !devices.is_empty() {
            self.live_io.insert(kind, devices);
        }
    }

    fn set_io(&mut self, limit: IoLimit, is_property: bool) {
        if !is_property || self.runtime.is_none() {
            return self.io_limits().put(limit.device, limit.kind, limit.limit);
        }
        let mut devices = self.live_io.get(&limit.kind).cloned().unwrap_or_default();
        match limit.limit.0 {
            Some(most) => drop(devices.insert(limit.device, most)),
            None => drop(devices.remove(&limit.device)),
        }
        self.runtime_io.insert(limit.kind, devices.clone());
        self.put_live_io(limit.kind, devices);
    }

    /// Restores the former limits of one device, as systemd does, and removes an unneeded drop-in.
    fn restore_io(&mut self, state: &UnitState, device: Device, kind: IoKind) {
        let now = [io_property(&self.live_io, kind)];
        let state = state.of_device(device, &now, unit::number_in);
        let Some((name, Property::Devices(entries))) = state.properties.first() else {
            return;
        };
        let number = |path: &str| unit::number_in(path).expect("the number of a device");
        let devices: BTreeMap<Device, u64> = entries.iter().map(|(path, limit)| (number(path), *limit)).collect();
        self.put_live_io(kind, devices.clone());
        match state.at_runtime.contains(name) {
            true => drop(self.runtime_io.insert(kind, devices)),
            false => drop(self.runtime_io.remove(&kind)),
        }
    }

    fn limit_state_io(&mut self, ours: IoLimit, state: &UnitState) -> LimitState {
        let IoLimit { device, kind, limit } = ours;
        if self.io_limits().get(device, kind) == limit {
            return LimitState::Holds;
        }
        let live = limit_in(&self.live_io, ours);
        if live == limit {
            return LimitState::Overwritten;
        }
        let former = state.properties.first();
        let former = former.map(|(_, former)| former.limits_of(device, unit::number_in));
        let is_former = former.is_some_and(|former| former.first().copied() == live.0);
        match is_former && limit_in(&self.runtime_io, ours) == limit {
            true => LimitState::ResetBySystemd,
            false => LimitState::Changed,
        }
    }

    /// Removes the limits of a device from the drop-in while systemd has others in memory.
    fn clear_hidden_io(&mut self, state: &UnitState, ours: IoLimit) {
        let IoLimit { device, kind, limit } = ours;
        let Some(devices) = self.runtime_io.get(&kind) else {
            return;
        };
        if devices.get(&device).copied() != limit.0 {
            return;
        }
        let rest = state.of_device(device, &[io_property(&self.runtime_io, kind)], unit::number_in);
        match rest.at_runtime.is_empty() {
            true => drop(self.runtime_io.remove(&kind)),
            false => drop(
                self.runtime_io
                    .insert(kind, self.live_io.get(&kind).cloned().unwrap_or_default()),
            ),
        }
    }

    /// The value of a knob, and the record of its unit; `None` without such a file.
    pub(super) fn read(&mut self, knob: Knob, unit: Option<&str>) -> Option<Reading> {
        let value = match knob {
            Knob::Io(device, kind) => {
                let limit = self.io_limits().get(device, kind);
                Value::Cgroup(Setting::IoLimit(IoLimit { device, kind, limit }))
            }
            Knob::Cgroup(file) => Value::Cgroup(self.settings.get(&file)?.clone()),
            Knob::Freeze => Value::Freeze(self.is_frozen),
            _ => return None,
        };
        let unit = unit.zip(self.runtime.as_ref()).map(|(unit, runtime)| {
            let (property, at_runtime) = match knob {
                Knob::Io(_, kind) => {
                    let name = (*kind.property()).to_owned();
                    let runtime = self.runtime_io.get(&kind);
                    let is_effective = runtime.is_some_and(|runtime| self.live_io.get(&kind) == Some(runtime));
                    let at_runtime = is_effective.then(|| name.clone());
                    (
                        (name, io_property(&self.live_io, kind)),
                        at_runtime.into_iter().collect(),
                    )
                }
                _ => {
                    let is_effective =
                        |(file, setting): &(&CgroupFile, &Setting)| self.live.get(file) == Some(*setting);
                    let effective = runtime.iter().filter(is_effective);
                    let at_runtime = effective.map(|(file, _)| file.as_str().to_owned()).collect();
                    // One property stands for the several that a real unit has.
                    ((self.live_text(knob), Property::Number(0)), at_runtime)
                }
            };
            UnitState {
                unit: unit.to_owned(),
                properties: vec![property],
                at_runtime,
            }
        });
        Some(Reading { value, unit })
    }

    /// The property behind a file in systemd's memory.
    fn live_text(&self, knob: Knob) -> String {
        let live = match knob {
            Knob::Cgroup(file) => self.live.get(&file),
            _ => None,
        };
        live.map_or(DEFAULT.to_owned(), Setting::to_string)
    }

    /// Writes a file, or the property of the unit behind it.
    pub(super) fn set(&mut self, setting: &Setting, is_property: bool) {
        if let Setting::IoLimit(limit) = setting {
            return self.set_io(*limit, is_property);
        }
        let (file, setting) = (setting.file(), setting.clone());
        if let Some(runtime) = self.runtime.as_mut().filter(|_| is_property) {
            runtime.insert(file, setting.clone());
            self.live.insert(file, setting.clone());
        }
        self.settings.insert(file, setting);
    }

    /// Restores the record of its unit behind a setting.
    pub(super) fn restore(&mut self, state: &UnitState, setting: &Setting) {
        match setting {
            Setting::IoLimit(limit) => self.restore_io(state, limit.device, limit.kind),
            _ => self.restore_file(state, setting.file()),
        }
    }

    /// Replaces `ours` in the record of its unit by `next` or the former value. False where another program changed it.
    pub(super) fn withdraw(&mut self, state: &UnitState, ours: &Setting, next: Option<&Setting>) -> bool {
        let file = ours.file();
        let is_ours = match ours {
            Setting::IoLimit(ours) => limit_in(&self.live_io, *ours) == ours.limit,
            _ => self.live.get(&file) == Some(ours),
        };
        match (is_ours, ours, next) {
            (true, _, Some(next)) if self.runtime.is_some() => self.set(next, true),
            (true, _, _) => self.restore(state, ours),
            (false, Setting::IoLimit(ours), _) => self.clear_hidden_io(state, *ours),
            (false, _, _) => {
                let runtime = self.runtime.iter_mut();
                runtime.for_each(|runtime| runtime.retain(|of, value| *of != file || value != ours));
            }
        }
        is_ours
    }

    pub(super) fn limit_state(&mut self, ours: &Setting, state: &UnitState) -> LimitState {
        if let Setting::IoLimit(ours) = ours {
            return self.limit_state_io(*ours, state);
        }
        let file = ours.file();
        if self.settings.get(&file) == Some(ours) {
            return LimitState::Holds;
        }
        if self.live.get(&file) == Some(ours) {
            return LimitState::Overwritten;
        }
        let live = self.live_text(Knob::Cgroup(file));
        let is_former = state.properties.iter().any(|(former, _)| *former == live);
        let is_on_record = self.runtime.as_ref().and_then(|runtime| runtime.get(&file)) == Some(ours);
        match is_former && is_on_record {
            true => LimitState::ResetBySystemd,
            false => LimitState::Changed,
        }
    }

    /// Restores the record of a unit. systemd writes the file where the property changes.
    fn restore_file(&mut self, state: &UnitState, file: CgroupFile) {
        let Some(runtime) = &mut self.runtime else { return };
        let former = state.properties.first().map(|(text, _)| Setting::parse(file, text));
        let former = former.and_then(Result::ok);
        let was_at_runtime = state.at_runtime.iter().any(|known| known == file.as_str());
        match former.clone().filter(|_| was_at_runtime) {
            Some(former) => drop(runtime.insert(file, former)),
            None => drop(runtime.remove(&file)),
        }
        let live = match former.clone() {
            Some(former) => self.live.insert(file, former),
            None => self.live.remove(&file),
        };
        if live != former {
            self.settings.insert(file, former.unwrap_or_else(|| unlimited(file)));
        }
    }
}

/// A property that was never set.
pub(super) const DEFAULT: &str = "default";

pub(super) fn unlimited(file: CgroupFile) -> Setting {
    Setting::parse(file, file.unlimited()).expect("the kernel's own default")
}

fn limit_in(limits: &DeviceLimits, of: IoLimit) -> Limit {
    Limit(
        limits
            .get(&of.kind)
            .and_then(|devices| devices.get(&of.device).copied()),
    )
}

fn io_property(limits: &DeviceLimits, kind: IoKind) -> Property {
    let named = |(device, limit): (&Device, &u64)| (format!("/dev/block/{device}"), *limit);
    Property::Devices(limits.get(&kind).into_iter().flatten().map(named).collect())
}
