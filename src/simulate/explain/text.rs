//! The text form of an explanation, for a terminal or a file. Pure.

use super::{Explained, Explanation, RuleExplanation};
use crate::diagnostic::printable;
use crate::ledger::Decision;
use crate::terminal::{Style, Tone};

impl Explanation {
    /// Formats the explanation for people. Strings from outside are escaped.
    pub fn text(&self, style: Style) -> String {
        let mut out = Lines {
            text: String::new(),
            style,
        };
        for remark in &self.remarks {
            out.line(0, &format!("note: {remark}"));
        }
        for invalid in &self.invalid {
            out.line(0, &format!("invalid: {invalid}"));
        }
        for alert in &self.alerts {
            let labels: Vec<String> = alert
                .labels
                .iter()
                .filter(|(name, _)| *name != "alertname")
                .map(|(name, value)| format!("{name}={value:?}"))
                .collect();
            let name = alert.alertname.escape_debug().to_string();
            let rest = format!(" {} {{{}}}", alert.status, labels.join(", "));
            out.led(0, Tone::Heading, &name, &rest);
            for rule in &alert.rules {
                rule.write(&mut out);
            }
        }
        out.text
    }
}

impl RuleExplanation {
    fn write(&self, out: &mut Lines) {
        let verdict = if self.matches { "matches" } else { "does not match" };
        let tone = if self.matches { Tone::Good } else { Tone::Dim };
        out.led(1, tone, &format!("rule {}:", self.rule), &format!(" {verdict}"));
        for remark in &self.remarks {
            out.line(2, remark);
        }
        if !self.selected.is_empty() {
            out.line(2, &selection(self.selected.len(), "process", "processes"));
            for process in &self.selected {
                let cpu = process
                    .cpu_cores
                    .map_or(String::new(), |cores| format!(", {cores:.2} cores"));
                let (pid, name) = (process.pid, process.name.escape_debug());
                let (mib, age) = (process.resident_bytes >> 20, process.age_seconds);
                out.line(3, &format!("{pid} {name}: {mib} MiB{cpu}, {age} s old"));
            }
        }
        if !self.selected_cgroups.is_empty() {
            out.line(2, &selection(self.selected_cgroups.len(), "cgroup", "cgroups"));
            for selected in &self.selected_cgroups {
                let processes = match selected.processes {
                    None => "an unknown number of processes".to_owned(),
                    Some(1) => "1 process".to_owned(),
                    Some(number) => format!("{number} processes"),
                };
                let memory = selected
                    .memory_bytes
                    .map_or(String::new(), |bytes| format!(", {} MiB", bytes >> 20));
                let cpu = selected
                    .cpu_cores
                    .map_or(String::new(), |cores| format!(", {cores:.2} cores"));
                let path = selected.cgroup.escape_debug();
                out.line(3, &format!("{path}: {processes}{memory}{cpu}"));
            }
        }
        for decision in &self.decisions {
            decision.write(out);
        }
        if self.not_taken > 0 {
            let (number, limit) = (self.not_taken, self.limit);
            out.line(2, &format!("not taken: {number} more, limit {limit} is reached"));
        }
        let is_planned = |decision: &Explained| decision.decision == Decision::Planned;
        if self.waits {
            out.line(2, "at once: nothing");
        }
        if !self.later.is_empty() && (self.waits || self.decisions.iter().any(is_planned) || !self.jobs.is_empty()) {
            out.line(2, &format!("then: {}", self.later.join(", ")));
        }
        for job in &self.jobs {
            out.line(2, job);
        }
        if let Some(about) = &self.about_pid {
            out.line(2, about);
        }
    }
}

fn selection(number: usize, one: &str, many: &str) -> String {
    match number {
        1 => format!("selects 1 {one}:"),
        number => format!("selects {number} {many}, in this order:"),
    }
}

