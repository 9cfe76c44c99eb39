//! The conversion of steps as written into the steps of a rule.

use super::file::{Action, WrittenStep};
use super::job::{Allocate, Exec};
use super::limit::compile_limit;
use super::step::{AffinityChange, Change, Send, SignalKind, Step};
use crate::diagnostic::{Findings, nearest};
use crate::host::knob::{CpuSet, IoPriority, Policy, Value};
use crate::yaml::Text;
use nix::sys::signal::Signal;
use std::sync::Arc;

/// Signals that stop a process. `freeze` does that with a lease.
const STOPPING: [Signal; 4] = [Signal::SIGSTOP, Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// No machine has more processors (CONFIG_NR_CPUS).
const MAX_CPUS: i32 = 8192;
/// An increase by more than this is a typo.
const MAX_PERCENT: i32 = 1000;

/// Compiles the steps of a rule. A step with an error is left out, and is among the findings.
pub(super) fn compile_ladder(written: &[WrittenStep], allow_exec: bool, findings: &mut Findings) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for written in written {
        // One step for each limit of a cgroup, so that each has its own lease.
        if let Action::Cgroup(limits) = &written.action {
            let changes = limits
                .iter()
                .flat_map(|(file, text)| compile_limit(*file, text, findings));
            steps.extend(changes.map(Step::Set));
            continue;
        }
        let Some(step) = compile_step(written, allow_exec, findings) else {
            continue;
        };
        if step.wants_resource() && !steps.iter().any(|step| matches!(step, Step::Allocate(_))) {
            let help = "put an `allocate` before it";
            findings.error(written.span, "`$resource` before anything is granted", help);
        }
        if step.is_final()
            && step.is_for_processes()
            && let Some(earlier) = steps
                .iter()
                .rev()
                .take_while(|step| !is_wait(step))
                .find(|step| step.is_final() && step.is_for_processes())
        {
            let message = format!("{step} comes directly after {earlier}, which has no time to work");
            findings.warning(written.span, message, "put a wait before it, such as `wait: 10s`");
        }
        steps.push(step);
    }
    let waits = |step: &&WrittenStep| matches!(step.action, Action::Wait(_));
    if let Some(last) = written.last().filter(waits)
        && !written.iter().all(|step| waits(&step))
    {
        findings.warning(
            last.span,
            "nothing comes after this wait",
            "leave it out, or add the step it waits for",
        );
    }
    steps
}

fn is_wait(step: &Step) -> bool {
    matches!(step, Step::Wait(_))
}

fn compile_step(written: &WrittenStep, allow_exec: bool, findings: &mut Findings) -> Option<Step> {
    let set = |value| Some(Step::Set(Change::To(value)));
    match &written.action {
        Action::Nice(nice) => set(Value::Nice(*nice)),
        Action::OomScoreAdj(score) => set(Value::OomScoreAdj(*score)),
        Action::Sched(policy) => set(Value::Sched(match *policy {
            "batch" => Policy::Batch,
            "idle" => Policy::Idle,
            _ => Policy::Other,
        })),
        Action::Freeze(flag) if !flag.value => {
            let help = "leave the step out; what was frozen continues when the alert resolves";
            findings.error(flag.span, "`freeze: false` does nothing", help);
            None
        }
        Action::Freeze(_) => set(Value::Freeze(true)),
        Action::Ionice(text) => set(Value::Ionice(compile_ionice(text, findings)?)),
        Action::Affinity(text) => compile_affinity(text, findings).map(Step::Set),
        Action::Reclaim(size) if size.bytes == 0 => {
            findings.error(written.span, "`reclaim` of nothing", "give it a size such as 512MiB");
            None
        }
        Action::Reclaim(size) => Some(Step::Reclaim(size.bytes)),
        Action::Kill(flag) if !flag.value => {
            findings.error(flag.span, "`kill: false` does nothing", "leave the step out");
            None
        }
        Action::Kill(_) => Some(Step::Kill),
        Action::Cgroup(_) => None,
        Action::Signal { send, undo } => compile_signal(send, undo.as_ref(), findings).map(Step::Signal),
        Action::Allocate(allocate) => Some(Step::Allocate(Arc::new(Allocate::clone(allocate)))),
        Action::Exec(_) if !allow_exec => {
            let help = "commands are off unless the configuration says `allow_exec: true`";
            findings.error(written.span, "`exec` is not allowed on this host", help);
            None
        }
        Action::Exec(exec) => Some(Step::Exec(Arc::new(Exec::clone(exec)))),
        Action::Wait(time) if time.is_zero() => {
            findings.error(
                written.span,
                "a wait of no time",
                "leave it out, or give it a time such as 10s",
            );
            None
        }
        Action::Wait(time) => Some(Step::Wait(*time)),
    }
}

