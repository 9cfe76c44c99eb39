//! The flags of collectors, as node_exporter spells them. evenkeel accepts every flag of node_exporter, so that its unit
//! files keep working, and logs a warning about those without an effect.

use super::duration;
use super::node_exporter_flags::{
    EXCLUSIVE, FORMER, MISSING, NO_COLLECTOR, OPTIONS, SWITCHES, UNUSED, is_ours, is_switch, suggestion,
};
use crate::alert::go_regex::{self, PatternError};
use crate::sense::{
    BACKEND_LABELS, COLLECTORS, CollectorOptions, EventGroup, InvalidPerfOption, InvalidSysctl, NameFilter, Sysctl,
};
use crate::yaml::DurationError;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::time::Duration;

/// The collectors and options that the flags choose.
#[derive(Debug, Clone, Default)]
pub struct CollectorFlags {
    pub enabled: BTreeSet<String>,
    pub disabled: BTreeSet<String>,
    /// `--collector.disable-defaults`.
    pub disable_defaults: bool,
    pub options: CollectorOptions,
    /// Warnings about flags: what has no use in evenkeel, and what has a newer name.
    pub warnings: Vec<String>,
    /// The options with a value, by their present names, with the names that were used.
    given: BTreeMap<String, String>,
    seen: usize,
}

/// What is wrong with a flag of a collector.
#[derive(Debug, thiserror::Error)]
pub enum FlagError {
    #[error("--{flag} needs a value")]
    NoValue { flag: String },
    #[error("--{flag} takes no value{}", no_form(.flag))]
    ValueOfSwitch { flag: String },
    #[error("--{flag} and --{other} exclude each other")]
    Exclusive { flag: String, other: String },
    #[error("--{flag}: {source}")]
    Pattern { flag: String, source: PatternError },
    #[error("--{flag}: {source}")]
    Duration { flag: String, source: DurationError },
    #[error("--{flag}: a timeout must be longer than 0s")]
    NoTimeout { flag: String },
    #[error("--{flag}: {source}")]
    Sysctl { flag: String, source: InvalidSysctl },
    #[error("--{flag}: {source}")]
    Perf { flag: String, source: InvalidPerfOption },
    #[error("--{flag}: {value:?} is not a label of a backend; the labels are {}", BACKEND_LABELS.join(", "))]
    BackendLabel { flag: String, value: String },
    #[error("there is no flag --{flag}{}", did_you_mean(.suggestion))]
    Unknown { flag: String, suggestion: Option<String> },
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    let text = |flag| format!("; did you mean --{flag}?");
    suggestion.as_ref().map(text).unwrap_or_default()
}

/// How to switch off what a flag switches on.
fn no_form(flag: &str) -> String {
    match flag.starts_with("no-") {
        true => String::new(),
        false => format!("; --no-{flag} switches it off"),
    }
}

impl CollectorFlags {
    pub fn is_empty(&self) -> bool {
        self.seen == 0
    }