impl Explained {
    fn write(&self, out: &mut Lines) {
        let mut words = vec![format!("{}:", self.decision)];
        if let Some(step) = &self.step {
            words.push(step.clone());
        }
        match (self.pid, &self.name) {
            (Some(pid), Some(name)) => words.push(format!("on {pid} {}", name.escape_debug())),
            (None, Some(name)) => words.push(format!("on {}", name.escape_debug())),
            (_, None) => {}
        }
        if let (Some(before), Some(after)) = (&self.before, &self.after) {
            words.push(format!("({before} -> {after})"));
        }
        if !self.reason.is_empty() {
            let dash = if words.len() > 1 { "- " } else { "" };
            words.push(format!("{dash}{}", self.reason));
        }
        let lead = words.remove(0);
        let rest = words.iter().map(|word| format!(" {word}")).collect::<String>();
        let tone = match self.decision {
            Decision::Planned | Decision::DryRun => Tone::Good,
            _ => Tone::Held,
        };
        out.led(2, tone, &lead, &rest);
    }
}

/// A text of lines, indented by their depth.
struct Lines {
    text: String,
    style: Style,
}

impl Lines {
    fn line(&mut self, depth: usize, words: &str) {
        self.led(depth, Tone::Dim, "", words);
    }

    /// Adds a line whose lead is coloured. Names, labels and reasons come from outside, so all of it is escaped.
    fn led(&mut self, depth: usize, tone: Tone, lead: &str, rest: &str) {
        let indent = "  ".repeat(depth);
        let lead = &*printable(lead);
        let words = format!("{lead}{}", printable(rest));
        for (number, part) in self.style.wrap(&words, indent.len() + 2).iter().enumerate() {
            let part = match part.strip_prefix(lead) {
                Some(rest) if number == 0 => self.style.paint(tone, lead) + rest,
                _ if number == 0 => part.clone(),
                _ => format!("  {part}"),
            };
            self.text += &format!("{indent}{part}\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::explain::Selected;

    #[test]
    fn rule_that_begins_with_a_wait_says_what_follows() {
        let mut out = Lines {
            text: String::new(),
            style: Style::PLAIN,
        };
        let explanation = RuleExplanation {
            rule: "later".to_owned(),
            matches: true,
            selected: vec![Selected {
                pid: 7,
                name: "xz".to_owned(),
                resident_bytes: 1 << 20,
                cpu_cores: None,
                age_seconds: 9,
            }],
            later: vec!["wait 600s".to_owned(), "nice 19".to_owned()],
            limit: 1,
            waits: true,
            ..RuleExplanation::default()
        };
        explanation.write(&mut out);
        let expected = "  rule later: matches\n    selects 1 process:\n      7 xz: 1 MiB, 9 s old\n    at once: nothing\n    then: wait 600s, nice 19\n";
        assert_eq!(out.text, expected);
    }

    #[test]
    fn names_and_reasons_have_no_escapes() {
        let explanation = Explanation {
            alerts: vec![crate::simulate::explain::AlertExplanation {
                alertname: "A".to_owned(),
                status: "firing",
                labels: [("a\u{1b}[2J", "b")].into(),
                rules: vec![RuleExplanation {
                    rule: "c\u{202e}".to_owned(),
                    remarks: vec!["d\u{1b}c".to_owned()],
                    ..RuleExplanation::default()
                }],
            }],
            invalid: vec!["e\u{1b}c".to_owned()],
            remarks: Vec::new(),
        };
        let text = explanation.text(Style::PLAIN);
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
        assert!(
            text.contains("a\\u{1b}[2J=\"b\"") && text.contains("rule c\\u{202e}:"),
            "{text}"
        );
    }

    #[test]
    fn terminal_lines_fit_and_colours_show_the_decision() {
        let style = Style {
            color: true,
            columns: Some(60),
        };
        let mut out = Lines {
            text: String::new(),
            style,
        };
        out.led(
            1,
            Tone::Good,
            "planned:",
            " nice 15 on 100 burner, and so many more words that it takes two lines",
        );
        let expected =
            "  \x1b[32mplanned:\x1b[0m nice 15 on 100 burner, and so many more words\n    that it takes two lines\n";
        assert_eq!(out.text, expected);
    }
}
