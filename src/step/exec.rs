//! `exec`: runs a command, and the one that reverts it when the alert resolves. This file has the keys, the step as
//! data, its arguments and environment, and the meaning of its exit. Pure: `host` runs the command.

use super::allocate::lifecycle::pause;
use super::read::{read_template, read_timeout};
use super::step_type::{ReadStep, StepType};
use crate::diagnostic::{Findings, HostName, Span, printable};
use crate::host::job::{End, Report, Run};
use crate::labels::Labels;
use crate::ledger::{Command, Effect, Episode, Outcome, RetryState};
use crate::process::target::Targets;
use crate::schema::{Key, Kind, Object, optional, required};
use crate::template::{self, Segment, is_label_name};
use crate::yaml::{Content, Fields, Node, Text};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// Failures in a row after which a reverting command is given up, which takes about a quarter of an hour.
const MAX_UNDO_TRIES: u32 = 12;

pub const KEYS: &[Key] = &[optional(
    "exec",
    Kind::ListOr(&EXEC),
    "Run a command, once per episode. Irreversible unless it has an `undo`. Requires `allow_exec: true` in \
     the configuration.",
)];
pub const TARGETS: Targets = Targets::Host;

pub static EXEC: Object = Object::new(
    "a command",
    &[
        required(
            "argv",
            Kind::List(&Kind::Text),
            "Path of the program, and its arguments. No shell is involved.",
        ),
        optional(
            "undo",
            Kind::List(&Kind::Text),
            "The command that reverts it when the alert resolves.",
        ),
        optional(
            "timeout",
            Kind::Duration,
            "SIGTERM after this time, SIGKILL 5s later. Default 60s.",
        ),
        optional(
            "user",
            Kind::Text,
            "User that the command runs as. Default the user of evenkeel.",
        ),
        optional(
            "env",
            Kind::Texts,
            "Environment variables in addition to those of the alert. Values can contain labels.",
        ),
    ],
);

/// Programs that run the file that an argument names, without a version in their name.
const INTERPRETERS: &[&str] = &[
    "sh", "ash", "bash", "busybox", "dash", "ksh", "zsh", "env", "lua", "node", "perl", "php", "python", "ruby",
];

/// `exec:`.
#[derive(Debug, Clone, PartialEq)]
pub struct Exec {
    /// Each template fills one argument.
    pub argv: Vec<Vec<Segment>>,
    pub undo: Option<Vec<Vec<Segment>>>,
    pub timeout: Duration,
    pub user: Option<String>,
    pub env: BTreeMap<String, Vec<Segment>>,
    /// The path of the program as written.
    pub written: String,
}

impl Exec {
    /// The paths of the programs that it runs.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        let undo = self.undo.as_ref().and_then(|argv| argv.first());
        let undo = undo.and_then(|program| match program.as_slice() {
            [Segment::Text(path)] => Some(path.as_str()),
            _ => None,
        });
        std::iter::once(self.written.as_str()).chain(undo)
    }

    /// The paths of the scripts that its programs interpret, where no label fills them.
    pub fn scripts(&self) -> impl Iterator<Item = &str> {
        [Some(&self.argv), self.undo.as_ref()]
            .into_iter()
            .flatten()
            .filter_map(|argv| script_of(argv))
    }
}

/// The first argument of an interpreter that is an absolute path.
fn script_of(argv: &[Vec<Segment>]) -> Option<&str> {
    let mut arguments = argv.iter().map(|argument| match argument.as_slice() {
        [Segment::Text(text)] => text.as_str(),
        _ => "",
    });
    let program = arguments.next()?.rsplit('/').next()?;
    let name = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let is_interpreter = INTERPRETERS.contains(&name);
    arguments.find(|argument| is_interpreter && argument.starts_with('/'))
}

impl StepType for Arc<Exec> {
    fn is_final(&self) -> bool {
        self.undo.is_none()
    }

    fn is_lease(&self) -> bool {
        self.undo.is_some()
    }