    /// The collectors that are on.
    pub fn chosen(&self) -> BTreeSet<&'static str> {
        COLLECTORS
            .iter()
            .filter(|info| {
                let by_default = info.default_on && !self.disable_defaults;
                (by_default || self.enabled.contains(info.name)) && !self.disabled.contains(info.name)
            })
            .map(|info| info.name)
            .collect()
    }

    fn take(&mut self, name: &str, value: Option<String>) -> Result<(), FlagError> {
        self.seen += 1;
        if let Some((_, newer)) = FORMER.iter().find(|(former, _)| *former == name) {
            self.warnings.push(format!("--{name} is now called --{newer}"));
            return self.take_option(newer, name, value);
        }
        let positive = name.strip_prefix("no-").unwrap_or(name);
        let is_unused = UNUSED.iter().any(|(unused, _)| *unused == positive);
        if value.is_some() && is_switch(positive) && (is_unused || is_known_switch(positive)) {
            return Err(FlagError::ValueOfSwitch { flag: name.to_owned() });
        }
        if let Some((_, reason)) = UNUSED.iter().find(|(unused, _)| *unused == positive) {
            self.warnings.push(format!("--{name} has no effect: {reason}"));
            return Ok(());
        }
        if SWITCHES.contains(&positive) {
            self.set_switch(positive, positive == name);
            return Ok(());
        }
        if OPTIONS.contains(&name) {
            return self.take_option(name, name, value);
        }
        self.choose_collector(name)
    }

    /// An option with a value, which was given under this or a former name.
    fn take_option(&mut self, name: &str, given_as: &str, value: Option<String>) -> Result<(), FlagError> {
        let exclusive = |other: &str| FlagError::Exclusive {
            flag: given_as.to_owned(),
            other: other.to_owned(),
        };
        match self.given.get(name) {
            Some(before) if before != given_as => return Err(exclusive(before)),
            _ => {}
        }
        // An empty pattern is none.
        if value.as_ref().is_some_and(|value| !value.is_empty()) {
            self.given.insert(name.to_owned(), given_as.to_owned());
        }
        for (one, other) in EXCLUSIVE {
            let opposite = match name {
                name if name == one => other,
                name if name == other => one,
                _ => continue,
            };
            if let Some(other) = self.given.get(opposite).filter(|_| self.given.contains_key(name)) {
                return Err(exclusive(other));
            }
        }
        self.set_option(name, value)
    }

    /// A switch of an option.
    fn set_switch(&mut self, name: &str, is_on: bool) {
        let options = &mut self.options;
        let disabled = name.strip_prefix("collector.perf.disable-");
        if let Some(group) = disabled.and_then(perf_group) {
            options.perf.group_mut(group).is_disabled = is_on;
        }
        match name {
            "collector.bcache.priorityStats" => options.bcache_priority_stats = is_on,
            "collector.cpu.guest" => options.cpu.has_guest = is_on,
            "collector.cpu.info" => options.cpu.has_info = is_on,
            "collector.interrupts.include-zeros" => options.interrupts_without_zeros = !is_on,
            "collector.netclass.ignore-invalid-speed" => options.netclass_ignores_invalid_speed = is_on,
            "collector.netclass.netlink" => options.netclass_netlink = is_on,
            "collector.netclass_rtnl.with-stats" => options.netclass_statistics = is_on,
            "collector.netdev.address-info" => options.netdev.has_addresses = is_on,
            "collector.netdev.enable-detailed-metrics" => options.netdev.is_detailed = is_on,
            "collector.netdev.label-ifalias" => options.netdev.has_aliases = is_on,
            "collector.pcidevice.names" => options.pci_names.are_wanted = is_on,
            "collector.rapl.enable-zone-label" => options.rapl_zone_label = is_on,
            "collector.stat.softirq" => options.stat_softirqs = is_on,
            "collector.systemd.enable-restarts-metrics" => options.systemd.restarts = is_on,
            "collector.systemd.enable-start-time-metrics" => options.systemd.start_times = is_on,
            "collector.systemd.enable-task-metrics" => options.systemd.tasks = is_on,
            _ => {}
        }
    }

    fn set_option(&mut self, name: &str, value: Option<String>) -> Result<(), FlagError> {
        let flag = || name.to_owned();
        let text = || value.clone().ok_or_else(|| FlagError::NoValue { flag: flag() });
        let wrong_pattern = |source| FlagError::Pattern { flag: flag(), source };
        let regex = || go_regex::unanchored(&text()?).map_err(wrong_pattern);
        let wrong_perf = |source| FlagError::Perf { flag: flag(), source };
        // An empty pattern is none, as in node_exporter; as a regular expression it would match every name.
        let filter = || Ok(Some(regex()?).filter(|pattern| !pattern.as_str().is_empty()));
        let whole = || go_regex::anchored(&text()?).map_err(wrong_pattern);
        let sysctl =
            |is_text| Sysctl::parse(&text()?, is_text).map_err(|source| FlagError::Sysctl { flag: flag(), source });
        let options = &mut self.options;
        if let Some(group) = name.strip_prefix("collector.perf.").and_then(perf_group) {
            let (event, group_name) = (text()?, group.name());
            // node_exporter starts with an unknown name, too.
            if !options.perf.choose(group, event.clone()) {
                self.warnings
                    .push(format!("--{name}: there is no {group_name} event {event:?}"));
            }
            return Ok(());
        }
        let filters = [
            ("collector.arp.device-", &mut options.arp_devices),
            ("collector.ethtool.device-", &mut options.ethtool_devices),
            ("collector.hwmon.chip-", &mut options.hwmon_chips),
            ("collector.hwmon.sensor-", &mut options.hwmon_sensors),
            ("collector.infiniband.device-", &mut options.infiniband_devices),
            ("collector.interrupts.name-", &mut options.interrupts),
            ("collector.qdisc.device-", &mut options.qdisc_devices),
            ("collector.slabinfo.slabs-", &mut options.slabs),
        ];
        for (prefix, names) in filters {
            match name.strip_prefix(prefix) {
                Some("exclude") => names.exclude = filter()?,
                Some("include") => names.include = filter()?,
                _ => {}
            }
        }
        match name {
            "collector.diskstats.device-exclude" => options.diskstats_devices.exclude = filter()?,
            "collector.diskstats.device-include" => options.diskstats_devices = NameFilter::include(filter()?),
            "collector.netdev.device-exclude" => options.netdev_devices.exclude = filter()?,
            "collector.netdev.device-include" => options.netdev_devices = NameFilter::include(filter()?),
            "collector.filesystem.mount-points-exclude" => options.mount_points.exclude = filter()?,
            "collector.filesystem.mount-points-include" => options.mount_points = NameFilter::include(filter()?),
            "collector.filesystem.fs-types-exclude" => options.fs_types.exclude = filter()?,
            "collector.filesystem.fs-types-include" => options.fs_types = NameFilter::include(filter()?),
            "collector.filesystem.mount-timeout" => {
                options.mount_timeout = match duration::parse(&text()?) {
                    Ok(timeout) if timeout > Duration::ZERO => timeout,
                    Ok(_) => return Err(FlagError::NoTimeout { flag: flag() }),
                    Err(source) => return Err(FlagError::Duration { flag: flag(), source }),
                };
            }
            // Unit files leave the variable of a directory empty.
            "collector.textfile.directory" => options
                .textfile_directories
                .extend(Some(text()?).filter(|directory| !directory.is_empty())),
            "collector.netclass.ignored-devices" => options.netclass_devices.exclude = filter()?,
            "collector.powersupply.ignored-supplies" => options.power_supplies.exclude = filter()?,
            "collector.tapestats.ignored-devices" => options.tape_devices.exclude = filter()?,
            "collector.netstat.fields" => options.netstat_fields = regex()?,
            "collector.vmstat.fields" => options.vmstat_fields = regex()?,
            "collector.ethtool.metrics-include" => options.ethtool_counters = filter()?,
            "collector.qdisc.fixtures" => options.qdisc_fixtures = Some(text()?.into()),
            "collector.wifi.fixtures" => options.wifi_fixtures = Some(text()?.into()),
            "collector.pcidevice.idsfile" => options.pci_names.file = Some(text()?.into()),
            "collector.perf.cpus" => options.perf.set_cpus(&text()?).map_err(wrong_perf)?,
            "collector.perf.tracepoint" => options.perf.add_tracepoint(&text()?).map_err(wrong_perf)?,
            "collector.sysctl.include" => options.sysctls.push(sysctl(false)?),
            "collector.sysctl.include-info" => options.sysctls.push(sysctl(true)?),
            "collector.ipvs.backend-labels" => options.ipvs_backend_labels = backend_labels(name, &text()?)?,
            // Either pattern asks for the families of the processor, as in node_exporter.
            "collector.cpu.info.flags-include" => {
                options.cpu.flags = filter()?;
                options.cpu.has_info |= options.cpu.flags.is_some();
            }
            "collector.cpu.info.bugs-include" => {
                options.cpu.bugs = filter()?;
                options.cpu.has_info |= options.cpu.bugs.is_some();
            }
            "collector.systemd.unit-include" => options.systemd.units.include = Some(whole()?),
            "collector.systemd.unit-exclude" => options.systemd.units.exclude = Some(whole()?),
            _ => {}
        }
        Ok(())
    }

    /// `--collector.NAME` or `--no-collector.NAME`.
    fn choose_collector(&mut self, name: &str) -> Result<(), FlagError> {
        if name.strip_prefix("no-").unwrap_or(name) == DISABLE_DEFAULTS {
            self.disable_defaults = name == DISABLE_DEFAULTS;
            return Ok(());
        }
        let (set, collector) = match name.strip_prefix("no-collector.") {
            Some(collector) => (&mut self.disabled, collector),
            None => (&mut self.enabled, name.trim_start_matches("collector.")),
        };
        if COLLECTORS.iter().any(|info| info.name == collector) {
            set.insert(collector.to_owned());
        } else if let Some((_, reason)) = MISSING.iter().find(|(missing, _)| *missing == collector) {
            // One that is off loses nothing.
            if !name.starts_with("no-") {
                self.warnings.push(format!("--{name}: {NO_COLLECTOR}; {reason}"));
            }
        } else {
            return Err(FlagError::Unknown {
                flag: name.to_owned(),
                suggestion: suggestion(name),
            });
        }
        Ok(())
    }
}

