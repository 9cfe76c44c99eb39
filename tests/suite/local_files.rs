//! Files that another user of the host can change: evenkeel refuses them, and leaves none behind. The attacks run as
//! an unprivileged user, so the tests need root.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::daemon::Home;
use crate::support::payload::about;
use crate::support::tools::{fail, succeed};
use crate::support::{eventually, http, node_name};

const TIMEOUT: Duration = Duration::from_secs(20);
/// The uid of a user that owns no files.
const OTHER_USER: u32 = 65_534;
const ANY_PORT: &str = "127.0.0.1:0";
const ENFORCE: &str = "mode: enforce\nrule_files: [rules/*.yml]\nwebhook: {token_file: webhook.token}\n";
const RULES: &str = "rules: [{name: r, matchers: [alertname=Test], select: {name: none}, actions: [{nice: 10}]}]\n";

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
}

fn give(path: &Path) {
    chown(path, Some(OTHER_USER), None).expect("the tests run as root");
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("a file").mode() & 0o7777
}

/// A command as another user.
fn as_other_user(argv: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    let ids = ["--reuid", "--regid"].map(|flag| format!("{flag}={OTHER_USER}"));
    command.args(ids).args(["--clear-groups", "--"]);
    command.args(argv);
    command
}

/// `evenkeel run` with another storage directory.
fn run_with_storage(home: &Home, storage: &Path, mode: &str) -> Command {
    let run = home.run_command(ANY_PORT, ANY_PORT);
    // A daemon that starts all the same would run until the test is killed.
    let mut command = Command::new("timeout");
    command.arg("30").arg(run.get_program());
    command.args(
        run.get_args()
            .filter(|arg| !arg.to_string_lossy().starts_with("--storage.path")),
    );
    command.arg(format!("--storage.path={}", storage.display())).arg(mode);
    command
}

/// A home that every user can reach, and its storage.
fn open_home() -> (Home, PathBuf) {
    let home = Home::new(RULES);
    set_mode(home.path(), 0o755);
    let storage = home.path().join("storage");
    fs::create_dir(&storage).expect("a writable folder");
    (home, storage)
}

#[test]
fn storage_that_another_user_can_change_is_refused() {
    let (home, storage) = open_home();
    home.write("evenkeel.yml", ENFORCE);
    let victim = home.path().join("victim");
    fs::write(&victim, "secret").expect("a writable folder");
    set_mode(&victim, 0o600);
    let refused = |expected: &[String]| {
        let (status, said) = home.run_to_its_end(ANY_PORT, ANY_PORT);
        assert!(!status.success(), "{said}");
        for expected in expected {
            assert!(said.contains(expected), "no {expected:?} in {said}");
        }
        assert_eq!(fs::read_to_string(&victim).expect("our own file"), "secret", "{said}");
    };
    let place = storage.display().to_string();

    give(&storage);
    // Root must not take it from a daemon that runs as this user.
    refused(&[
        format!("belongs to uid {OTHER_USER}"),
        format!("start evenkeel as uid {OTHER_USER}"),
    ]);
    chown(&storage, Some(0), None).expect("the tests run as root");
    set_mode(&storage, 0o1777);
    // Such a directory is for all users, as /tmp.
    refused(&["(mode 1777)".to_owned(), format!("such as {place}/evenkeel")]);
    set_mode(&storage, 0o777);
    refused(&["(mode 0777)".to_owned(), format!("chmod go-w {place}")]);
    set_mode(&storage, 0o700);

    for name in [
        "ledger.db",
        "ledger.db-wal",
        "ledger.db-shm",
        "ledger.db.new",
        "ledger.db.building",
        "lock",
        "alerts.json",
        "alerts.json.new",
        "control.sock",
    ] {
        let link = storage.join(name);
        symlink(&victim, &link).expect("a writable folder");
        refused(&[
            link.display().to_string(),
            "is a symbolic link".to_owned(),
            "move it away".to_owned(),
        ]);
        assert_eq!(mode_of(&victim), 0o600, "{name}");
        fs::remove_file(link).expect("our own link");
    }
    let ledger = storage.join("ledger.db");
    fs::write(&ledger, "").expect("a writable folder");
    give(&ledger);
    refused(&[format!("chown root {}", ledger.display())]);
    chown(&ledger, Some(0), None).expect("the tests run as root");

    // Names that are none of evenkeel's.
    fs::create_dir(storage.join("ledger.db-backups")).expect("a writable folder");
    symlink(&victim, storage.join("ledger.db.latest")).expect("a writable folder");
    fs::write(storage.join("ledger.db.gz"), "").expect("a writable folder");
    give(&storage.join("ledger.db.gz"));
    home.start(&[]);
}

