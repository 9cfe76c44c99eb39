//! The page of one episode: the alert, the rule as it was, the processes that were considered, the steps with their
//! effect, and the command that explains the alert now. Pure.

use super::alerts::help;
use super::html::{EscapedText, absolute, capitalised, command, elapsed, relative, span};
use super::story::{self, FORGOTTEN, Meaning, anchor, change, lease_change, plain, process, why};
use super::{PageOptions, begin, host_name};
use crate::http::web_address;
use crate::publish::status::Status;
use crate::telemetry::{Episode, Event, LeaseStatus, OpenAlert};
use crate::terminal::shell_word;
use jiff::Timestamp;
use std::fmt::{self, Write};

/// Renders the page of an episode; `None` if it is not known.
pub fn episode(status: &Status, id: &str, options: PageOptions<'_>) -> Option<String> {
    let episode = status.activity.episode(id)?;
    let mut out = String::with_capacity(16 << 10);
    write_episode(&mut out, status, episode, options).expect("writing to a String does not fail");
    Some(out)
}

/// Renders the page for an episode that is not known.
pub fn unknown_episode(status: &Status, options: PageOptions<'_>) -> String {
    let mut out = String::new();
    let mut write = || {
        begin(&mut out, "Unknown episode", "Unknown episode", "../", status, options)?;
        writeln!(
            out,
            "<section>\n<h2>No page</h2>\n<p>evenkeel keeps pages of open episodes, and of the newest ones that are over. The \
             ledger has the history of the others: {}</p>\n</section>\n</main>\n</body>\n</html>",
            command(&format!("evenkeel history{}", options.storage_option))
        )
    };
    write().expect("writing to a String does not fail");
    out
}

fn write_episode(out: &mut String, status: &Status, episode: Episode<'_>, options: PageOptions<'_>) -> fmt::Result {
    let alert = episode.alert;
    let (name, rule) = (EscapedText(&alert.alertname), EscapedText(&alert.rule));
    let host = EscapedText(host_name(status));
    let title = format!("{name}: {rule} on {host}");
    begin(
        out,
        &title,
        &format!("{name} on {host}, rule {rule}"),
        "../",
        status,
        options,
    )?;
    let events = status.activity.events_of(&alert.episode);
    summary(out, status, episode, &events)?;
    alert_section(out, status, alert, options)?;
    let is_incomplete = status.activity.is_incomplete(alert);
    steps(out, status, &events, is_incomplete)?;
    considered(out, status, &events, is_incomplete)?;
    leases(out, status, alert, options)?;
    writeln!(
        out,
        "<section>\n<h2 id=\"rule\">The rule when the episode began</h2>\n<pre tabindex=\"0\">{}</pre>\n\
         <p>Without arguments of commands, queries of addresses and patterns of command lines.</p>\n</section>",
        EscapedLines(&alert.rule_text)
    )?;
    explain(out, alert, options)?;
    writeln!(out, "</main>\n</body>\n</html>")
}

/// Text of several lines, escaped.
struct EscapedLines<'a>(&'a str);

impl fmt::Display for EscapedLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, line) in self.0.lines().enumerate() {
            let end = if place > 0 { "\n" } else { "" };
            write!(f, "{end}{}", EscapedText(line))?;
        }
        Ok(())
    }
}

/// What evenkeel does with the steps of an episode, in the words of the status where they hold for it.
fn mode(status: &Status, episode: Episode<'_>) -> String {
    let alert = episode.alert;
    if alert.dry_run {
        return "Dry-run: steps are only logged.".to_owned();
    }
    if episode.ended_at.is_some() {
        return "Enforce.".to_owned();
    }
    let is_off = status.actuator_off.is_some();
    let general = story::state(status.mode, is_off, status.paused, status.ledger_writable);
    let are_applied = !is_off && !status.paused && status.ledger_writable && status.mode == "enforce";
    let is_unconfirmed = alert.state != "firing";
    let is_stopped = status.breakers_open.contains(&alert.rule);
    let is_paused = status.paused_rules.contains(&alert.rule);
    let mut sentences = Vec::new();
    match are_applied && (is_unconfirmed || is_stopped || is_paused) {
        true => sentences.push("Enforce.".to_owned()),
        false => sentences.push(capitalised(general) + "."),
    }
    if is_unconfirmed {
        sentences.push("Unconfirmed: no new steps until a source confirms that the alert fires.".to_owned());
    }
    if is_stopped {
        sentences.push("The breaker of the rule is open: no irreversible actions.".to_owned());
    }
    if is_paused {
        sentences.push("The rule is paused: no new steps; its leases are still reverted.".to_owned());
    }
    sentences.join(" ")
}

