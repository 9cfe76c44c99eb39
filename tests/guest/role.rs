//! The Ansible role of `packaging/ansible`, applied to the guest by Ansible in the guest.

use super::package::{Installed, PACKAGE, dpkg};
use super::shipped_unit::shows;
use super::*;

/// The folder that `tests/guest.sh` copies from `packaging/ansible`.
const ANSIBLE: &str = "/usr/lib/evenkeel-guest/ansible";

const PLAY: &str = "\
- name: Install evenkeel
  hosts: all
  gather_facts: false
  roles:
    - role: evenkeel
      vars:
        evenkeel_package: PACKAGE
        evenkeel_mode: enforce
        evenkeel_webhook_token: a-token-of-the-guest-tests
        evenkeel_drop_ins: [cgroup-rules.conf]
        evenkeel_rules:
          own:
            rules:
              - name: own
                matchers: ['alertname=\"Test\"']
                select: {name: sleep}
                actions: [{nice: 5}]
";

/// Runs the play, which may fail, and returns Ansible's summary of the host.
fn play(text: &str) -> String {
    std::fs::write("/tmp/play.yml", text).expect("a writable guest");
    let output = sh(&format!(
        "cd {ANSIBLE}; export HOME=/root LC_ALL=C.UTF-8 ANSIBLE_PIPELINING=1 ANSIBLE_LOCALHOST_WARNING=no ANSIBLE_ROLES_PATH={ANSIBLE}/roles; \
         ansible-playbook --inventory localhost, --connection local /tmp/play.yml 2>&1 || true"
    ));
    println!("{output}");
    let summary = output.lines().find(|line| line.starts_with("localhost "));
    summary.expect("a summary of the host").to_owned()
}

#[test]
fn role_installs_configures_and_keeps_what_a_bad_configuration_would_replace() {
    let _installed = Installed;
    let text = PLAY.replace("PACKAGE", PACKAGE);
    let first = play(&text);
    assert!(first.contains("failed=0") && !first.contains("changed=0"), "{first}");
    assert_eq!(shows("ActiveState"), "active");
    assert_eq!(shows("UnitFileState"), "enabled");
    assert!(shows("StatusText").starts_with("enforce: "), "{}", shows("StatusText"));
    assert!(shows("DropInPaths").contains("cgroup-rules.conf"));
    let mode = sh("stat --format='%a %U' /etc/evenkeel/webhook.token");
    assert_eq!(mode.trim(), "600 root");

    let second = play(&text);
    assert!(second.contains("changed=0") && second.contains("failed=0"), "{second}");

    let files =
        || sh("cd /etc/evenkeel; find . -type f -exec stat --format='%n %a %U' {} + -exec sha256sum {} + | sort");
    let before = files();
    let bad = play(&text.replace("{nice: 5}", "{nice: 50}"));
    assert!(bad.contains("failed=1"), "{bad}");
    assert_eq!(files(), before);
    assert_eq!(sh("ls -d /etc/evenkeel*").trim(), "/etc/evenkeel");
    assert_eq!(shows("ActiveState"), "active");

    assert!(dpkg(&["--purge", "evenkeel"]).status.success());
}