#[test]
fn dry_run_goes_on_without_a_refused_storage_directory() {
    let (home, storage) = open_home();
    give(&storage);
    let mut evenkeel = home.start(&[]);
    let log = evenkeel.log_with("storage directory refused");
    let said = log.iter().find(|line| line.contains("storage directory refused"));
    let said = said.unwrap_or_else(|| panic!("{log:?}"));
    assert!(said.contains("level=error"), "{said}");
    let advice = format!("start evenkeel as uid {OTHER_USER}, or set another --storage.path");
    assert!(
        said.contains(&storage.display().to_string()) && said.contains(&advice),
        "{said}"
    );
    assert!(evenkeel.metric("node_memory_MemTotal_bytes", &[]) > 0.0);
    eventually("the report of the ledger", TIMEOUT, || {
        (evenkeel.metric("evenkeel_ledger_writable", &[]) == 0.0).then_some(())
    });
    let page = http::get(evenkeel.metrics, "/").expect("a page").body;
    assert!(page.contains("not writable"), "{page}");
    let refused = evenkeel.post(about("Test", &node_name()).as_bytes());
    assert_eq!(refused.status, 503, "{refused:?}");

    home.write("evenkeel.yml", ENFORCE);
    evenkeel.reload();
    eventually("the refusal of the reload", TIMEOUT, || {
        (evenkeel.metric("evenkeel_config_last_reload_successful", &[]) == 0.0).then_some(())
    });
    evenkeel.log_with("then restart evenkeel");
    assert!(evenkeel.terminate().success());
    let left = fs::read_dir(&storage).expect("our own folder").count();
    assert_eq!(left, 0, "evenkeel has written there");
}

#[test]
fn nothing_is_created_below_a_directory_of_another_user() {
    let (home, _storage) = open_home();
    let theirs = home.path().join("theirs");
    let target = home.path().join("target");
    for folder in [&theirs, &target] {
        fs::create_dir(folder).expect("a writable folder");
    }
    symlink(&target, theirs.join("link")).expect("a writable folder");
    give(&theirs);
    let below = Path::new("link/evenkeel");
    let mut absolute = run_with_storage(&home, &theirs.join(below), "--enforce");
    let mut relative = run_with_storage(&home, below, "--enforce");
    for command in [&mut absolute, relative.current_dir(&theirs)] {
        let said = fail(command);
        assert!(!target.join("evenkeel").exists(), "{said}");
        assert!(said.contains("who can replace what is in it"), "{said}");
        assert!(said.contains("set another --storage.path"), "{said}");
    }
}

/// An access control list that lets one more user write, as setfacl(1) sets it, in the format of
/// `linux/posix_acl_xattr.h`.
fn let_another_user_write(path: &Path) {
    const NONE: u32 = u32::MAX;
    let [owner, user, group, mask, others] = [1_u16, 2, 4, 16, 32];
    let entries = [
        (owner, 7_u16, NONE),
        (user, 7, OTHER_USER),
        (group, 7, NONE),
        (mask, 7, NONE),
        (others, 5, NONE),
    ];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path, "system.posix_acl_access", &list, flags)
        .expect("a file system with access control lists");
}