const DISABLE_DEFAULTS: &str = "collector.disable-defaults";

/// Whether a name without `no-` is that of a switch or of a collector.
fn is_known_switch(name: &str) -> bool {
    let collector = name.strip_prefix("collector.").unwrap_or_default();
    SWITCHES.contains(&name)
        || name == DISABLE_DEFAULTS
        || COLLECTORS.iter().any(|info| info.name == collector)
        || MISSING.iter().any(|(missing, _)| *missing == collector)
}

/// The group of events of `hardware-profilers` and the like.
fn perf_group(name: &str) -> Option<EventGroup> {
    let group = name.strip_suffix("-profilers")?;
    EventGroup::ALL.into_iter().find(|known| known.name() == group)
}

/// The labels of a list that commas divide.
fn backend_labels(flag: &str, list: &str) -> Result<Vec<&'static str>, FlagError> {
    let names = list.split(',').filter(|name| !name.is_empty());
    let label = |name: &str| {
        let known = BACKEND_LABELS.into_iter().find(|known| *known == name);
        known.ok_or_else(|| FlagError::BackendLabel {
            flag: flag.to_owned(),
            value: name.to_owned(),
        })
    };
    names.map(label).collect()
}

/// Splits the arguments into the flags of collectors and the rest.
///
/// # Errors
/// When a flag is unknown, or has no value, or a value that is no valid pattern.
pub fn take_out(args: impl IntoIterator<Item = OsString>) -> Result<(Vec<OsString>, CollectorFlags), FlagError> {
    let mut flags = CollectorFlags::default();
    let mut rest = Vec::new();
    let mut args = args.into_iter().peekable();
    while let Some(arg) = args.next() {
        let flag = arg.to_str().and_then(|text| text.strip_prefix("--"));
        let Some(flag) = flag.filter(|flag| is_ours(flag)) else {
            rest.push(arg);
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            // `--collector.netdev.device-exclude PATTERN`
            None if !is_switch(flag) => {
                let next = args.next_if(|next| !next.to_string_lossy().starts_with("--"));
                (flag, next.map(|next| next.to_string_lossy().into_owned()))
            }
            None => (flag, None),
        };
        flags.take(name, value)?;
    }
    let chosen = flags.chosen();
    let has_statistics = flags.options.netclass_netlink && flags.options.netclass_statistics;
    if has_statistics && chosen.contains("netclass") && chosen.contains("netdev") {
        // Both have some of the counters.
        flags.disabled.insert("netdev".to_owned());
        flags.warnings.push(
            "--collector.netclass_rtnl.with-stats switches the collector netdev off; netclass has its counters"
                .to_owned(),
        );
    }
    // Frequencies of `/proc/cpuinfo` are those of the collector `cpufreq`.
    flags.options.cpu.has_frequency = flags.chosen().contains("cpufreq");
    Ok((rest, flags))
}

/// The part of `run --help` about collectors.
pub fn help() -> String {
    let mut text = String::from(
        "Collectors (--collector.NAME, --no-collector.NAME; node_exporter's include and exclude flags):\n",
    );
    for info in COLLECTORS {
        let off = if info.default_on { "" } else { " (off by default)" };
        text.push_str(&format!("  {:<19} {}{off}\n", info.name, info.help));
    }
    text
}

#[cfg(test)]
mod tests;
