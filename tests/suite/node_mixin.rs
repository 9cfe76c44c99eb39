//! The series that the alerts, recording rules and dashboards of node-mixin read: evenkeel has those of a Linux host,
//! with the labels that the expressions name.

use std::time::Duration;

use evenkeel::sense::names::may_be_published;

use crate::support::daemon::Home;
use crate::support::eventually;
use crate::support::metrics::Scrape;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Series with their required labels.
const EVERYWHERE: [(&str, &[&str]); 39] = [
    ("node_cpu_seconds_total", &["cpu=\"0\"", "mode=\"idle\""]),
    ("node_cpu_seconds_total", &["mode=\"iowait\""]),
    ("node_cpu_seconds_total", &["mode=\"steal\""]),
    ("node_disk_io_time_seconds_total", &["device=\""]),
    ("node_disk_io_time_weighted_seconds_total", &["device=\""]),
    ("node_disk_read_bytes_total", &["device=\""]),
    ("node_disk_written_bytes_total", &["device=\""]),
    ("node_exporter_build_info", &["version=\""]),
    ("node_filefd_allocated", &[]),
    ("node_filefd_maximum", &[]),
    (
        "node_filesystem_avail_bytes",
        &["fstype=\"", "mountpoint=\"", "device=\""],
    ),
    ("node_filesystem_files", &["fstype=\"", "mountpoint=\"", "device=\""]),
    (
        "node_filesystem_files_free",
        &["fstype=\"", "mountpoint=\"", "device=\""],
    ),
    ("node_filesystem_readonly", &["fstype=\"", "mountpoint=\"", "device=\""]),
    (
        "node_filesystem_size_bytes",
        &["fstype=\"", "mountpoint=\"", "device=\""],
    ),
    ("node_load1", &[]),
    ("node_load15", &[]),
    ("node_load5", &[]),
    ("node_memory_Buffers_bytes", &[]),
    ("node_memory_Cached_bytes", &[]),
    ("node_memory_MemAvailable_bytes", &[]),
    ("node_memory_MemFree_bytes", &[]),
    ("node_memory_MemTotal_bytes", &[]),
    ("node_memory_Slab_bytes", &[]),
    ("node_network_receive_bytes_total", &["device=\"lo\""]),
    ("node_network_receive_drop_total", &["device=\"lo\""]),
    ("node_network_receive_errs_total", &["device=\"lo\""]),
    ("node_network_receive_packets_total", &["device=\"lo\""]),
    ("node_network_transmit_bytes_total", &["device=\"lo\""]),
    ("node_network_transmit_drop_total", &["device=\"lo\""]),
    ("node_network_transmit_errs_total", &["device=\"lo\""]),
    ("node_network_transmit_packets_total", &["device=\"lo\""]),
    ("node_textfile_scrape_error", &[]),
    ("node_time_seconds", &[]),
    ("node_timex_maxerror_seconds", &[]),
    ("node_timex_offset_seconds", &[]),
    ("node_timex_sync_status", &[]),
    ("node_uname_info", &["nodename=\"", "sysname=\"Linux\""]),
    ("node_vmstat_pgmajfault", &[]),
];

/// Series of hardware and software that not every host has.
const IN_PLACES: [&str; 8] = [
    "node_bonding_active",
    "node_bonding_slaves",
    "node_md_disks",
    "node_md_disks_required",
    "node_nf_conntrack_entries",
    "node_nf_conntrack_entries_limit",
    "node_systemd_service_restart_total",
    "node_systemd_unit_state",
];

#[test]
fn series_of_the_mixin_are_published() {
    let home = Home::new("rules: []\n");
    let evenkeel = home.start(&[]);
    let missing = || -> Vec<String> {
        let series = Scrape::parse(&evenkeel.scrape_text()).series();
        let is_there = |(name, labels): &&(&str, &[&str])| {
            series.keys().any(|series| {
                let (found, between) = series.split_once('{').unwrap_or((series, ""));
                found == *name && labels.iter().all(|label| between.contains(label))
            })
        };
        let missing = EVERYWHERE.iter().filter(|wanted| !is_there(wanted));
        missing.map(|wanted| format!("{wanted:?}")).collect()
    };
    // Slow collectors may come after the first scrape.
    let mut last = Vec::new();
    eventually("all series of the mixin", TIMEOUT, || {
        let missing = missing();
        if missing != last {
            eprintln!("missing: {missing:?}");
            last.clone_from(&missing);
        }
        missing.is_empty().then_some(())
    });
    for name in IN_PLACES {
        assert!(may_be_published(name), "{name}");
    }
}

/// As docs/coming-from.md says: `local` gives own samples the job that the rules of the mixin select.
#[test]
fn rule_of_the_mixin_fires_with_its_job_in_local() {
    let home = Home::new(
        "rules: [{name: any, matchers: ['alertname=\"Any\"'], select: {name: none}, actions: [{nice: 5}]}]\n",
    );
    home.write(
        "mixin.yml",
        "groups: [{name: node-exporter, rules: [{alert: Any, expr: 'node_load1{job=\"node-exporter\"} >= 0'}]}]\n",
    );
    home.write(
        "evenkeel.yml",
        "rule_files: [rules/*.yml]\nalerting_rule_files: [mixin.yml]\nlocal: {job: node-exporter}\n",
    );
    let checked = home.evenkeel("check").output().expect("evenkeel runs");
    let said = String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && !said.contains("warning"), "{said}");
    let evenkeel = home.start(&[]);
    eventually("the alert to fire", TIMEOUT, || {
        (evenkeel.metric("evenkeel_alerts_firing", &[("source", "local")]) == 1.0).then_some(())
    });
}
