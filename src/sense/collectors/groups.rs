//! `groups`: totals of named groups of processes, without a series per process: those of `process_groups`
//! (`evenkeel_group_*`) and those of process-exporter's configuration (`namedprocess_namegroup_*`). `process` reads the
//! processes; this file decides membership.

pub mod group;
pub mod name_matcher;
pub mod name_template;
mod account;
mod cpu_baselines;
mod exporter_families;
mod families;
mod membership;
mod tally;
mod totals;

use super::info::{CollectorInfo, Pace};
use super::stat::parse_boot_time;
use crate::family::Family;
use crate::host::linux::boot_time;
use crate::process::captures::captures;
use crate::process::cpu_baseline::CpuBaseline;
use crate::process::proc_dir::OpenProcess;
use crate::process::selector::SelectorMatch;
use crate::process::table::Procfs;
use crate::process::user_names::UserNames;
use crate::process::{Process, ProcessFields};
use crate::sense::runtime::idle_cache::IdleCache;
use crate::sense::runtime::kernel_file::{ReadError, read_record};
use crate::sense::runtime::roots::Roots;
use cpu_baselines::CpuBaselines;
use exporter_families::ScrapeErrors;
use group::{DEFAULT_METRICS, ExporterGroups, ExtraMetrics, Group, GroupConfig, Grouping, Groups};
use membership::{Membership, Memberships};
use name_matcher::{NameMatcher, NameReader, NameSources};
use std::sync::Arc;
use std::time::Duration;
use tally::{Bounds, Entry, Tally};
use totals::ExtraReading;

/// The published metrics.
const METRICS: &str = "\
    evenkeel_group_context_switches_total evenkeel_group_cpu_seconds_total evenkeel_group_major_page_faults_total \
    evenkeel_group_minor_page_faults_total evenkeel_group_oldest_start_time_seconds evenkeel_group_open_fds \
    evenkeel_group_overflow_processes evenkeel_group_processes evenkeel_group_proportional_bytes \
    evenkeel_group_proportional_swap_bytes evenkeel_group_read_bytes_total evenkeel_group_resident_bytes \
    evenkeel_group_states evenkeel_group_swap_bytes evenkeel_group_thread_context_switches_total \
    evenkeel_group_thread_count evenkeel_group_thread_cpu_seconds_total \
    evenkeel_group_thread_major_page_faults_total evenkeel_group_thread_minor_page_faults_total \
    evenkeel_group_thread_read_bytes_total evenkeel_group_thread_write_bytes_total evenkeel_group_threads \
    evenkeel_group_virtual_bytes evenkeel_group_worst_fd_ratio evenkeel_group_write_bytes_total \
    namedprocess_namegroup_context_switches_total namedprocess_namegroup_cpu_seconds_total \
    namedprocess_namegroup_major_page_faults_total namedprocess_namegroup_memory_bytes \
    namedprocess_namegroup_minor_page_faults_total namedprocess_namegroup_num_procs \
    namedprocess_namegroup_num_threads namedprocess_namegroup_oldest_start_time_seconds \
    namedprocess_namegroup_open_filedesc namedprocess_namegroup_read_bytes_total namedprocess_namegroup_states \
    namedprocess_namegroup_thread_context_switches_total namedprocess_namegroup_thread_count \
    namedprocess_namegroup_thread_cpu_seconds_total namedprocess_namegroup_thread_io_bytes_total \
    namedprocess_namegroup_thread_major_page_faults_total namedprocess_namegroup_thread_minor_page_faults_total \
    namedprocess_namegroup_threads_wchan namedprocess_namegroup_worst_fd_ratio \
    namedprocess_namegroup_write_bytes_total namedprocess_scrape_errors namedprocess_scrape_partial_errors \
    namedprocess_scrape_procread_errors";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "groups",
    Pace::IsolatedScrape,
    "process_groups of the configuration, and process-exporter's",
    METRICS,
    |options| {
        // Isolated, because the kernel may block a reader of a process.
        let mut groups = GroupsReader::new(Groups::clone(&options.process_groups));
        Box::new(move |roots| groups.read(roots))
    },
);

/// The metrics of process-exporter's groups.
const EXPORTER_METRICS: ProcessFields = DEFAULT_METRICS.union(ProcessFields::OPEN_FDS);

/// The groups of `process_groups`.
#[derive(Default)]
struct OwnGroups {
    tally: Tally,
    cpu_baselines: CpuBaselines,
}

impl OwnGroups {
    /// Adds a process to its groups, first to those that always exist.
    fn add(&mut self, joined: &[(&Group, Option<String>)], process: &Process, extra: &ExtraReading, bounds: &Bounds) {
        for (group, _) in joined.iter().filter(|(_, name)| name.is_none()) {
            self.tally.add_to_fixed(&group.name, process, extra, bounds);
        }
        for (group, name) in joined {
            if let Some(name) = name {
                self.tally.add_to_made(name, entry(group), process, extra, bounds);
            }
        }
    }
}

