//! The flags of collectors, as node_exporter spells them. evenkeel accepts every flag of node_exporter, so that its unit
//! files keep working, and logs a warning about those without an effect.

use super::node_exporter_flags::{
    FORMER, MISSING, NO_COLLECTOR, OPTIONS, SWITCHES, UNUSED, is_ours, is_switch, suggestion,
};
use crate::sense::systemd::options::whole_name;
use crate::sense::{BACKEND_LABELS, COLLECTORS, CollectorOptions, InvalidSysctl, NameFilter, Sysctl};
use crate::yaml::{DurationError, parse_duration};
use regex::Regex;
use std::collections::BTreeSet;
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
    seen: usize,
}

/// What is wrong with a flag of a collector.
#[derive(Debug, thiserror::Error)]
pub enum FlagError {
    #[error("--{flag} needs a value")]
    NoValue { flag: String },
    #[error("--{flag}: {source}")]
    Pattern { flag: String, source: regex::Error },
    #[error("--{flag}: {source}")]
    Duration { flag: String, source: DurationError },
    #[error("--{flag}: a timeout must be longer than 0s")]
    NoTimeout { flag: String },
    #[error("--{flag}: {source}")]
    Sysctl { flag: String, source: InvalidSysctl },
    #[error("--{flag}: {value:?} is not a label of a backend; the labels are {}", BACKEND_LABELS.join(", "))]
    BackendLabel { flag: String, value: String },
    #[error("there is no flag --{flag}{}", did_you_mean(.suggestion))]
    Unknown { flag: String, suggestion: Option<String> },
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    let text = |flag| format!("; did you mean --{flag}?");
    suggestion.as_ref().map(text).unwrap_or_default()
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
            return self.take(newer, value);
        }
        let positive = name.strip_prefix("no-").unwrap_or(name);
        if let Some((_, reason)) = UNUSED.iter().find(|(unused, _)| *unused == positive) {
            self.warnings.push(format!("--{name} has no effect: {reason}"));
            return Ok(());
        }
        if SWITCHES.contains(&positive) {
            self.set_switch(positive, positive == name);
            return Ok(());
        }
        if OPTIONS.contains(&name) {
            return self.set_option(name, value);
        }
        self.choose_collector(name)
    }

    /// A switch of an option.
    fn set_switch(&mut self, name: &str, is_on: bool) {
        let options = &mut self.options;
        match name {
            "collector.bcache.priorityStats" => options.bcache_priority_stats = is_on,
            "collector.cpu.guest" => options.cpu.has_guest = is_on,
            "collector.cpu.info" => options.cpu.has_info = is_on,
            "collector.interrupts.include-zeros" => options.interrupts_without_zeros = !is_on,
            "collector.netclass.ignore-invalid-speed" => options.netclass_ignores_invalid_speed = is_on,
            "collector.netclass.netlink" => options.netclass_netlink = is_on,
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
        let regex = || Regex::new(&text()?).map_err(|source| FlagError::Pattern { flag: flag(), source });
        // An empty pattern is none, as in node_exporter; as a regular expression it would match every name.
        let filter = || Ok(Some(regex()?).filter(|pattern| !pattern.as_str().is_empty()));
        let whole = || whole_name(&text()?).map_err(|source| FlagError::Pattern { flag: flag(), source });
        let sysctl =
            |is_text| Sysctl::parse(&text()?, is_text).map_err(|source| FlagError::Sysctl { flag: flag(), source });
        let options = &mut self.options;
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
                options.mount_timeout = match parse_duration(&text()?) {
                    Ok(timeout) if timeout > Duration::ZERO => timeout,
                    Ok(_) => return Err(FlagError::NoTimeout { flag: flag() }),
                    Err(source) => return Err(FlagError::Duration { flag: flag(), source }),
                };
            }
            "collector.textfile.directory" => options.textfile_directories.push(text()?),
            "collector.netclass.ignored-devices" => options.netclass_devices.exclude = filter()?,
            "collector.powersupply.ignored-supplies" => options.power_supplies.exclude = filter()?,
            "collector.tapestats.ignored-devices" => options.tape_devices.exclude = filter()?,
            "collector.netstat.fields" => options.netstat_fields = regex()?,
            "collector.vmstat.fields" => options.vmstat_fields = regex()?,
            "collector.ethtool.metrics-include" => options.ethtool_counters = filter()?,
            "collector.qdisc.fixtures" => options.qdisc_fixtures = Some(text()?.into()),
            "collector.wifi.fixtures" => options.wifi_fixtures = Some(text()?.into()),
            "collector.pcidevice.idsfile" => options.pci_names.file = Some(text()?.into()),
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
        if name == "collector.disable-defaults" {
            self.disable_defaults = true;
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
mod tests {
    use super::*;

    fn flags(line: &str) -> Result<(Vec<String>, CollectorFlags), FlagError> {
        let (rest, flags) = take_out(line.split_whitespace().map(OsString::from))?;
        Ok((rest.into_iter().map(|arg| arg.into_string().unwrap()).collect(), flags))
    }

    #[test]
    fn flags_of_a_node_exporter_unit_file_are_accepted() {
        let line = "run --no-collector.cpu --collector.ntp --collector.netdev.device-exclude ^veth.* --enforce \
                    --collector.ntp.server=x --no-collector.perf --web.disable-exporter-metrics --collector.filesystem.mount-timeout=2s --collector.textfile.directory /var/lib/metrics \
                    --collector.netclass.ignored-devices=^tap --collector.arp.device-exclude=^docker";
        let (rest, flags) = flags(line).unwrap();
        assert_eq!(rest, ["run", "--enforce"]);
        assert!(!flags.chosen().contains("cpu") && flags.chosen().contains("meminfo"));
        assert!(!flags.options.netdev_devices.allows("veth0") && flags.options.netdev_devices.allows("eth0"));
        assert_eq!(flags.options.textfile_directories, ["/var/lib/metrics"]);
        assert!(!flags.options.netclass_devices.allows("tap0") && !flags.options.arp_devices.allows("docker0"));
        assert_eq!(flags.options.mount_timeout, Duration::from_secs(2));
        assert_eq!(
            flags.warnings,
            [
                "--collector.ntp: evenkeel has no such collector; timex shows the state of the clock",
                "--collector.ntp.server has no effect: evenkeel has no such collector",
                "--web.disable-exporter-metrics has no effect: --no-collector.process leaves out process_*",
            ]
        );
    }

    #[test]
    fn former_names_are_mapped_with_a_warning() {
        let line = "--collector.filesystem.ignored-mount-points=^/x --collector.filesystem.ignored-fs-types ^y \
                    --collector.netdev.device-blacklist=^lo$ --collector.systemd.unit-whitelist=ssh.*";
        let (_, flags) = flags(line).unwrap();
        let options = &flags.options;
        assert!(!options.mount_points.allows("/x") && options.mount_points.allows("/proc"));
        assert!(!options.fs_types.allows("y") && !options.netdev_devices.allows("lo"));
        assert!(!options.systemd.units.allows("cron.service"));
        assert_eq!(
            flags.warnings[0],
            "--collector.filesystem.ignored-mount-points is now called --collector.filesystem.mount-points-exclude"
        );
        assert_eq!(flags.warnings.len(), 4);
    }

    #[test]
    fn misspelt_flags_are_refused_with_a_suggestion() {
        for (line, expected) in [
            (
                "--collector.cpuu",
                "there is no flag --collector.cpuu; did you mean --collector.cpu?",
            ),
            (
                "--colector.cpu",
                "there is no flag --colector.cpu; did you mean --collector.cpu?",
            ),
            (
                "--no-colector.cpu",
                "there is no flag --no-colector.cpu; did you mean --no-collector.cpu?",
            ),
            (
                "--collector.netdev.device-exlude=x",
                "there is no flag --collector.netdev.device-exlude; did you mean --collector.netdev.device-exclude?",
            ),
            (
                "--no-collector.meminfos",
                "there is no flag --no-collector.meminfos; did you mean --no-collector.meminfo?",
            ),
            ("--collector.q=1", "there is no flag --collector.q"),
            (
                "--collector.sysctl.include=kernel/x",
                "--collector.sysctl.include: \"kernel/x\" is not the name of a setting such as fs.file-nr or \
                 fs.file-nr:total,current,max",
            ),
            (
                "--collector.ipvs.backend-labels=proto,port",
                "--collector.ipvs.backend-labels: \"port\" is not a label of a backend; the labels are local_address, \
                 local_port, remote_address, remote_port, proto, local_mark",
            ),
        ] {
            assert_eq!(flags(line).unwrap_err().to_string(), expected, "{line}");
        }
    }

    #[test]
    fn every_option_and_switch_has_an_effect_or_a_reason() {
        let default = format!("{:?}", CollectorOptions::default());
        for option in OPTIONS {
            let value = if option.ends_with("mount-timeout") {
                "9s"
            } else {
                "proto"
            };
            let (_, flags) = flags(&format!("--{option}={value}")).unwrap();
            assert_ne!(format!("{:?}", flags.options), default, "{option}");
        }
        for switch in SWITCHES {
            let both = ["", "no-"].map(|no| flags(&format!("--{no}{switch}")).unwrap().1);
            let is_unused = UNUSED.iter().any(|(unused, _)| *unused == switch);
            let differ = format!("{:?}", both[0].options) != format!("{:?}", both[1].options);
            assert!(
                differ != is_unused && both.iter().all(|flags| flags.warnings.is_empty() != is_unused),
                "{switch}"
            );
        }
    }

    #[test]
    fn patterns_on_the_processor_ask_for_its_families() {
        let (_, with) = flags("--collector.cpu.info.flags-include=^avx --no-collector.cpufreq").unwrap();
        assert!(with.options.cpu.has_info && !with.options.cpu.has_frequency);
        let (_, without) = flags("--no-collector.cpu.info --no-collector.cpu.guest").unwrap();
        assert!(!without.options.cpu.has_info && without.options.cpu.has_frequency && !without.options.cpu.has_guest);
        assert!(without.chosen().contains("cpu"));
    }

    #[test]
    fn empty_pattern_selects_and_excludes_nothing() {
        let line = "--collector.netdev.device-include=^eth --collector.netdev.device-exclude= \
                    --collector.diskstats.device-exclude= --collector.arp.device-include= \
                    --collector.filesystem.mount-points-exclude= --collector.filesystem.fs-types-exclude= \
                    --collector.netclass.ignored-devices= --collector.systemd.unit-exclude=";
        let (_, flags) = flags(line).unwrap();
        let options = &flags.options;
        assert!(options.netdev_devices.allows("eth0") && !options.netdev_devices.allows("lo"));
        assert!(options.diskstats_devices.allows("loop0") && options.arp_devices.allows("eth0"));
        assert!(options.mount_points.allows("/proc") && options.fs_types.allows("proc"));
        assert!(options.netclass_devices.allows("eth0") && options.systemd.units.allows("ssh.service"));
    }

    #[test]
    fn systemd_switches_have_no_value() {
        let line = "--collector.systemd --collector.systemd.enable-task-metrics run --collector.systemd.unit-include ssh.* \
                    --no-collector.systemd.enable-restarts-metrics x";
        let (rest, flags) = flags(line).unwrap();
        assert_eq!(rest, ["run", "x"]);
        let options = &flags.options.systemd;
        assert!(options.tasks && !options.restarts && !options.start_times);
        assert!(options.units.allows("sshd.service") && !options.units.allows("my-ssh.service"));
        assert!(
            !options.units.allows("ssh.slice"),
            "what is left out by default stays left out"
        );
        assert!(flags.chosen().contains("systemd") && flags.warnings.is_empty());
    }

    #[test]
    fn defaults_can_be_switched_off() {
        let (_, flags) = flags("--collector.disable-defaults --collector.cpu").unwrap();
        assert_eq!(flags.chosen().into_iter().collect::<Vec<_>>(), ["cpu"]);
    }

    #[test]
    fn wrong_patterns_are_refused() {
        assert!(
            flags("--collector.vmstat.fields=(")
                .unwrap_err()
                .to_string()
                .contains("vmstat")
        );
        assert!(
            flags("--collector.netdev.device-include")
                .unwrap_err()
                .to_string()
                .contains("needs a value")
        );
    }
}
