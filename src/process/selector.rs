//! Selectors: the conditions that processes must meet. Pure and three-valued, so that an unreadable value never
//! counts as "does not match" inside a `not`.

pub use super::pattern::{Part, Pattern};

use super::Cgroup;
use super::cgroup::unit_of;
use super::fields::{Process, ProcessFields};
use crate::labels::Labels;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// All conditions must match. A selector without conditions selects nothing.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    pub conditions: Vec<Condition>,
}

/// Tolerance for comparing the start of a process, known to a clock tick, with that of an alert, by its sender's clock.
const START_TOLERANCE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub enum Condition {
    /// `comm`, at most 15 bytes.
    Name(Pattern),
    /// Arguments joined by one space.
    Cmdline(Pattern),
    /// Path of the executable, without the kernel's ` (deleted)`.
    Exe(Pattern),
    /// Name or uid of the effective user.
    User(Pattern),
    /// Path of the cgroup v2 group.
    Cgroup(Pattern),
    /// Name of the systemd unit.
    Unit(Pattern),
    /// Decimal process id.
    Pid(Pattern),
    /// Started no later than this on CLOCK_BOOTTIME, the start of the alert whose label has the pid. A process that
    /// started later has a reused pid.
    StartedBy(Duration),
    MinAge(Duration),
    /// Resident bytes.
    MinMemory(u64),
    /// Processor cores, averaged over at least 5 s.
    MinCpu(f64),
    /// A process group of the configuration.
    Group {
        name: String,
        selector: Arc<Selector>,
    },
    Not(Selector),
}

impl Condition {
    /// The pattern of a condition that has one.
    pub fn pattern(&self) -> Option<&Pattern> {
        match self {
            Condition::Name(pattern)
            | Condition::Cmdline(pattern)
            | Condition::Exe(pattern)
            | Condition::User(pattern)
            | Condition::Cgroup(pattern)
            | Condition::Unit(pattern)
            | Condition::Pid(pattern) => Some(pattern),
            _ => None,
        }
    }
}

/// The result of a condition for a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelectorMatch {
    Holds,
    /// The key that failed, with the value found.
    Fails(Mismatch),
    /// The field is unreadable, or depends on a label that the alert lacks. Such a process is never selected.
    Unknown(Mismatch),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    pub key: &'static str,
    pub wanted: String,
    pub found: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: wants {}, found {}", self.key, self.wanted, self.found)
    }
}

