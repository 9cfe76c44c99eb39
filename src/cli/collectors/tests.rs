//! Lines of flags and what is made of them.

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
            "--collector.sysctl.include=kernel/../x",
            "--collector.sysctl.include: \"kernel/../x\" is not the name of a setting such as fs.file-nr or \
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
        let value = match option {
            "collector.filesystem.mount-timeout" => "9s",
            "collector.perf.cpus" => "0-3",
            "collector.perf.tracepoint" => "sched:sched_switch",
            _ => "proto",
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
fn events_of_perf_are_chosen() {
    let line = "--collector.perf --collector.perf.disable-cache-profilers --collector.perf.cpus=0,2 \
                --collector.perf.software-profilers=PageFault --collector.perf.software-profilers=ContextSwitches \
                --collector.perf.tracepoint=sched:sched_switch";
    let (_, with) = flags(line).unwrap();
    let perf = &with.options.perf;
    assert!(with.chosen().contains("perf") && perf.cache.is_disabled && !perf.hardware.is_disabled);
    assert!(perf.software.wants("PageFault") && !perf.software.wants("ContextSwitch"));
    assert_eq!((perf.cpus.len(), perf.tracepoints.len()), (2, 1));
    assert_eq!(
        with.warnings,
        ["--collector.perf.software-profilers: there is no software event \"ContextSwitches\""]
    );
    for wrong in ["cpus=x", "tracepoint=sched", "disable-cache-profilers=true"] {
        assert!(flags(&format!("--collector.perf.{wrong}")).is_err(), "{wrong}");
    }
}

#[test]
fn statistics_of_netclass_replace_netdev() {
    let with_stats = "--collector.netclass_rtnl.with-stats";
    let (_, both) = flags(&format!("{with_stats} --collector.netclass.netlink")).unwrap();
    assert!(!both.chosen().contains("netdev") && both.warnings.len() == 1);
    for other in ["", "--collector.netclass.netlink --no-collector.netclass"] {
        let (_, flags) = flags(&format!("{with_stats} {other}")).unwrap();
        assert!(
            flags.chosen().contains("netdev") && flags.warnings.is_empty(),
            "{other}"
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
fn switch_takes_no_value() {
    for (line, expected) in [
        (
            "--collector.cpu=false",
            "--collector.cpu takes no value; --no-collector.cpu switches it off",
        ),
        ("--no-collector.cpu=true", "--no-collector.cpu takes no value"),
        (
            "--collector.ntp=true",
            "--collector.ntp takes no value; --no-collector.ntp switches it off",
        ),
        ("--no-collector.cpu.info=1", "--no-collector.cpu.info takes no value"),
        (
            "--collector.disable-defaults=",
            "--collector.disable-defaults takes no value; --no-collector.disable-defaults switches it off",
        ),
        (
            "--collector.netdev.netlink=false",
            "--collector.netdev.netlink takes no value; --no-collector.netdev.netlink switches it off",
        ),
    ] {
        assert_eq!(flags(line).unwrap_err().to_string(), expected);
    }
}

#[test]
fn defaults_can_be_kept() {
    let (_, with) = flags("--no-collector.disable-defaults").unwrap();
    assert!(!with.disable_defaults && with.chosen().contains("cpu"));
}

#[test]
fn include_and_exclude_of_the_same_names_are_refused() {
    for (line, expected) in [
        (
            "--collector.netdev.device-include=a --collector.netdev.device-exclude=b",
            "--collector.netdev.device-exclude and --collector.netdev.device-include exclude each other",
        ),
        (
            "--collector.filesystem.ignored-fs-types=a --collector.filesystem.fs-types-include=b",
            "--collector.filesystem.fs-types-include and --collector.filesystem.ignored-fs-types exclude each other",
        ),
        (
            "--collector.diskstats.ignored-devices=a --collector.diskstats.device-exclude=b",
            "--collector.diskstats.device-exclude and --collector.diskstats.ignored-devices exclude each other",
        ),
    ] {
        assert_eq!(flags(line).unwrap_err().to_string(), expected);
    }
    for fine in [
        "--collector.netdev.device-include=a --collector.netdev.device-include=b",
        "--collector.systemd.unit-include=a --collector.systemd.unit-exclude=b",
        "--collector.textfile.directory=a --collector.textfile.directory=b",
    ] {
        assert!(flags(fine).is_ok(), "{fine}");
    }
}

#[test]
fn patterns_are_those_of_go() {
    let line = r"--collector.netdev.device-exclude=^veth{ --collector.systemd.unit-exclude=.+\Q.scope\E \
                 --collector.diskstats.device-include=^sd\d$";
    let (_, flags) = flags(line).unwrap();
    let options = &flags.options;
    assert!(!options.netdev_devices.allows("veth{1") && options.netdev_devices.allows("veth1"));
    assert!(!options.systemd.units.allows("a.scope") && options.systemd.units.allows("axscope"));
    assert!(options.diskstats_devices.allows("sd1") && !options.diskstats_devices.allows("sd\u{661}"));
}

#[test]
fn values_are_those_of_node_exporter() {
    let line = "--collector.filesystem.mount-timeout=1.5s --collector.sysctl.include=net/ipv4/ip_forward \
                --collector.textfile.directory= --collector.textfile.directory=/var/lib/x";
    let (_, with) = flags(line).unwrap();
    assert_eq!(with.options.mount_timeout, Duration::from_millis(1500));
    assert_eq!(with.options.sysctls[0].path(), "sys/net/ipv4/ip_forward");
    assert_eq!(with.options.textfile_directories, ["/var/lib/x"]);
    for wrong in ["-1s", "0s", "1.5", "x"] {
        assert!(
            flags(&format!("--collector.filesystem.mount-timeout={wrong}")).is_err(),
            "{wrong}"
        );
    }
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