fn summary(out: &mut String, status: &Status, episode: Episode<'_>, events: &[&Event]) -> fmt::Result {
    let (alert, now) = (episode.alert, status.sampled_at);
    let count = |meaning| events.iter().filter(|event| Meaning::of(event) == meaning).count();
    let mode = mode(status, episode);
    let state = match episode.ended_at {
        Some(ended_at) => format!(
            "Over {}, after {}.",
            relative(ended_at, now),
            span(ended_at.duration_since(alert.opened_at))
        ),
        None => format!(
            "{} for {}.",
            EscapedText(&capitalised(&alert.state)),
            elapsed(alert.opened_at, now)
        ),
    };
    let class = if episode.ended_at.is_some() { "over" } else { "firing" };
    writeln!(
        out,
        "<section class=\"banner {class}\">\n<h2 id=\"summary\">What happened</h2>\n<p class=\"headline\" role=\"status\">{state} {mode}</p>\n\
         <dl class=\"state\">"
    )?;
    let mut tile = |name: &str, value: &str| writeln!(out, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    let [applied, reverted, failed, held, nothing] = [
        Meaning::Applied,
        Meaning::Reverted,
        Meaning::Failed,
        Meaning::NotDone,
        Meaning::NothingToRevert,
    ]
    .map(count);
    let is_incomplete = status.activity.is_incomplete(alert);
    let number = |count: usize| match is_incomplete {
        true => format!("at least {count}"),
        false => count.to_string(),
    };
    tile("Applied", &number(applied))?;
    tile("Reverted", &number(reverted))?;
    if nothing > 0 {
        tile("Nothing to revert", &number(nothing))?;
    }
    tile("Failed", &number(failed))?;
    tile("Not done", &number(held))?;
    if alert.dry_run {
        tile("Only logged", &count(Meaning::Simulated).to_string())?;
    }
    tile("Targets now", &alert.targets.to_string())?;
    if let Some(latency) = first_latency(alert, events) {
        tile("First step after", &latency)?;
    }
    writeln!(out, "</dl>")?;
    if is_incomplete {
        writeln!(
            out,
            "<p>This page keeps the newest events only; the history has all.</p>"
        )?;
    }
    if let Some(text) = help(status, events, episode.ended_at.unwrap_or(now)) {
        writeln!(out, "<p>Did it help? {text}</p>")?;
    }
    writeln!(out, "</section>")
}

/// The time from the beginning of the episode to its first applied step.
fn first_latency(alert: &OpenAlert, events: &[&Event]) -> Option<String> {
    let applied = events.iter().filter(|event| Meaning::of(event) == Meaning::Applied);
    let first = applied.map(|event| event.at).min()?;
    Some(milliseconds(alert.opened_at, first))
}

fn milliseconds(from: Timestamp, to: Timestamp) -> String {
    let milliseconds = to.duration_since(from).as_millis().max(0);
    match milliseconds {
        // Both have the time of their transaction.
        0 => "at once".to_owned(),
        1..1000 => format!("{milliseconds} ms"),
        _ => format!("{:.1} s", milliseconds as f64 / 1000.0),
    }
}

fn alert_section(out: &mut String, status: &Status, alert: &OpenAlert, options: PageOptions<'_>) -> fmt::Result {
    let now = status.sampled_at;
    writeln!(
        out,
        "<section>\n<h2 id=\"alert\">Alert</h2>\n<dl class=\"facts\">\n<div><dt>Fires since</dt><dd>{} ({})</dd></div>\n\
         <div><dt>Answered since</dt><dd>{} ({})</dd></div>\n<div><dt>Source</dt><dd>{}</dd></div>",
        relative(alert.since, now),
        absolute(alert.since),
        relative(alert.opened_at, now),
        absolute(alert.opened_at),
        alert.source
    )?;
    for (name, value) in alert.labels.iter() {
        writeln!(
            out,
            "<div><dt>{}</dt><dd>{}</dd></div>",
            EscapedText(name),
            EscapedText(value)
        )?;
    }
    // The addresses are for those who may log in.
    if options.is_authenticated {
        link(out, "Runbook", alert.runbook_url.as_deref())?;
        link(out, "Expression", alert.generator_url.as_deref())?;
    }
    writeln!(out, "</dl>\n</section>")
}

/// Writes a link to a web page from outside, and nothing for other addresses.
fn link(out: &mut String, name: &str, url: Option<&str>) -> fmt::Result {
    let Some(url) = url.and_then(web_address) else {
        return Ok(());
    };
    let url = EscapedText(&url);
    writeln!(
        out,
        "<div><dt>{name}</dt><dd><a href=\"{url}\" rel=\"noopener noreferrer\">{url}</a></dd></div>"
    )
}

fn steps(out: &mut String, status: &Status, events: &[&Event], is_incomplete: bool) -> fmt::Result {
    let steps: Vec<&&Event> = events
        .iter()
        .filter(|event| !matches!(Meaning::of(event), Meaning::Planned | Meaning::NotDone))
        .collect();
    writeln!(out, "<section>\n<h2 id=\"steps\">Steps</h2>")?;
    if steps.is_empty() {
        return match is_incomplete {
            true => writeln!(out, "<p>No step is known: {FORGOTTEN}.</p>\n</section>"),
            false => writeln!(out, "<p>No step was applied.</p>\n</section>"),
        };
    }
    writeln!(
        out,
        "<table class=\"cards steps\">\n<caption>What was done, newest first; the latency counts from the decision</caption>\n<thead><tr>\
         <th scope=\"col\">At</th><th scope=\"col\">Outcome</th><th scope=\"col\">Target</th><th scope=\"col\">Step</th>\
         <th scope=\"col\">Change</th><th scope=\"col\">Latency</th><th scope=\"col\">Why</th></tr></thead>\n<tbody>"
    )?;
    for event in steps {
        let meaning = Meaning::of(event);
        writeln!(
            out,
            "<tr id=\"{}\"><td>{}</td><td class=\"{}\"><span class=\"shape\" aria-hidden=\"true\">{}</span> {}</td><td class=\"name\">{}</td>\
             <td>{}</td><td class=\"change\">{}</td><td>{}</td><td class=\"why\">{}</td></tr>",
            anchor(&status.activity, event),
            relative(event.at, status.sampled_at),
            meaning.class(),
            meaning.shape(),
            plain(event.kind.as_str()),
            process(event),
            EscapedText(event.step.as_deref().unwrap_or_default()),
            change(event),
            decided(event, events).map_or(String::new(), |at| milliseconds(at, event.at)),
            why(event)
        )?;
    }
    writeln!(out, "</tbody>\n</table>\n</section>")
}

/// When the step of an outcome was decided.
fn decided(event: &Event, events: &[&Event]) -> Option<Timestamp> {
    let is_its = |decision: &&&Event| {
        Meaning::of(decision) == Meaning::Planned
            && (decision.pid, &decision.process, &decision.step) == (event.pid, &event.process, &event.step)
            && decision.at <= event.at
    };
    events.iter().find(is_its).map(|decision| decision.at)
}

fn considered(out: &mut String, status: &Status, events: &[&Event], is_incomplete: bool) -> fmt::Result {
    let refused: Vec<&&Event> = events
        .iter()
        .filter(|event| Meaning::of(event) == Meaning::NotDone)
        .collect();
    writeln!(out, "<section>\n<h2 id=\"considered\">Considered, but not chosen</h2>")?;
    if refused.is_empty() && is_incomplete {
        return writeln!(
            out,
            "<p>No decision against a process is known: {FORGOTTEN}.</p>\n</section>"
        );
    }
    if refused.is_empty() {
        return writeln!(
            out,
            "<p>When the episode began, the rule left out no process that its selector matched. \
             <a href=\"#explain\">The command below</a> with <code>--pid</code> says why another process is not selected.</p>\n</section>"
        );
    }
    writeln!(
        out,
        "<table class=\"cards refused\">\n<caption>Targets and steps that were left alone, newest first</caption>\n<thead><tr>\
         <th scope=\"col\">At</th><th scope=\"col\">Target</th><th scope=\"col\">Step</th><th scope=\"col\">Decision</th>\
         <th scope=\"col\">Why</th></tr></thead>\n<tbody>"
    )?;
    for event in refused {
        writeln!(
            out,
            "<tr id=\"{}\"><td>{}</td><td class=\"name\">{}</td><td>{}</td><td class=\"held\"><span class=\"shape\" aria-hidden=\"true\">○</span> {}</td>\
             <td class=\"why\">{}</td></tr>",
            anchor(&status.activity, event),
            relative(event.at, status.sampled_at),
            process(event),
            EscapedText(event.step.as_deref().unwrap_or_default()),
            plain(event.kind.as_str()),
            why(event)
        )?;
    }
    writeln!(out, "</tbody>\n</table>\n</section>")
}

fn leases(out: &mut String, status: &Status, alert: &OpenAlert, options: PageOptions<'_>) -> fmt::Result {
    let is_its = |lease: &&LeaseStatus| {
        let episode = status.activity.episode_of_lease(lease);
        episode.is_some_and(|episode| episode.alert.episode == alert.episode)
    };
    let held: Vec<&LeaseStatus> = status.activity.leases.iter().filter(is_its).collect();
    writeln!(out, "<section>\n<h2 id=\"undo\">Undo</h2>")?;
    if status.has_more_leases() {
        let all = command(&format!("evenkeel leases{}", options.storage_option));
        writeln!(
            out,
            "<p>There are more leases than are kept here, perhaps of this episode, too. All of them: {all}</p>"
        )?;
    } else if held.is_empty() {
        writeln!(out, "<p>Nothing of this episode is held any more.</p>")?;
    }
    if held.is_empty() {
        return writeln!(out, "</section>");
    }
    writeln!(out, "<ul>")?;
    for lease in held {
        let pid = lease.pid.map_or(String::new(), |pid| format!("{pid} "));
        let until = lease.until.map_or("being reverted".to_owned(), |until| {
            format!(
                "reverted when the alert is over, at the latest {}",
                relative(until, status.sampled_at)
            )
        });
        writeln!(
            out,
            "<li>Lease {}, {} on {pid}{}: {until}. To revert it now: {}</li>",
            lease.id,
            EscapedText(&lease_change(lease)),
            EscapedText(&lease.process),
            command(&format!("evenkeel release {}{}", lease.id, options.storage_option))
        )?;
    }
    writeln!(out, "</ul>\n</section>")
}

/// Writes the command that runs the alert through the rules again.
fn explain(out: &mut String, alert: &OpenAlert, options: PageOptions<'_>) -> fmt::Result {
    let mut labels: serde_json::Map<String, serde_json::Value> = alert
        .labels
        .iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    labels.insert("alertname".to_owned(), alert.alertname.as_str().into());
    let payload = serde_json::json!({
        "version": "4",
        "alerts": [{"status": "firing", "startsAt": alert.since.to_string(), "labels": labels}],
    });
    let command = format!(
        "evenkeel explain{} --alert - <<'END'\n{}\nEND",
        options.storage_option,
        ascii(&payload.to_string())
    );
    writeln!(
        out,
        "<section>\n<h2 id=\"explain\">What would happen now, and why not to a process</h2>\n\
         <p>This command runs the alert through the rules in dry-run. Add <code>--pid PID</code> to ask about one process, and \
         <code>--config.file</code> where the configuration is not in the usual place. Labels longer than 100 characters are shortened \
         here.</p>\n<pre tabindex=\"0\"><code>{}</code></pre>\n<p>The history of the rule: {}</p>\n</section>",
        EscapedLines(&command),
        super::html::command(&format!(
            "evenkeel history --rule {}{}",
            shell_word(&alert.rule),
            options.storage_option
        ))
    )
}

/// JSON without characters beyond ASCII, so that the page, which spells out hidden characters, does not change it.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() && !character.is_ascii_control() {
            out.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").expect("writing to a String does not fail");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_of_the_command_survives_the_page() {
        assert_eq!(
            ascii("{\"a\":\"é\u{202e}🦀\u{7f}\"}"),
            "{\"a\":\"\\u00e9\\u202e\\ud83e\\udd80\\u007f\"}"
        );
    }
}