    fn wants_resource(&self) -> bool {
        let arguments = self.argv.iter().chain(self.undo.iter().flatten());
        arguments
            .chain(self.env.values())
            .any(|pieces| pieces.contains(&Segment::Resource))
    }

    fn host_effect(
        &self,
        episode: &Episode,
        resource: Option<&str>,
        _: &dyn Fn() -> String,
    ) -> Option<Result<Effect, String>> {
        Some(plan(self, episode, resource).map(|command| Effect::Command(Box::new(command))))
    }

    fn preview(&self, episode: &Episode, resource: Option<&str>) -> Option<Result<String, String>> {
        Some(plan(self, episode, resource).map(|command| {
            let user = command.run.user.map_or(String::new(), |user| format!(" as {user}"));
            format!("would run {:?}{user}", command.run.argv)
        }))
    }

    fn is_command(&self) -> bool {
        true
    }
}

/// Without the arguments, which may contain secrets.
impl fmt::Display for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exec {}", self.written)
    }
}

pub(super) fn read(fields: &Fields, _: Span, findings: &mut Findings) -> Option<ReadStep> {
    let exec = read_exec(fields.get(KEYS[0].name)?, findings)?;
    Some(ReadStep::valid(Arc::new(exec)))
}

fn read_exec(node: &Node, findings: &mut Findings) -> Option<Exec> {
    let (argv, fields) = match &node.content {
        Content::Sequence(items) => (read_argv(items, node.span, findings), None),
        Content::Mapping(_) => {
            let fields = Fields::open(node, &EXEC, findings)?;
            let items = fields.list("argv", findings);
            // A missing list is reported already.
            let span = fields.get("argv")?.span;
            (read_argv(items, span, findings), Some(fields))
        }
        Content::Scalar { .. } => {
            let help = "no shell splits the line; write exec: [/usr/local/bin/notify, --now]";
            findings.error(node.span, "`exec` must be a list of arguments, or a mapping", help);
            return None;
        }
    };
    let (written, argv) = argv?;
    let mut exec = Exec {
        argv,
        undo: None,
        timeout: DEFAULT_TIMEOUT,
        user: None,
        env: BTreeMap::new(),
        written,
    };
    let Some(fields) = fields else { return Some(exec) };
    if let Some(node) = fields.get("undo") {
        let items = fields.list("undo", findings);
        exec.undo = Some(read_argv(items, node.span, findings)?.1);
    }
    if let Some(timeout) = read_timeout(&fields, findings) {
        exec.timeout = timeout;
    }
    exec.user = fields.text("user", findings).map(|user| {
        findings.refer(user.span, HostName::User(user.value.clone()));
        user.value
    });
    for (name, text) in fields.map_of_texts("env", findings) {
        if !template::is_label_name(&name) {
            let help = "letters, digits and `_`, no digit first";
            findings.error(
                text.span,
                format!("`{name}` is not a name of an environment variable"),
                help,
            );
        }
        exec.env.insert(name, read_template(&text, findings)?);
    }
    Some(exec)
}

/// The program as written, and each argument as a template.
fn read_argv(items: &[Node], span: Span, findings: &mut Findings) -> Option<(String, Vec<Vec<Segment>>)> {
    let texts: Vec<Text> = items
        .iter()
        .filter_map(|item| item.text("argv", &Kind::Text, findings))
        .collect();
    let Some(program) = texts.first().filter(|_| texts.len() == items.len()) else {
        if items.is_empty() {
            let help = "such as [/usr/local/bin/notify, --now]";
            findings.error(span, "a command without a program", help);
        }
        return None;
    };
    let argv: Option<Vec<Vec<Segment>>> = texts.iter().map(|text| read_template(text, findings)).collect();
    let argv = argv?;
    if !matches!(argv.first().map(Vec::as_slice), Some([Segment::Text(path)]) if path.starts_with('/')) {
        let help = "write the absolute path, without labels, because an alert must not choose the program";
        findings.error(
            program.span,
            format!("`{}` is not an absolute path of a program", program.value),
            help,
        );
        return None;
    }
    findings.refer(program.span, HostName::Program(program.value.clone()));
    Some((program.value.clone(), argv))
}