fn compile_ionice(text: &Text, findings: &mut Findings) -> Option<IoPriority> {
    if text.value == "idle" {
        return Some(IoPriority::Idle);
    }
    let level = text
        .value
        .strip_prefix("best-effort/")
        .and_then(|level| level.parse::<u8>().ok());
    let priority = level.filter(|level| *level <= 7).map(IoPriority::BestEffort);
    if priority.is_none() {
        let help = match text.value.as_str() {
            realtime if realtime.starts_with("realtime") || realtime.starts_with("real-time") => {
                "real-time I/O can starve the host and is never set; use best-effort/0"
            }
            "best-effort" => "give the level: best-effort/0 (first) to best-effort/7 (last)",
            _ => "write idle, or best-effort/0 (first) to best-effort/7 (last)",
        };
        findings.error(text.span, format!("`{}` is no I/O priority", text.value), help);
    }
    priority
}

fn compile_affinity(text: &Text, findings: &mut Findings) -> Option<Change> {
    let change = if text.value == "all" {
        Some(Change::Affinity(AffinityChange::All))
    } else if text.value.starts_with(['+', '-']) {
        let number = |text: &str| text.parse::<i32>().ok().filter(|number| *number != 0);
        match text.value.strip_suffix('%') {
            Some(percent) => number(percent)
                .filter(|percent| *percent > -100 && *percent <= MAX_PERCENT)
                .map(|percent| Change::Affinity(AffinityChange::Percent(percent))),
            None => number(&text.value)
                .filter(|cpus| cpus.abs() <= MAX_CPUS)
                .map(|cpus| Change::Affinity(AffinityChange::Cpus(cpus))),
        }
    } else {
        text.value
            .parse::<CpuSet>()
            .ok()
            .map(|cpus| Change::To(Value::Affinity(cpus)))
    };
    if change.is_none() {
        let help = "write a list such as \"0-1,4\", or all, or what to add or take away: +2, -1, -50%";
        findings.error(text.span, format!("`{}` is no set of processors", text.value), help);
    }
    change
}

fn compile_signal(send: &Text, undo: Option<&Text>, findings: &mut Findings) -> Option<Send> {
    let signal = parse_signal(send, findings);
    let Some(undo) = undo else {
        return Some(Send {
            signal: signal?,
            undo: None,
        });
    };
    let (signal, undone) = (signal?, parse_signal(undo, findings)?);
    for (signal, text) in [(signal, send), (undone, undo)] {
        if (Send { signal, undo: None }).kind() == SignalKind::Final {
            let help = "only notices can be undone; write a final signal as `signal: NAME`";
            findings.error(
                text.span,
                format!("{signal} ends a process, which cannot be undone"),
                help,
            );
            return None;
        }
    }
    Some(Send {
        signal,
        undo: Some(undone),
    })
}

fn parse_signal(text: &Text, findings: &mut Findings) -> Option<Signal> {
    let written = text.value.as_str();
    match written.parse::<Signal>() {
        Ok(signal) if STOPPING.contains(&signal) => {
            let help = "write `freeze: true`: it is undone when the alert resolves";
            findings.error(
                text.span,
                format!("{signal} would stop the process and leave it so"),
                help,
            );
            None
        }
        Ok(signal) => Some(signal),
        Err(_) => {
            let help = match written.parse::<i32>().map(Signal::try_from) {
                Ok(Ok(signal)) => format!("numbers differ between machines: write {signal}"),
                Ok(Err(_)) => "write a name such as SIGTERM".to_owned(),
                Err(_) => {
                    let upper = written.to_uppercase();
                    let full = if upper.starts_with("SIG") {
                        upper
                    } else {
                        format!("SIG{upper}")
                    };
                    match nearest(&full, Signal::iterator().map(Signal::as_str)) {
                        Some(name) => format!("did you mean {name}?"),
                        None => "names are those of signal(7), such as SIGTERM; real-time signals have none".to_owned(),
                    }
                }
            };
            findings.error(text.span, format!("no signal `{written}`"), help);
            None
        }
    }
}