#[test]
fn only_the_private_group_of_evenkeels_user_may_write() {
    const USER: u32 = 4242;
    const GROUP: u32 = 4343;
    // In a mount namespace, because nothing may change the accounts of this machine.
    const AS_USER: &str = "mount --bind \"$1/passwd\" /etc/passwd; mount --bind \"$1/group\" /etc/group; home=$1; shift 3; \
        exec setpriv --reuid=4242 --regid=4343 --clear-groups -- \"$home/evenkeel\" \"$@\"";
    let (home, storage) = open_home();
    copy_for_others(&home);
    set_mode(&home.path().join("webhook.token"), 0o644);
    chown(&storage, None, Some(GROUP)).expect("the tests run as root");
    set_mode(&storage, 0o775);
    let start = |accounts: &str, members: &str| {
        home.write(
            "passwd",
            &format!("root:x:0:0:root:/root:/bin/sh\nkeel:x:{USER}:{GROUP}::/:/bin/sh\n{accounts}"),
        );
        home.write("group", &format!("root:x:0:\nkeel:x:{GROUP}:{members}\n"));
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--", "sh", "-ec", AS_USER, "sh"])
            .arg(home.path())
            .arg("--");
        home.start_by(command, &[])
    };
    let is_accepted = |accounts: &str, members: &str| {
        let evenkeel = start(accounts, members);
        let log = evenkeel.log_of_start().join("\n");
        let is_refused = log.contains("storage directory refused");
        assert_eq!(
            is_refused,
            log.contains(&format!(
                "run chown {USER} {place} && chmod go-w {place}",
                place = storage.display()
            )),
            "{log}"
        );
        eventually("the ledger", TIMEOUT, || {
            let is_writable = evenkeel.metric("evenkeel_ledger_writable", &[]) == 1.0;
            (is_writable != is_refused).then_some(())
        });
        !is_refused
    };
    assert!(is_accepted("", ""));
    assert!(!is_accepted("", "other"), "a member by /etc/group");
    assert!(
        !is_accepted(&format!("other:x:4244:{GROUP}::/:/bin/sh\n"), ""),
        "a primary group"
    );
    let_another_user_write(&storage);
    assert!(!is_accepted("", ""), "an access control list");
}

#[test]
fn modes_on_a_read_only_mount_do_not_count() {
    const READ_ONLY: &str = "mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"; shift 2; exec \"$@\"";
    let home = Home::new(RULES);
    let rules = home.path().join("rules");
    set_mode(&rules, 0o777);
    set_mode(&rules.join("test.yml"), 0o666);
    let own_view = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--"]);
        command
    };
    let mut volume = own_view();
    volume.args(["sh", "-ec", READ_ONLY, "sh"]).arg(&rules).arg("--");
    // As in a container: the first process has the same mount.
    home.start_by(volume, &["--enforce"]);

    // As under `ProtectSystem=`: others can write, among them the first process.
    let mut protected = own_view();
    protected.args([
        "sh",
        "-c",
        "unshare --mount -- sh -ec \"$@\"; exit $?",
        "sh",
        READ_ONLY,
        "sh",
    ]);
    protected.arg(&rules).arg("--");
    let run = run_with_storage(&home, &home.path().join("storage"), "--enforce");
    let said = fail(protected.arg(run.get_program()).args(run.get_args()));
    assert!(said.contains("other users can write it"), "{said}");
}

#[test]
fn file_that_roots_group_can_write_is_refused() {
    let home = Home::new(RULES);
    let rules = home.path().join("rules/test.yml");
    let_another_user_write(&rules);
    assert_eq!(mode_of(&rules), 0o775, "the group bits are the bound of the list");
    home.write("evenkeel.yml", ENFORCE);
    let (status, log) = home.run_to_its_end(ANY_PORT, ANY_PORT);
    assert!(!status.success(), "{log}");
    assert!(log.contains(&format!("chmod go-w {}", rules.display())), "{log}");
}

