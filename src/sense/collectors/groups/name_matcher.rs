//! A matcher of process-exporter's file, and the values that it and templates of names read of a process.

use super::name_template::{NameTemplate, NameValues, base_name};
use crate::process::pattern::named_captures;
use crate::process::proc_dir::OpenProcess;
use crate::process::user_names::UserNames;
use crate::process::{Process, ProcessFields};
use regex::Regex;
use std::collections::BTreeMap;
use std::time::Duration;

/// Maximum length of a name that a template made. A user chooses command lines, which can have 128 KiB.
const MAX_NAME_CHARS: usize = 1024;

/// An entry of `process_names`: all lists that it has must match.
#[derive(Debug, Clone)]
pub struct NameMatcher {
    /// One of these is the `comm` of the process.
    pub comms: Option<Vec<String>>,
    /// One of these is the first argument, or the file name of that where the entry has no slash.
    pub exes: Option<Vec<String>>,
    /// All of these match somewhere in the arguments, joined by blanks.
    pub cmdlines: Vec<Regex>,
    pub template: NameTemplate,
}

/// Whether a matcher matches a process, and the name of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Naming {
    Named(String),
    NoMatch,
    /// A value could not be read in time.
    Unknown,
}

/// The values of one process beyond its `Process`, each read once.
#[derive(Debug, Default)]
pub struct NameSources {
    arguments: Option<Vec<String>>,
    cgroups: Option<Vec<String>>,
}

/// Reads the values of one process.
pub struct NameReader<'r> {
    pub files: &'r OpenProcess,
    pub users: &'r mut UserNames,
    /// Unix time of the boot.
    pub booted_at: Duration,
    pub sources: NameSources,
}

impl NameReader<'_> {
    fn arguments(&mut self) -> &[String] {
        let files = self.files;
        self.sources
            .arguments
            .get_or_insert_with(|| files.arguments().unwrap_or_default())
    }

    /// The name of the group of a process; `None` where the name of its user was not looked up in time.
    pub fn name(
        &mut self,
        template: &NameTemplate,
        matches: &BTreeMap<String, String>,
        process: &mut Process,
    ) -> Option<String> {
        let needs = template.needs();
        let mut user = String::new();
        if needs.contains(ProcessFields::USER) {
            if process.details.uid.is_none() {
                self.files
                    .read_details(&mut process.details, ProcessFields::USER, self.users);
            }
            let details = &process.details;
            if details.has_unknown_user {
                return None;
            }
            let number = || details.uid.map(|uid| uid.to_string()).unwrap_or_default();
            user = details.user.clone().unwrap_or_else(number);
        }
        if needs.contains(ProcessFields::CGROUP) {
            let files = self.files;
            self.sources.cgroups.get_or_insert_with(|| files.cgroup_paths());
            if process.details.cgroup.is_none() {
                self.files
                    .read_details(&mut process.details, ProcessFields::CGROUP, self.users);
            }
        }
        if needs.contains(ProcessFields::CMDLINE) {
            self.arguments();
        }
        let name = template.render(&NameValues {
            comm: &process.name,
            arguments: self.sources.arguments.as_deref().unwrap_or_default(),
            user: &user,
            pid: process.identity.pid,
            started: self.booted_at + process.born_at,
            cgroups: self.sources.cgroups.as_deref().unwrap_or_default(),
            cgroup: process.details.cgroup.as_deref().unwrap_or_default(),
            matches,
        });
        Some(shortened(name))
    }

    /// The name that the first matching entry gives.
    pub fn first_name(&mut self, matchers: &[NameMatcher], process: &mut Process) -> Naming {
        for matcher in matchers {
            if let Some(matches) = matcher.matches(process, self) {
                let name = self.name(&matcher.template, &matches, process);
                return name.map_or(Naming::Unknown, Naming::Named);
            }
        }
        Naming::NoMatch
    }
}

fn shortened(mut name: String) -> String {
    if let Some((end, _)) = name.char_indices().nth(MAX_NAME_CHARS) {
        name.truncate(end);
    }
    name
}

impl NameMatcher {
    /// The name of the group, where it is the same for each process.
    pub fn fixed_name(&self) -> Option<String> {
        self.template.fixed_name().map(shortened)
    }

    /// What the named groups match, if the entry matches.
    fn matches(&self, process: &Process, reader: &mut NameReader) -> Option<BTreeMap<String, String>> {
        let has_comm = |comms: &Vec<String>| comms.contains(&process.name);
        if !self.comms.as_ref().is_none_or(has_comm) {
            return None;
        }
        let is_first = |exe: &str, first: &str| match exe.contains('/') {
            true => exe == first,
            false => exe == base_name(first),
        };
        if let Some(exes) = &self.exes {
            let first = reader.arguments().first()?;
            exes.iter().find(|exe| is_first(exe, first))?;
        }
        let mut matches = BTreeMap::new();
        if !self.cmdlines.is_empty() {
            let cmdline = reader.arguments().join(" ");
            for regex in &self.cmdlines {
                matches.extend(named_captures(regex, &cmdline)?);
            }
        }
        Some(matches)
    }
}