impl Condition {
    /// The key in the rule file.
    pub fn key(&self) -> &'static str {
        match self {
            Condition::Name(_) => "name",
            Condition::Cmdline(_) => "cmdline",
            Condition::Exe(_) => "exe",
            Condition::User(_) => "user",
            Condition::Cgroup(_) => "cgroup",
            Condition::Unit(_) => "unit",
            Condition::Pid(_) | Condition::StartedBy(_) => "pid",
            Condition::MinAge(_) => "min_age",
            Condition::MinMemory(_) => "min_memory",
            Condition::MinCpu(_) => "min_cpu",
            Condition::Group { .. } => "group",
            Condition::Not(_) => "not",
        }
    }

    /// The fields beyond `/proc/PID/stat` that the condition needs.
    pub fn needs(&self) -> ProcessFields {
        match self {
            Condition::Name(_)
            | Condition::Pid(_)
            | Condition::StartedBy(_)
            | Condition::MinAge(_)
            | Condition::MinMemory(_) => ProcessFields::empty(),
            Condition::MinCpu(_) => ProcessFields::CPU,
            Condition::Cmdline(_) => ProcessFields::CMDLINE,
            Condition::Exe(_) => ProcessFields::EXE,
            Condition::User(_) => ProcessFields::USER,
            Condition::Cgroup(_) | Condition::Unit(_) => ProcessFields::CGROUP,
            Condition::Group { selector, .. } => selector.needs(),
            Condition::Not(selector) => selector.needs(),
        }
    }

    fn judge(&self, process: &Process) -> SelectorMatch {
        let details = &process.details;
        match self {
            Condition::Name(pattern) => self.judge_text(pattern, Some(&process.name)),
            Condition::Pid(pattern) => self.judge_text(pattern, Some(&process.identity.pid.to_string())),
            Condition::Cmdline(pattern) => self.judge_text(pattern, details.cmdline.as_deref()),
            Condition::Exe(pattern) => self.judge_text(pattern, details.exe.as_deref()),
            Condition::Cgroup(pattern) => self.judge_text(pattern, details.cgroup.as_deref()),
            // A process without a unit has an empty unit name, which only `.*` matches.
            Condition::Unit(pattern) => {
                let unit = details.cgroup.as_deref().map(|path| unit_of(path).unwrap_or_default());
                self.judge_text(pattern, unit)
            }
            Condition::User(pattern) => match (&details.uid, &details.user) {
                (Some(uid), _) if pattern.is_match(&uid.to_string()) => SelectorMatch::Holds,
                // Users whose names are listed were looked up before, so this is another one.
                (Some(_), None) if details.has_unknown_user && pattern.listed().is_none() => {
                    SelectorMatch::Unknown(self.mismatch(pattern.to_string(), "a name not looked up in time".into()))
                }
                (Some(uid), None) => self.judge_text(pattern, Some(&uid.to_string())),
                (_, user) => self.judge_text(pattern, user.as_deref()),
            },
            Condition::StartedBy(latest) => {
                let late = process.born_at.saturating_sub(*latest);
                if late <= START_TOLERANCE {
                    return SelectorMatch::Holds;
                }
                let found = format!("a process that started {:.1} s after the alert", late.as_secs_f64());
                SelectorMatch::Fails(self.mismatch("a process that is older than the alert".into(), found))
            }
            Condition::MinAge(least) => self.at_least(process.age >= *least, least, &process.age),
            Condition::MinMemory(least) => {
                let (least, found) = (*least, process.resident_bytes);
                self.at_least(found >= least, &in_mib(least), &in_mib(found))
            }
            Condition::MinCpu(least) => self.judge_cpu(*least, process.cpu_cores),
            Condition::Group { name, selector } => self.judge_group(name, selector.judge(process)),
            Condition::Not(selector) => self.judge_not(selector.judge(process)),
        }
    }

    /// Evaluates the condition for a cgroup, which has only a path, a unit, and its use of memory and processors.
    fn judge_cgroup(&self, cgroup: &Cgroup) -> SelectorMatch {
        match self {
            Condition::Cgroup(pattern) => self.judge_text(pattern, Some(&cgroup.path)),
            Condition::Unit(pattern) => self.judge_text(pattern, Some(cgroup.unit().unwrap_or_default())),
            Condition::MinMemory(least) => match cgroup.memory_bytes {
                Some(found) => self.at_least(found >= *least, &in_mib(*least), &in_mib(found)),
                None => SelectorMatch::Unknown(self.mismatch("memory".into(), "no memory controller".into())),
            },
            Condition::MinCpu(least) => self.judge_cpu(*least, cgroup.cpu_cores),
            Condition::Group { name, selector } => self.judge_group(name, selector.judge_cgroup(cgroup)),
            Condition::Not(selector) => self.judge_not(selector.judge_cgroup(cgroup)),
            Condition::Name(_)
            | Condition::Cmdline(_)
            | Condition::Exe(_)
            | Condition::User(_)
            | Condition::Pid(_)
            | Condition::StartedBy(_)
            | Condition::MinAge(_) => {
                SelectorMatch::Unknown(self.mismatch("a process".into(), "a cgroup, which has none".into()))
            }
        }
    }

    fn judge_cpu(&self, least: f64, found: Option<f64>) -> SelectorMatch {
        match found {
            Some(cores) => self.at_least(cores >= least, &least, &cores),
            None => SelectorMatch::Unknown(self.mismatch(format!("at least {least}"), "not measured yet".into())),
        }
    }

    fn judge_group(&self, name: &str, inner: SelectorMatch) -> SelectorMatch {
        let of_group = |inner: Mismatch| self.mismatch(name.to_owned(), inner.to_string());
        match inner {
            SelectorMatch::Holds => SelectorMatch::Holds,
            SelectorMatch::Fails(inner) => SelectorMatch::Fails(of_group(inner)),
            SelectorMatch::Unknown(inner) => SelectorMatch::Unknown(of_group(inner)),
        }
    }

    fn judge_not(&self, inner: SelectorMatch) -> SelectorMatch {
        match inner {
            SelectorMatch::Holds => SelectorMatch::Fails(self.mismatch("none of it".into(), "all of it".into())),
            SelectorMatch::Fails(_) => SelectorMatch::Holds,
            unknown @ SelectorMatch::Unknown(_) => unknown,
        }
    }

    fn judge_text(&self, pattern: &Pattern, found: Option<&str>) -> SelectorMatch {
        match (found, pattern) {
            (_, Pattern::Template(_)) => {
                SelectorMatch::Unknown(self.mismatch(pattern.to_string(), "no such label on the alert".into()))
            }
            (None, _) => SelectorMatch::Unknown(self.mismatch(pattern.to_string(), "something unreadable".into())),
            (Some(text), _) if pattern.is_match(text) => SelectorMatch::Holds,
            (Some(text), _) => SelectorMatch::Fails(self.mismatch(pattern.to_string(), format!("{text:?}"))),
        }
    }

    fn at_least(&self, holds: bool, least: &dyn fmt::Debug, found: &dyn fmt::Debug) -> SelectorMatch {
        if holds {
            return SelectorMatch::Holds;
        }
        SelectorMatch::Fails(self.mismatch(format!("at least {least:?}"), format!("{found:?}")))
    }

    fn mismatch(&self, wanted: String, found: String) -> Mismatch {
        Mismatch {
            key: self.key(),
            wanted,
            found,
        }
    }

    fn resolve(&self, labels: &Labels) -> Condition {
        // A pattern with a missing label stays a template, which selects nothing.
        let fill = |pattern: &Pattern| pattern.resolve(labels).unwrap_or_else(|| pattern.clone());
        match self {
            Condition::Name(pattern) => Condition::Name(fill(pattern)),
            Condition::Cmdline(pattern) => Condition::Cmdline(fill(pattern)),
            Condition::Exe(pattern) => Condition::Exe(fill(pattern)),
            Condition::User(pattern) => Condition::User(fill(pattern)),
            Condition::Cgroup(pattern) => Condition::Cgroup(fill(pattern)),
            Condition::Unit(pattern) => Condition::Unit(fill(pattern)),
            Condition::Pid(pattern) => Condition::Pid(fill(pattern)),
            Condition::Not(selector) => Condition::Not(selector.resolve(labels)),
            Condition::StartedBy(_)
            | Condition::MinAge(_)
            | Condition::MinMemory(_)
            | Condition::MinCpu(_)
            | Condition::Group { .. } => self.clone(),
        }
    }
}