#[test]
fn make_run_uses_no_directory_of_another_user() {
    let home = Home::new("rules: []\n");
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile"),
        home.path().join("Makefile"),
    )
    .expect("a Makefile");
    let storage = || {
        let said = succeed(
            Command::new("make")
                .args(["--dry-run", "--no-print-directory", "run"])
                .env("TMPDIR", home.path())
                .current_dir(home.path()),
        );
        said.split("--storage.path=").nth(1).map(|path| path.trim().to_owned())
    };
    assert_eq!(storage().as_deref(), Some("target/run"));
    give(home.path());
    let temporary = storage().unwrap_or_default();
    assert!(temporary.starts_with(&home.path().display().to_string()), "{temporary}");
}

#[test]
fn a_link_that_another_user_can_turn_is_refused() {
    let (home, storage) = open_home();
    let theirs = home.path().join("theirs");
    fs::create_dir(&theirs).expect("a writable folder");
    symlink(&storage, theirs.join("link")).expect("a writable folder");
    give(&theirs);
    let said = fail(&mut run_with_storage(&home, &theirs.join("link"), "--enforce"));
    assert!(said.contains("who can replace what is in it"), "{said}");
}

#[test]
fn other_users_can_neither_read_nor_lock_the_files() {
    let (home, storage) = open_home();
    set_mode(&storage, 0o755);
    // As an earlier version left them.
    for name in ["lock", "alerts.json", "ledger.db.corrupt-20260101T000000Z"] {
        fs::write(storage.join(name), "").expect("a writable folder");
        set_mode(&storage.join(name), 0o644);
    }
    let evenkeel = home.start(&["--enforce"]);
    let umask = fs::read_to_string(format!("/proc/{}/status", evenkeel.pid())).expect("evenkeel runs");
    assert!(umask.lines().any(|line| line == "Umask:\t0077"), "{umask}");
    eventually("the control socket", TIMEOUT, || {
        storage.join("control.sock").exists().then_some(())
    });
    assert_eq!(evenkeel.post(about("Test", &node_name()).as_bytes()).status, 200);
    let names = fs::read_dir(&storage)
        .expect("our own folder")
        .map(|entry| entry.expect("an entry").path());
    let names: Vec<PathBuf> = names.collect();
    assert!(names.contains(&storage.join("ledger.db-shm")), "{names:?}");
    for path in &names {
        assert_eq!(mode_of(path), 0o600, "{}", path.display());
        let path = path.display().to_string();
        let said = fail(&mut as_other_user(&["flock", "--shared", "--nonblock", &path, "true"]));
        assert!(said.contains("Permission denied"), "{said}");
    }
    assert_eq!(evenkeel.post(about("Test", &node_name()).as_bytes()).status, 200);
    drop(evenkeel);
    home.start(&["--enforce"]);
}

#[test]
fn client_refuses_a_daemon_of_another_user() {
    let (_home, storage) = open_home();
    set_mode(&storage, 0o777);
    let socket = storage.join("control.sock");
    let (ready, is_ready) = std::sync::mpsc::channel();
    // Only this thread becomes the other user.
    std::thread::spawn(move || {
        let other = rustix::thread::Uid::from_raw(OTHER_USER);
        rustix::thread::set_thread_res_uid(other, other, other).expect("the tests run as root");
        let listener = UnixListener::bind(socket).expect("a folder that every user can write");
        ready.send(()).expect("the test waits");
        for peer in listener.incoming() {
            let mut peer = peer.expect("a client");
            let _ = peer.write_all(b"\"done\"\n");
        }
    });
    is_ready.recv_timeout(TIMEOUT).expect("the impostor listens");
    let pause = |storage: &Path| {
        let mut pause = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        pause.arg("pause").arg(format!("--storage.path={}", storage.display()));
        fail(&mut pause)
    };
    let said = pause(&storage);
    assert!(said.contains("chmod o-w"), "{said}");
    // The directory is safe by now, but the socket stays.
    set_mode(&storage, 0o755);
    let said = pause(&storage);
    assert!(said.contains(&format!("uid {OTHER_USER} answers there")), "{said}");
}