/// The groups of process-exporter's file.
#[derive(Default)]
struct FromFile {
    tally: Tally,
    memberships: Memberships,
    errors: ScrapeErrors,
}

/// The state between two reads.
pub struct GroupsReader {
    groups: Groups,
    /// The configuration of the last read.
    config: Arc<GroupConfig>,
    procfs: Option<Procfs>,
    own: OwnGroups,
    from_file: FromFile,
    users: UserNames,
    idle_cache: IdleCache,
}

impl GroupsReader {
    pub fn new(groups: Groups) -> Self {
        GroupsReader {
            groups,
            config: Arc::default(),
            procfs: None,
            own: OwnGroups::default(),
            from_file: FromFile::default(),
            users: UserNames::default(),
            idle_cache: IdleCache::default(),
        }
    }

    pub fn read(&mut self, roots: &Roots) -> Result<Vec<Family>, ReadError> {
        let config = self.groups.load_full();
        if !Arc::ptr_eq(&config, &self.config) {
            self.configure(&config);
            self.config = Arc::clone(&config);
        }
        if config.is_empty() {
            (self.own, self.from_file, self.idle_cache) = Default::default();
            return Ok(Vec::new());
        }
        let families = self.read_groups(&config, roots);
        self.from_file.errors.reads += u64::from(families.is_err());
        families
    }

    fn configure(&mut self, config: &GroupConfig) {
        let entries = config.groups.iter().map(|group| (group, entry(group)));
        let fixed: Vec<(&str, Entry)> = entries
            .filter(|(group, _)| group.template.is_none())
            .map(|(group, entry)| (group.name.as_str(), entry))
            .collect();
        let templates = config.groups.iter().filter(|group| group.template.is_some());
        let templates: Vec<Entry> = templates.map(entry).collect();
        self.own.tally.configure(&fixed, &templates);
        let is_same = match (&self.config.exporter, &config.exporter) {
            (Some(before), Some(now)) => before.is_same(now),
            _ => false,
        };
        // The entries of the file are matched in order, so that a change of one concerns all.
        if !is_same {
            let matchers = config.exporter.iter().flat_map(|file| &file.matchers);
            self.from_file = FromFile {
                tally: Tally::reserving(matchers.filter_map(NameMatcher::fixed_name).collect()),
                ..FromFile::default()
            };
        }
    }

    fn read_groups(&mut self, config: &GroupConfig, roots: &Roots) -> Result<Vec<Family>, ReadError> {
        let failed = |source| ReadError::io(&roots.procfs, source);
        let procfs = match &self.procfs {
            Some(procfs) => procfs,
            None => self.procfs.insert(Procfs::for_metrics(&roots.procfs)),
        };
        let booted_at = read_record(&roots.proc("stat"), parse_boot_time)?;
        let boot_now = boot_time();
        let bounds = bounds(&config.grouping);
        let file_bounds = Bounds {
            remove_empty: config
                .exporter
                .as_ref()
                .is_some_and(|file| file.options.remove_empty_groups),
            ..bounds
        };
        let needs_cpu = config
            .groups
            .iter()
            .any(|group| group.selector.needs().contains(ProcessFields::CPU));
        let mut baseline = CpuBaseline::take(&[], boot_now);
        let (own, from_file) = (&mut self.own, &mut self.from_file);
        own.tally.begin();
        from_file.tally.begin();
        from_file.memberships.begin();
        self.idle_cache.begin();
        let mut joined = Vec::with_capacity(config.groups.len());
        procfs
            .for_each_process(boot_now, |mut process, files| {
                let mut reader = NameReader {
                    files,
                    users: &mut self.users,
                    booted_at: Duration::from_secs_f64(booted_at),
                    sources: NameSources::default(),
                };
                if needs_cpu {
                    own.cpu_baselines.measure(&mut process, boot_now);
                    baseline.add(&process);
                }
                join_groups(config, &mut process, &mut reader, &mut joined);
                let membership = config.exporter.as_ref().map_or(Membership::None, |file| {
                    from_file.memberships.decide(&mut process, file, &mut reader)
                });
                let in_file = match (&config.exporter, membership) {
                    (Some(file), Membership::Group(name)) => Some((file, name)),
                    (_, Membership::Unknown) => {
                        from_file.errors.processes += 1;
                        None
                    }
                    _ => None,
                };
                let (mut metrics, mut extra) = (ProcessFields::empty(), ExtraMetrics::empty());
                for (group, _) in &joined {
                    metrics |= group.metrics;
                    extra |= group.extra;
                }
                if let Some((file, _)) = &in_file {
                    metrics |= EXPORTER_METRICS;
                    extra |= file.options.extra();
                }
                if !metrics.is_empty() {
                    self.idle_cache
                        .fill_usage(&mut process, files, metrics, boot_now, &mut self.users);
                }
                if joined.is_empty() && in_file.is_none() {
                    return;
                }
                let extra = ExtraReading::read(&process, files, extra, (procfs, boot_now));
                own.add(&joined, &process, &extra, &bounds);
                if let Some((file, name)) = in_file {
                    let entry = file_entry(file);
                    from_file
                        .tally
                        .add_to_made(&name, entry, &process, &extra, &file_bounds);
                }
            })
            .map_err(failed)?;
        if let Some(file) = &config.exporter {
            for (identity, name) in from_file.memberships.resolve() {
                // The process may have ended since.
                let Some(mut process) = procfs.read_process(identity.pid, boot_now) else {
                    continue;
                };
                let Ok(files) = OpenProcess::open(procfs, identity.pid) else {
                    continue;
                };
                if process.identity != identity {
                    continue;
                }
                self.idle_cache
                    .fill_usage(&mut process, &files, EXPORTER_METRICS, boot_now, &mut self.users);
                let extra = ExtraReading::read(&process, &files, file.options.extra(), (procfs, boot_now));
                let entry = file_entry(file);
                from_file
                    .tally
                    .add_to_made(&name, entry, &process, &extra, &file_bounds);
            }
        }
        if needs_cpu {
            own.cpu_baselines.update(baseline);
        }
        own.tally.finish(boot_now, &bounds);
        from_file.tally.finish(boot_now, &file_bounds);
        let partial = from_file.tally.groups().iter().map(|group| group.totals.incomplete);
        from_file.errors.partial += partial.sum::<u64>();
        Ok(self.families(config, booted_at))
    }