/// The effect of an exit.
#[derive(Debug, Clone, PartialEq)]
pub struct JobUpdate {
    /// The new state of the lease; `None` if it is over.
    pub command: Option<Command>,
    pub outcome: Outcome,
    pub reason: String,
    /// The end of its output.
    pub output: Option<String>,
    /// Whether the run was the reverting one.
    pub was_undo: bool,
}

/// The command of a step in an episode. `resource` is the grant of an earlier step.
///
/// # Errors
/// When a label is missing, or contains NUL.
pub fn plan(step: &Exec, episode: &Episode, resource: Option<&str>) -> Result<Command, String> {
    let run = |argv: &[Vec<Segment>], status: &str| -> Result<Run, String> {
        let argv = argv.iter().map(|pieces| argument(pieces, episode, resource));
        let mut env = environment(episode, status);
        if let Some(resource) = resource {
            env.insert("EVENKEEL_RESOURCE".to_owned(), resource.to_owned());
        }
        for (name, pieces) in &step.env {
            env.insert(name.clone(), argument(pieces, episode, resource)?);
        }
        if let Some((name, _)) = env.iter().find(|(_, value)| value.contains('\0')) {
            return Err(format!("the value of {name} contains NUL"));
        }
        Ok(Run {
            argv: argv.collect::<Result<_, _>>()?,
            env,
            user: step.user.clone(),
            timeout: step.timeout,
        })
    };
    Ok(Command {
        step: step.to_string(),
        run: run(&step.argv, "firing")?,
        undo: step.undo.as_ref().map(|argv| run(argv, "resolved")).transpose()?,
        has_ended: false,
        retry: RetryState::default(),
    })
}

/// The lines of an output, each safe on a terminal.
fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(printable).collect();
    lines.join("\n")
}

/// One argument. Its content needs no quoting, because no shell is involved.
fn argument(pieces: &[Segment], episode: &Episode, resource: Option<&str>) -> Result<String, String> {
    let filled = template::fill(pieces, &episode.labels, resource, str::to_owned);
    let text = filled.and_then(|pieces| template::text(&pieces));
    let text = text.map_err(|missing| missing.to_string())?;
    if text.contains('\0') {
        return Err("an argument contains NUL".to_owned());
    }
    Ok(text)
}

/// The alert as environment variables, with the names of prometheus-am-executor. An episode has one alert, so its group
/// has the labels of that alert.
fn environment(episode: &Episode, status: &str) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([
        ("AMX_RECEIVER".to_owned(), episode.key.rule.to_string()),
        ("AMX_STATUS".to_owned(), status.to_owned()),
        ("AMX_ALERT_LEN".to_owned(), "1".to_owned()),
        ("AMX_ALERT_1_STATUS".to_owned(), status.to_owned()),
        (
            "AMX_ALERT_1_START".to_owned(),
            episode.starts_at.as_second().to_string(),
        ),
        ("AMX_ALERT_1_END".to_owned(), "0".to_owned()),
        ("EVENKEEL_RULE".to_owned(), episode.key.rule.to_string()),
        ("EVENKEEL_FINGERPRINT".to_owned(), episode.key.fingerprint.to_string()),
    ]);
    let mut add = |prefix: &str, set: &Labels| {
        // Invalid names of variables, such as those with `=`, are left out.
        for (name, value) in set.iter().filter(|(name, _)| is_label_name(name)) {
            env.insert(format!("{prefix}{name}"), value.to_owned());
        }
    };
    for prefix in ["AMX_LABEL_", "AMX_GLABEL_", "AMX_ALERT_1_LABEL_"] {
        add(prefix, &episode.labels);
    }
    for prefix in ["AMX_ANNOTATION_", "AMX_ALERT_1_ANNOTATION_"] {
        add(prefix, &episode.annotations);
    }
    env
}

