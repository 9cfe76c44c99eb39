//! The checks of the steps of a rule that need more than one step, or the configuration.

use super::file::WrittenStep;
use crate::diagnostic::Findings;
use crate::step::Step;

/// Compiles the steps of a rule. A step with an error is left out, and is among the findings.
pub(super) fn compile_steps(written: &[WrittenStep], allow_exec: bool, findings: &mut Findings) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (written, step) in written
        .iter()
        .flat_map(|written| written.read.steps.iter().map(move |step| (written, step)))
    {
        if step.is_command() && !allow_exec {
            let help = "commands are off unless the configuration says `allow_exec: true`";
            findings.error(written.span, "`exec` is not allowed on this host", help);
            continue;
        }
        if step.wants_resource() && !steps.iter().any(|step| matches!(step, Step::Allocate(_))) {
            let help = "put an `allocate` before it";
            findings.error(written.span, "`$resource` before anything is granted", help);
        }
        let kills = |step: &Step| step.is_final() && step.is_for_processes();
        if kills(step)
            && let Some(earlier) = steps
                .iter()
                .rev()
                .take_while(|step| !step.is_wait())
                .find(|step| kills(step))
        {
            let message = format!("{step} comes directly after {earlier}, which has no time to work");
            findings.warning(written.span, message, "put a wait before it, such as `wait: 10s`");
        }
        steps.push(step.clone());
    }
    if let Some(last) = written.last().filter(|last| last.is_wait())
        && !written.iter().all(WrittenStep::is_wait)
    {
        findings.warning(
            last.span,
            "nothing comes after this wait",
            "leave it out, or add the step it waits for",
        );
    }
    steps
}