    fn families(&self, config: &GroupConfig, booted_at: f64) -> Vec<Family> {
        let (own, from_file) = (&self.own.tally, &self.from_file.tally);
        let grouping = &config.grouping;
        let mut families = Vec::new();
        if grouping.own_names {
            families.extend(families::families(own.groups(), booted_at));
        }
        let makes_names = config.exporter.is_some() || config.groups.iter().any(|group| group.template.is_some());
        if makes_names {
            let processes = own.overflow().union(from_file.overflow());
            families.push(families::overflow(processes.count()));
        }
        if grouping.exporter_names || config.exporter.is_some() {
            // A series must not occur twice, and the file is the authority for process-exporter's names.
            let beside = own.groups().iter().filter(|_| grouping.exporter_names);
            let beside = beside.filter(|group| !from_file.has(&group.name));
            families.extend(exporter_families::families(
                from_file.groups().iter().chain(beside),
                booted_at,
            ));
            families.extend(self.from_file.errors.families());
        }
        families
    }
}

fn bounds(grouping: &Grouping) -> Bounds {
    Bounds {
        groups: grouping.max_groups,
        thread_names: grouping.max_thread_names,
        remove_empty: grouping.remove_empty,
    }
}

fn entry(group: &Group) -> Entry<'_> {
    Entry {
        source: &group.name,
        metrics: group.metrics,
        extra: group.extra,
    }
}

fn file_entry(file: &ExporterGroups) -> Entry<'static> {
    Entry {
        source: "",
        metrics: EXPORTER_METRICS,
        extra: file.options.extra(),
    }
}

/// Finds the groups of `process_groups` to which a process belongs, with the names that templates make.
fn join_groups<'g>(
    config: &'g GroupConfig,
    process: &mut Process,
    reader: &mut NameReader,
    joined: &mut Vec<(&'g Group, Option<String>)>,
) {
    joined.clear();
    let mut known = ProcessFields::CPU;
    for group in &config.groups {
        if matches!(group.selector.judge_cheaply(process), SelectorMatch::Fails(_)) {
            continue;
        }
        let missing = group.selector.needs().difference(known);
        if !missing.is_empty() {
            reader.files.read_details(&mut process.details, missing, reader.users);
            known |= missing;
        }
        if group.selector.judge(process) != SelectorMatch::Holds {
            continue;
        }
        let Some(template) = &group.template else {
            joined.push((group, None));
            if config.grouping.first_match {
                return;
            }
            continue;
        };
        let matches = match template.matches().next() {
            Some(_) => captures(&group.selector, process),
            None => Default::default(),
        };
        let name = reader.name(template, &matches, process);
        // Without the name of its user, a process has no group until the next read.
        joined.extend(name.map(|name| (group, Some(name))));
        if config.grouping.first_match {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
