//! The flags of collectors, as node_exporter spells them. evenkeel accepts flags that it does not have and logs a
//! warning, so that a unit file of node_exporter keeps working.

use crate::sense::systemd::options::whole_name;
use crate::sense::{COLLECTORS, CollectorOptions, NameFilter};
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
    /// Flags without a meaning in evenkeel.
    pub ignored: Vec<String>,
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
        let flag = || name.to_owned();
        let pattern = || value.clone().ok_or_else(|| FlagError::NoValue { flag: flag() });
        let regex = || Regex::new(&pattern()?).map_err(|source| FlagError::Pattern { flag: flag(), source });
        // An empty pattern is none, as in node_exporter; as a regular expression it would match every name.
        let filter = || Ok(Some(regex()?).filter(|pattern| !pattern.as_str().is_empty()));
        let whole = || whole_name(&pattern()?).map_err(|source| FlagError::Pattern { flag: flag(), source });
        let options = &mut self.options;
        match name {
            "collector.disable-defaults" => self.disable_defaults = true,
            "collector.diskstats.device-exclude" | "collector.diskstats.ignored-devices" => {
                options.diskstats_devices.exclude = filter()?;
            }
            "collector.diskstats.device-include" => options.diskstats_devices = NameFilter::include(filter()?),
            "collector.netdev.device-exclude" => options.netdev_devices.exclude = filter()?,
            "collector.netdev.device-include" => options.netdev_devices = NameFilter::include(filter()?),
            "collector.filesystem.mount-points-exclude" => options.mount_points.exclude = filter()?,
            "collector.filesystem.fs-types-exclude" => options.fs_types.exclude = filter()?,
            "collector.filesystem.mount-timeout" => {
                options.mount_timeout = match parse_duration(&pattern()?) {
                    Ok(timeout) if timeout > Duration::ZERO => timeout,
                    Ok(_) => return Err(FlagError::NoTimeout { flag: flag() }),
                    Err(source) => return Err(FlagError::Duration { flag: flag(), source }),
                };
            }
            "collector.textfile.directory" => options.textfile_directories.push(pattern()?),
            "collector.arp.device-exclude" => options.arp_devices.exclude = filter()?,
            "collector.arp.device-include" => options.arp_devices.include = filter()?,
            "collector.netclass.ignored-devices" => options.netclass_devices.exclude = filter()?,
            "collector.netstat.fields" => options.netstat_fields = regex()?,
            "collector.systemd.unit-include" | "collector.systemd.unit-whitelist" => {
                options.systemd.units.include = Some(whole()?);
            }
            "collector.systemd.unit-exclude" | "collector.systemd.unit-blacklist" => {
                options.systemd.units.exclude = Some(whole()?);
            }
            "collector.systemd.enable-task-metrics" => options.systemd.tasks = true,
            "no-collector.systemd.enable-task-metrics" => options.systemd.tasks = false,
            "collector.systemd.enable-restarts-metrics" => options.systemd.restarts = true,
            "no-collector.systemd.enable-restarts-metrics" => options.systemd.restarts = false,
            "collector.systemd.enable-start-time-metrics" => options.systemd.start_times = true,
            "no-collector.systemd.enable-start-time-metrics" => options.systemd.start_times = false,
            "collector.vmstat.fields" => options.vmstat_fields = regex()?,
            _ => {
                let (set, collector) = match name.strip_prefix("no-collector.") {
                    Some(collector) => (&mut self.disabled, collector),
                    None => (&mut self.enabled, name.trim_start_matches("collector.")),
                };
                if COLLECTORS.iter().any(|info| info.name == collector) {
                    set.insert(collector.to_owned());
                } else {
                    self.ignored.push(format!("--{name}"));
                }
            }
        }
        Ok(())
    }
}

/// Whether a flag takes no value. Switches of whole collectors have no second dot.
fn is_switch(flag: &str) -> bool {
    let option = flag.trim_start_matches("no-");
    option.matches('.').count() == 1
        || option.starts_with("collector.systemd.enable-")
        || option == "collector.systemd.private"
}

/// Splits the arguments into the flags of collectors and the rest.
///
/// # Errors
/// When a flag has no value, or a value that is no valid pattern.
pub fn take_out(args: impl IntoIterator<Item = OsString>) -> Result<(Vec<OsString>, CollectorFlags), FlagError> {
    let mut flags = CollectorFlags::default();
    let mut rest = Vec::new();
    let mut args = args.into_iter().peekable();
    while let Some(arg) = args.next() {
        let flag = arg.to_str().and_then(|text| text.strip_prefix("--"));
        let Some(flag) = flag.filter(|flag| flag.starts_with("collector.") || flag.starts_with("no-collector.")) else {
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
    Ok((rest, flags))
}

/// The part of `run --help` about collectors.
pub fn help() -> String {
    let mut text = String::from(
        "Collectors (--collector.NAME, --no-collector.NAME; node_exporter's include and exclude flags):\n",
    );
    for info in COLLECTORS {
        let off = if info.default_on { "" } else { " (off by default)" };
        text.push_str(&format!("  {:<14} {}{off}\n", info.name, info.help));
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
        let line = "run --no-collector.cpu --collector.zfs --collector.netdev.device-exclude ^veth.* --enforce \
                    --collector.ntp.server=x --collector.filesystem.mount-timeout=2s --collector.textfile.directory /var/lib/metrics \
                    --collector.netclass.ignored-devices=^tap --collector.arp.device-exclude=^docker";
        let (rest, flags) = flags(line).unwrap();
        assert_eq!(rest, ["run", "--enforce"]);
        assert!(!flags.chosen().contains("cpu") && flags.chosen().contains("meminfo"));
        assert!(!flags.options.netdev_devices.allows("veth0") && flags.options.netdev_devices.allows("eth0"));
        assert_eq!(flags.options.textfile_directories, ["/var/lib/metrics"]);
        assert!(!flags.options.netclass_devices.allows("tap0") && !flags.options.arp_devices.allows("docker0"));
        assert_eq!(flags.options.mount_timeout, Duration::from_secs(2));
        assert_eq!(flags.ignored, ["--collector.zfs", "--collector.ntp.server"]);
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
        assert!(flags.chosen().contains("systemd") && flags.ignored.is_empty());
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