#[test]
fn history_of_another_user_is_refused() {
    let (home, storage) = open_home();
    let evenkeel = home.start(&[]);
    let history = || {
        let mut history = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        history
            .arg("history")
            .arg(format!("--storage.path={}", storage.display()));
        history
    };
    eventually("a ledger", TIMEOUT, || {
        history()
            .output()
            .is_ok_and(|output| output.status.success())
            .then_some(())
    });
    drop(evenkeel);
    give(&storage);
    let said = fail(&mut history());
    assert!(said.contains(&format!("belongs to uid {OTHER_USER}")), "{said}");
    // The advice must not take the directory from the daemon of that user.
    assert!(
        said.contains(&format!(
            "if evenkeel runs as uid {OTHER_USER}, run the command as that user"
        )),
        "{said}"
    );
}

#[test]
fn check_warns_of_a_script_that_another_user_can_change() {
    let home = Home::new("rules: []\n");
    let script = home.path().join("notify.sh");
    fs::write(&script, "true\n").expect("a writable folder");
    home.write("evenkeel.yml", "rule_files: [rules/*.yml]\nallow_exec: true\n");
    let rule = format!(
        "rules: [{{name: r, matchers: [alertname=Test], actions: [{{exec: [/bin/sh, {}]}}]}}]\n",
        script.display()
    );
    home.write("rules/test.yml", &rule);
    for (mode, is_warned) in [(0o644, false), (0o666, true)] {
        set_mode(&script, mode);
        let output = home.evenkeel("check").output().expect("check runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let warning = "warning: other users can write it (mode 0666); a rule runs it with the privileges of evenkeel";
        assert!(output.status.success(), "{said}");
        assert_eq!(said.contains(warning), is_warned, "{mode:o}: {said}");
    }
}

#[test]
fn enforce_needs_files_that_no_other_user_can_change() {
    let home = Home::new(RULES);
    let check = || {
        let output = home.evenkeel("check").output().expect("check runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        (output.status.success(), said)
    };
    let config = "rule_files: [rules/*.yml]\nwebhook: {token_file: webhook.token}\n";
    for name in ["evenkeel.yml", "rules/test.yml", "rules", "webhook.token"] {
        let path = home.path().join(name);
        let mode = mode_of(&path);
        set_mode(&path, mode | 0o022);
        home.write("evenkeel.yml", config);
        let correction = format!("chmod go-w {}", path.display());

        let dry_run = home.start(&[]);
        let warned = dry_run
            .log_of_start()
            .into_iter()
            .any(|line| line.contains(&correction) && line.contains("warn"));
        assert!(warned, "{name}: {:?}", dry_run.log());
        drop(dry_run);
        let (is_valid, said) = check();
        assert!(
            is_valid && said.contains("warning: other users can write it"),
            "{name}: {said}"
        );

        home.write("evenkeel.yml", &format!("mode: enforce\n{config}"));
        let (status, log) = home.run_to_its_end(ANY_PORT, ANY_PORT);
        assert!(
            !status.success() && log.contains("other users can write it"),
            "{name}: {log}"
        );
        let (is_valid, said) = check();
        assert!(
            !is_valid && said.contains("error: other users can write it"),
            "{name}: {said}"
        );
        assert!(said.contains(&correction), "{name}: {said}");
        set_mode(&path, mode);
    }
    let evenkeel = home.start(&[]);
    let rules = home.path().join("rules/test.yml");
    give(&rules);
    evenkeel.reload();
    eventually("the refusal of the reload", TIMEOUT, || {
        (evenkeel.metric("evenkeel_config_last_reload_successful", &[]) == 0.0).then_some(())
    });
    evenkeel.log_with(&format!("belongs to uid {OTHER_USER}"));
}

fn write_rule_that_runs(home: &Home, program: &Path) {
    let step = format!("{{exec: {{argv: [{}]}}}}", program.display());
    home.write(
        "rules/test.yml",
        &format!("rules: [{{name: r, matchers: [alertname=Test], actions: [{step}]}}]\n"),
    );
}

#[test]
fn program_that_another_user_can_change_is_refused() {
    let home = Home::new("rules: []\n");
    let program = home.path().join("program");
    fs::write(&program, "#!/bin/sh\n").expect("a writable folder");
    set_mode(&program, 0o757);
    write_rule_that_runs(&home, &program);
    home.write(
        "evenkeel.yml",
        "mode: enforce\nallow_exec: true\nrule_files: [rules/*.yml]\nwebhook: {token_file: webhook.token}\n",
    );
    let (status, log) = home.run_to_its_end(ANY_PORT, ANY_PORT);
    assert!(!status.success() && log.contains("chmod o-w"), "{log}");
}

#[test]
fn commands_start_with_the_umask_of_the_daemons_start() {
    let home = Home::new("rules: []\n");
    let umask = home.path().join("umask");
    let program = home.path().join("program");
    fs::write(&program, format!("#!/bin/sh\numask >{}\n", umask.display())).expect("a writable folder");
    set_mode(&program, 0o755);
    write_rule_that_runs(&home, &program);
    home.write(
        "evenkeel.yml",
        "allow_exec: true\nrule_files: [rules/*.yml]\nwebhook: {token_file: webhook.token}\n",
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 027; exec \"$@\"", "sh"]);
    let evenkeel = home.start_by(shell, &["--enforce"]);
    assert_eq!(evenkeel.post(about("Test", &node_name()).as_bytes()).status, 200);
    let said = eventually("the command", TIMEOUT, || {
        fs::read_to_string(&umask).ok().filter(|text| text.ends_with('\n'))
    });
    assert_eq!(said, "0027\n");
}

#[test]
fn token_may_be_readable_by_a_group() {
    let home = Home::new(RULES);
    let token = home.path().join("webhook.token");
    let warns = |mode: u32| {
        set_mode(&token, mode);
        let evenkeel = home.start(&["--enforce"]);
        evenkeel.log_of_start().iter().any(|line| line.contains("chmod o-r"))
    };
    assert!(!warns(0o640));
    assert!(warns(0o644));
}

#[test]
fn check_says_permission_denied_where_a_user_lacks_access() {
    let home = Home::new(RULES);
    set_mode(home.path(), 0o755);
    set_mode(&home.path().join("webhook.token"), 0o640);
    let folder = home.path().join("private");
    fs::create_dir(&folder).expect("a writable folder");
    set_mode(&folder, 0o700);
    fs::write(folder.join("rule.yml"), RULES).expect("a writable folder");
    home.write(
        "evenkeel.yml",
        "rule_files: [private/rule.yml]\nwebhook: {token_file: webhook.token}\n",
    );
    let binary = copy_for_others(&home);
    let config = format!("--config.file={}", home.path().join("evenkeel.yml").display());
    let mut check = as_other_user(&[&binary, "check", &config]);
    let said = fail(check.stdin(Stdio::null()));
    assert!(said.contains("webhook.token: Permission denied"), "{said}");
    assert!(said.contains("rule.yml: Permission denied"), "{said}");
    assert!(said.contains("chgrp GROUP") && !said.contains("make one"), "{said}");
    let storage = format!("--storage.path={}", folder.display());
    let said = fail(&mut as_other_user(&[&binary, "history", &storage]));
    assert!(said.contains("permission denied"), "{said}");
}

/// A copy of the program that every user can run.
fn copy_for_others(home: &Home) -> String {
    let copy = home.path().join("evenkeel");
    fs::copy(env!("CARGO_BIN_EXE_evenkeel"), &copy).expect("a writable folder");
    set_mode(&copy, 0o755);
    copy.display().to_string()
}