impl Command {
    /// The next run; `None` if there is none.
    pub fn next_run(&self) -> Option<&Run> {
        match (self.has_ended, self.retry.ending) {
            (false, _) => Some(&self.run),
            (true, Some(_)) => self.undo.as_ref(),
            (true, None) => None,
        }
    }

    /// The effect of an exit. A command with a status other than 0 may have done half of its work, and is
    /// reverted if possible.
    pub fn after_report(&self, report: &Report, now: Duration) -> JobUpdate {
        let (is_well, was_started, reason, output) = match report {
            Report::Ended { end, output } => (*end == End::Status(0), true, end.to_string(), Some(output.clone())),
            Report::NotStarted { reason } => (false, false, reason.clone(), None),
            Report::Lost { reason } => (false, true, reason.clone(), None),
            Report::Answered { .. } | Report::Unanswered { .. } => (false, false, "it was not run".to_owned(), None),
        };
        let output = output
            .filter(|output| !output.is_empty())
            .map(|output| printable_lines(output.trim_end()));
        if self.has_ended {
            return self.undo_ended(is_well, reason, output, now);
        }
        let is_to_be_undone = self.undo.is_some() && was_started;
        let ending = match (is_well, self.retry.ending) {
            (_, Some(ending)) => Some(ending),
            (false, None) => Some(Outcome::Cancelled),
            (true, None) => None,
        };
        JobUpdate {
            command: is_to_be_undone.then(|| Command {
                has_ended: true,
                retry: RetryState {
                    next: if ending.is_some() { now } else { Duration::MAX },
                    failures: 0,
                    ending,
                    ..self.retry
                },
                ..self.clone()
            }),
            outcome: if is_well { Outcome::Applied } else { Outcome::Failed },
            reason,
            output,
            was_undo: false,
        }
    }

    fn undo_ended(&self, is_well: bool, reason: String, output: Option<String>, now: Duration) -> JobUpdate {
        let failures = self.retry.failures.saturating_add(1);
        let is_given_up = !is_well && failures >= MAX_UNDO_TRIES;
        let again = Command {
            retry: RetryState {
                next: now.saturating_add(pause(self.retry.failures, &self.run.argv.concat())),
                failures,
                ..self.retry
            },
            ..self.clone()
        };
        JobUpdate {
            command: (!is_well && !is_given_up).then_some(again),
            outcome: match (is_well, self.retry.ending) {
                (true, Some(ending)) => ending,
                (true, None) => Outcome::Restored,
                (false, _) => Outcome::Failed,
            },
            reason: if is_given_up {
                format!("{reason}; no further retries after {failures} failures")
            } else {
                reason
            },
            output,
            was_undo: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_is_the_first_path_after_an_interpreter() {
        for (argv, script) in [
            (&["/bin/sh", "/srv/notify.sh", "/tmp/x"][..], Some("/srv/notify.sh")),
            (&["/usr/bin/python3.11", "-u", "/srv/notify.py"], Some("/srv/notify.py")),
            (&["/usr/bin/env", "ruby", "/srv/notify.rb"], Some("/srv/notify.rb")),
            (&["/bin/sh", "-c", "echo"], None),
            (&["/usr/bin/tar", "cf", "/srv/x.tar"], None),
            (&["/srv/notify.sh", "/srv/x"], None),
        ] {
            let argv: Vec<Vec<Segment>> = argv.iter().map(|text| vec![Segment::Text((*text).into())]).collect();
            assert_eq!(script_of(&argv), script, "{argv:?}");
        }
        let label = [Segment::Text("/srv/".into()), Segment::Label("script".into())];
        let argv = [vec![Segment::Text("/bin/sh".into())], label.to_vec()];
        assert_eq!(script_of(&argv), None);
    }
}
