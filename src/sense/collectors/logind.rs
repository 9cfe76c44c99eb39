//! `logind`: sessions by seat and kind, from the files in `/run/systemd` that sd-login(3) reads.

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, if_present, list_names, read_text};
use crate::sense::runtime::roots::Roots;
use std::collections::HashMap;
use std::path::Path;

/// The published metrics.
const METRICS: &str = "node_logind_sessions";

pub const INFO: CollectorInfo = CollectorInfo::off("logind", Pace::Slow, "sessions by seat and kind", METRICS, |_| {
    Box::new(read_logind)
});

/// Types and classes with a series; others are `other`.
const TYPES: [&str; 7] = ["other", "unspecified", "tty", "x11", "wayland", "mir", "web"];
const CLASSES: [&str; 5] = ["other", "user", "greeter", "lock-screen", "background"];

/// Seat, whether a session is remote, type and class.
type Session = (String, bool, &'static str, &'static str);

fn known(word: &str, words: &[&'static str]) -> &'static str {
    words.iter().find(|known| **known == word).copied().unwrap_or("other")
}

/// A session from lines `KEY=value`.
fn parse_session(text: &str) -> Session {
    let get = |key: &str| {
        let mut values = text
            .lines()
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        values.next().unwrap_or_default()
    };
    (
        get("SEAT").to_owned(),
        get("REMOTE") == "1",
        known(get("TYPE"), &TYPES),
        known(get("CLASS"), &CLASSES),
    )
}

pub fn read_logind(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.host(Path::new("/run/systemd"));
    let names = list_names(&base.join("sessions")).map_err(|error| error.or_absent("no systemd-logind"))?;
    let mut counts: HashMap<Session, u32> = HashMap::new();
    // Beside each session there is its pipe, named `N.ref`.
    for name in names.into_iter().filter(|name| !name.contains('.')) {
        // A session may end meanwhile.
        if let Ok(text) = read_text(&base.join("sessions").join(name)) {
            *counts.entry(parse_session(&text)).or_default() += 1;
        }
    }
    let mut seats = if_present(list_names(&base.join("seats")))?.unwrap_or_default();
    // Sessions over the network have no seat.
    seats.push(String::new());
    let mut set = FamilySet::default();
    for seat in seats {
        for is_remote in [true, false] {
            for kind in TYPES {
                for class in CLASSES {
                    let count = counts.get(&(seat.clone(), is_remote, kind, class)).copied();
                    let labels = [
                        label("seat", seat.clone()),
                        label("remote", is_remote.to_string()),
                        label("type", kind),
                        label("class", class),
                    ];
                    set.add(
                        "node_logind_sessions",
                        "Sessions.",
                        &labels,
                        f64::from(count.unwrap_or_default()),
                    );
                }
            }
        }
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};
    use std::fs;

    #[test]
    fn sessions_are_counted_by_seat_and_kind() {
        let tree = Tree::new();
        assert!(matches!(read_logind(&tree.roots), Err(ReadError::Absent(_))));
        let remote = "# This is private data.\nUID=0\nREMOTE=1\nTYPE=tty\nCLASS=user\n";
        for (file, text) in [
            ("seats/seat0", "IS_SEAT0=1\n"),
            ("sessions/3", remote),
            ("sessions/4", remote),
            ("sessions/c1", "SEAT=seat0\nREMOTE=0\nTYPE=wayland\nCLASS=manager\n"),
        ] {
            tree.host(&format!("run/systemd/{file}"), text);
        }
        fs::write(tree.roots.host(Path::new("/run/systemd/sessions/3.ref")), "").unwrap();
        let mut lines = text_of(&read_logind(&tree.roots).unwrap(), "");
        assert_eq!(lines.len(), 2 * 2 * TYPES.len() * CLASSES.len());
        lines.retain(|line| !line.ends_with(" 0"));
        assert_eq!(
            lines,
            [
                "node_logind_sessions{seat=\"seat0\",remote=\"false\",type=\"wayland\",class=\"other\"} 1",
                "node_logind_sessions{seat=\"\",remote=\"true\",type=\"tty\",class=\"user\"} 2",
            ]
        );
    }
}