/// Formats bytes to a tenth of a MiB, so that wanted and found values differ visibly.
fn in_mib(bytes: u64) -> impl fmt::Debug {
    fmt::from_fn(move |f| write!(f, "{:.1} MiB", bytes as f64 / f64::from(1 << 20)))
}

impl Selector {
    /// Fills in the labels of an alert.
    pub fn resolve(&self, labels: &Labels) -> Selector {
        Selector {
            conditions: self
                .conditions
                .iter()
                .map(|condition| condition.resolve(labels))
                .collect(),
        }
    }

    /// The labels that the selector uses and an alert lacks, so that it selects nothing.
    pub fn missing_labels<'s>(&'s self, labels: &Labels) -> Vec<&'s str> {
        let mut missing = Vec::new();
        for condition in &self.conditions {
            let names = match condition {
                Condition::Not(selector) => selector.missing_labels(labels),
                _ => {
                    let names = condition.pattern().into_iter().flat_map(Pattern::labels);
                    names.filter(|name| labels.get(name).is_none()).collect()
                }
            };
            missing.extend(
                names
                    .into_iter()
                    .filter(|name| !missing.contains(name))
                    .collect::<Vec<_>>(),
            );
        }
        missing
    }

    /// Fills in the labels of an alert that started at this time of CLOCK_BOOTTIME. A pid from a label selects the
    /// process that had it then.
    pub fn resolve_at(&self, labels: &Labels, began_at: Duration) -> Selector {
        let mut resolved = self.resolve(labels);
        let is_from_label = |condition: &Condition| matches!(condition, Condition::Pid(Pattern::Template(_)));
        if self.conditions.iter().any(is_from_label) {
            resolved.conditions.push(Condition::StartedBy(began_at));
        }
        resolved
    }

    /// The mismatch of a process that got the alert's pid after the alert's start; `None` for all others.
    pub fn reused_number(&self, process: &Process) -> Option<Mismatch> {
        let is_start = |condition: &&Condition| matches!(condition, Condition::StartedBy(_));
        let SelectorMatch::Fails(why) = self.conditions.iter().find(is_start)?.judge(process) else {
            return None;
        };
        let cheap = self.conditions.iter().filter(|condition| condition.needs().is_empty());
        let mut others = cheap.filter(|condition| !is_start(condition));
        others
            .all(|condition| condition.judge(process) == SelectorMatch::Holds)
            .then_some(why)
    }

    /// The users that the selector lists by name.
    pub fn users(&self) -> Vec<&str> {
        let mut users = Vec::new();
        for condition in &self.conditions {
            match condition {
                Condition::User(pattern) => users.extend(pattern.listed().into_iter().flatten()),
                Condition::Not(selector) => users.extend(selector.users()),
                Condition::Group { selector, .. } => users.extend(selector.users()),
                _ => {}
            }
        }
        users
    }

    /// The pid of the only possible process, if the selector names one.
    pub fn only_pid(&self) -> Option<i32> {
        self.conditions.iter().find_map(|condition| match condition {
            Condition::Pid(pattern) => pattern.number(),
            _ => None,
        })
    }

    /// Whether the selector has a condition on the systemd unit.
    pub fn needs_unit(&self) -> bool {
        self.conditions
            .iter()
            .any(|condition| matches!(condition, Condition::Unit(_)))
    }

    /// The fields that all conditions need.
    pub fn needs(&self) -> ProcessFields {
        self.conditions
            .iter()
            .fold(ProcessFields::empty(), |needs, condition| needs | condition.needs())
    }

    /// Evaluates all conditions. An unresolved or unreadable field makes the result `Unknown` unless another one fails.
    pub fn judge(&self, process: &Process) -> SelectorMatch {
        self.judge_some(process, |_| true)
    }

    /// Evaluates all conditions for a cgroup.
    pub fn judge_cgroup(&self, cgroup: &Cgroup) -> SelectorMatch {
        self.fold(|condition| condition.judge_cgroup(cgroup), |_| true)
    }

    /// Evaluates only the conditions on `/proc/PID/stat`, so that expensive files are read for few processes.
    pub fn judge_cheaply(&self, process: &Process) -> SelectorMatch {
        self.judge_known(process, ProcessFields::empty())
    }

    /// Evaluates only the conditions on these fields and on `/proc/PID/stat`.
    pub fn judge_known(&self, process: &Process, known: ProcessFields) -> SelectorMatch {
        let known = known | ProcessFields::CPU;
        self.judge_some(process, |condition| known.contains(condition.needs()))
    }

    fn judge_some(&self, process: &Process, wanted: impl Fn(&Condition) -> bool) -> SelectorMatch {
        self.fold(|condition| condition.judge(process), wanted)
    }

    fn fold(&self, judge: impl Fn(&Condition) -> SelectorMatch, wanted: impl Fn(&Condition) -> bool) -> SelectorMatch {
        let mut answer = SelectorMatch::Holds;
        if self.conditions.is_empty() {
            let nothing = Mismatch {
                key: "select",
                wanted: "a condition".into(),
                found: "none".into(),
            };
            return SelectorMatch::Fails(nothing);
        }
        for condition in self.conditions.iter().filter(|condition| wanted(condition)) {
            match judge(condition) {
                SelectorMatch::Holds => {}
                fails @ SelectorMatch::Fails(_) => return fails,
                unknown @ SelectorMatch::Unknown(_) => answer = unknown,
            }
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fields::Process;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn selects(conditions: Vec<Condition>, process: &Process) -> bool {
        Selector { conditions }.judge(process) == SelectorMatch::Holds
    }

    fn fixed(text: &str) -> Pattern {
        Pattern::fixed(text).unwrap()
    }

    #[test]
    fn unknown_name_of_a_user_fails_a_list_and_no_expression() {
        let mut process = Process::example(7, "x");
        process.details.uid = Some(1000);
        process.details.has_unknown_user = true;
        let judge = |text: &str| Condition::User(fixed(text)).judge(&process);
        assert_eq!(judge("1000"), SelectorMatch::Holds);
        assert!(matches!(judge("root|app"), SelectorMatch::Fails(_)));
        assert!(matches!(judge("app-.*"), SelectorMatch::Unknown(_)));
        let not = |text: &str| {
            let conditions = vec![Condition::User(fixed(text))];
            vec![Condition::Not(Selector { conditions })]
        };
        assert!(selects(not("root"), &process) && !selects(not("app-.*"), &process));
        let conditions = [not("root|app"), vec![Condition::User(fixed("alice"))]].concat();
        assert_eq!(Selector { conditions }.users(), ["root", "app", "alice"]);
    }

    #[test]
    fn patterns_are_anchored_and_match_newlines() {
        let process = Process::example(7, "x264");
        assert!(selects(vec![Condition::Name(fixed("ffmpeg|x264"))], &process));
        assert!(!selects(vec![Condition::Name(fixed("x26"))], &process));
        let mut long = process.clone();
        long.details.cmdline = Some("a\nb --batch c".into());
        assert!(selects(vec![Condition::Cmdline(fixed(".* --batch .*"))], &long));
    }

    #[test]
    fn label_text_is_literal_and_a_missing_label_selects_nothing() {
        let process = Process::example(7, "x264");
        let by_label = Selector {
            conditions: vec![Condition::Name(Pattern::Template(vec![Part::Label("comm".into())]))],
        };
        assert_eq!(
            by_label.resolve(&labels(&[("comm", "x264")])).judge(&process),
            SelectorMatch::Holds
        );
        for other in [labels(&[("comm", ".*")]), labels(&[("comm", "")]), labels(&[])] {
            assert_ne!(
                by_label.resolve(&other).judge(&process),
                SelectorMatch::Holds,
                "{other:?}"
            );
        }
    }

    #[test]
    fn negation_does_not_select_unreadable_fields() {
        let process = Process::example(7, "x264");
        let not_root = Condition::Not(Selector {
            conditions: vec![Condition::User(fixed("root"))],
        });
        assert!(!selects(vec![not_root], &process));
        let missing = Selector {
            conditions: vec![Condition::Pid(Pattern::Template(vec![Part::Label("pid".into())]))],
        };
        let not_label = Selector {
            conditions: vec![Condition::Name(fixed("x264")), Condition::Not(missing)],
        };
        assert_ne!(not_label.resolve(&labels(&[])).judge(&process), SelectorMatch::Holds);
    }

    #[test]
    fn memory_is_shown_in_mib() {
        let mut process = Process::example(7, "x264");
        process.resident_bytes = 3 << 19;
        let selector = Selector {
            conditions: vec![Condition::MinMemory(200 << 20)],
        };
        let SelectorMatch::Fails(why) = selector.judge(&process) else {
            panic!("1.5 MiB are less than 200")
        };
        assert_eq!(why.to_string(), "min_memory: wants at least 200.0 MiB, found 1.5 MiB");
    }

    #[test]
    fn selector_names_the_only_process_it_can_match() {
        let with = |text: &str| Selector {
            conditions: vec![Condition::MinMemory(1), Condition::Pid(Pattern::fixed(text).unwrap())],
        };
        assert_eq!(with("4711").only_pid(), Some(4711));
        for text in ["47..", "4711|4712", "(4711)", "4711.?", ""] {
            assert_eq!(with(text).only_pid(), None, "{text}");
        }
        let labelled = Selector {
            conditions: vec![Condition::Pid(Pattern::Template(vec![Part::Label("pid".into())]))],
        };
        assert_eq!(labelled.only_pid(), None);
        let labels = Labels::from([("pid", "4711")]);
        assert_eq!(labelled.resolve(&labels).only_pid(), Some(4711));
        assert_eq!(Selector { conditions: Vec::new() }.only_pid(), None);
    }

    #[test]
    fn no_condition_selects_nothing() {
        assert!(!selects(Vec::new(), &Process::example(7, "x264")));
    }
}
