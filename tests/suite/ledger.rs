//! The ledger on failing disks: full, read-only, locked by another program, corrupt. Alertmanager gets 503, the
//! exporter continues, leases are reverted, and the ledger recovers without a restart. Mounts need root.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::support::burner::Burner;
use crate::support::daemon::{Daemon, Home};
use crate::support::payload::{envelope, firing};
use crate::support::tools::succeed;
use crate::support::{eventually, node_name};

const TIMEOUT: Duration = Duration::from_secs(20);
const NICE: i32 = 11;

/// A small file system.
struct Disk(PathBuf);

impl Disk {
    fn mount(home: &Home, kib: usize) -> Disk {
        let path = home.path().join("storage");
        std::fs::create_dir(&path).expect("a writable folder");
        succeed(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={kib}k,mode=700"), "evenkeel-test"])
                .arg(&path),
        );
        Disk(path)
    }

    fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        succeed(Command::new("mount").args(["-o", &options]).arg(&self.0));
    }

    /// Fills the file system.
    fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let mut file = std::fs::File::create(&filler).expect("a writable disk");
        while std::io::Write::write_all(&mut file, &[7; 4096]).is_ok() {}
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A lazy unmount, because an exiting daemon may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn rules(comm: &str) -> String {
    format!(
        "rules:\n\
         \x20 - name: calm\n\
         \x20   matchers: ['alertname=\"Test\"']\n\
         \x20   select: {{name: {comm}}}\n\
         \x20   actions: [{{nice: {NICE}}}]\n"
    )
}

fn comm(kind: &str) -> String {
    format!("{kind}-{}", std::process::id() % 100_000)
}

/// Alertmanager's payload of an alert with this number.
fn alert(number: usize, status: &str) -> Vec<u8> {
    let labels = serde_json::json!({
        "alertname": "Test", "instance": node_name(), "number": number.to_string(), "padding": "x".repeat(2000),
    });
    let mut alert = firing(labels);
    alert["status"] = status.into();
    alert["fingerprint"] = format!("{number:016x}").into();
    if status == "resolved" {
        alert["endsAt"] = "2026-01-02T04:04:05Z".into();
    }
    envelope(&[alert]).to_string().into_bytes()
}

fn is_writable(evenkeel: &Daemon) -> bool {
    evenkeel.metric("evenkeel_ledger_writable", &[]) == 1.0
}

fn holds(burner: &Burner, before: &[(u32, i32)], nice: i32) {
    eventually("the nice value", TIMEOUT, || match nice {
        0 => (burner.nice_values() == before).then_some(()),
        nice => burner.is_at(nice).then_some(()),
    });
}

/// Fires alerts until the ledger is full and the webhook responds with 503.
fn fire_until_refused(evenkeel: &Daemon) {
    let refused = (100..3000).find(|number| evenkeel.post(&alert(*number, "firing")).status == 503);
    assert!(refused.is_some(), "the ledger took everything");
}

#[test]
fn full_disk_refuses_steps_undoes_leases_and_recovers() {
    let comm = comm("full");
    let home = Home::new(&rules(&comm));
    let disk = Disk::mount(&home, 1024);
    let burner = Burner::start(&comm);
    let before = burner.nice_values();
    let evenkeel = home.start(&["--enforce"]);
    assert_eq!(evenkeel.post(&alert(1, "firing")).status, 200);
    holds(&burner, &before, NICE);
    let filler = disk.fill();
    fire_until_refused(&evenkeel);
    assert!(!is_writable(&evenkeel));
    assert!(
        evenkeel.scrape_text().contains("node_memory_MemTotal_bytes"),
        "the exporter goes on"
    );
    let refused = evenkeel.metric("evenkeel_decisions_total", &[("decision", "ledger")]);
    assert!(refused >= 1.0, "{refused}");
    evenkeel.post(&alert(1, "resolved"));
    let others = evenkeel.metric("evenkeel_leases", &[]);
    std::fs::remove_file(filler).expect("room again");
    eventually("the ledger to be written", TIMEOUT, || {
        is_writable(&evenkeel).then_some(())
    });
    assert_eq!(
        evenkeel.post(&alert(5000, "firing")).status,
        200,
        "{others} leases are held"
    );
    drop(evenkeel);
}

#[test]
fn alert_that_fires_again_after_a_full_disk_and_a_kill_is_answered() {
    let comm = comm("again");
    let home = Home::new(&rules(&comm));
    let disk = Disk::mount(&home, 1024);
    let burner = Burner::start(&comm);
    let before = burner.nice_values();
    let mut evenkeel = home.start(&["--enforce"]);
    assert_eq!(evenkeel.post(&alert(1, "firing")).status, 200);
    holds(&burner, &before, NICE);
    let filler = disk.fill();
    fire_until_refused(&evenkeel);
    evenkeel.post(&alert(1, "resolved"));
    // Other alerts may have fired before the disk was full.
    for number in 100..3000 {
        if burner.nice_values() == before {
            break;
        }
        evenkeel.post(&alert(number, "resolved"));
    }
    holds(&burner, &before, 0);
    evenkeel.kill();
    std::fs::remove_file(filler).expect("room again");
    let evenkeel = home.start(&["--enforce"]);
    eventually("the ledger to be written", TIMEOUT, || {
        is_writable(&evenkeel).then_some(())
    });
    assert_eq!(evenkeel.post(&alert(1, "firing")).status, 200);
    holds(&burner, &before, NICE);
    evenkeel.post(&alert(1, "resolved"));
    holds(&burner, &before, 0);
}

/// docs/operations.md, "After a crash".
#[test]
fn killed_daemon_keeps_leases_of_open_alerts_and_reverts_the_rest() {
    let names = ["kept", "gone", "late"].map(comm);
    let rule = |comm: &str, more: &str| {
        format!(
            "  - {{name: {comm}, matchers: [alertname=Test], select: {{name: {comm}}}, actions: [{{nice: {NICE}}}]{more}}}\n"
        )
    };
    let [kept, gone, late] = [&names[0], &names[1], &names[2]];
    let staying = rule(kept, "") + &rule(late, ", hold: 3s");
    let home = Home::new(&format!("rules:\n{staying}{}", rule(gone, "")));
    let burners = [kept, gone, late].map(|comm| Burner::start(comm));
    let before = burners.each_ref().map(Burner::nice_values);
    let mut evenkeel = home.start(&["--enforce"]);
    assert_eq!(evenkeel.post(&alert(1, "firing")).status, 200);
    for (burner, before) in burners.iter().zip(&before) {
        holds(burner, before, NICE);
    }
    evenkeel.wait_for_leases(3);
    evenkeel.kill();
    home.write("rules/test.yml", &format!("rules:\n{staying}"));
    std::thread::sleep(Duration::from_secs(3));
    assert!(burners.iter().all(|burner| burner.is_at(NICE)), "nothing is reverted");

    let evenkeel = home.start(&["--enforce"]);
    for index in [1, 2] {
        holds(&burners[index], &before[index], 0);
    }
    evenkeel.wait_for_leases(1);
    assert!(burners[0].is_at(NICE));
    assert_eq!(evenkeel.post(&alert(1, "resolved")).status, 200);
    holds(&burners[0], &before[0], 0);
    drop(evenkeel);
    assert_eq!((home.outcomes("restored"), home.outcomes("expired")), (2, 1));
}

#[test]
fn read_only_disk_undoes_leases_and_recovers() {
    let comm = comm("readonly");
    let home = Home::new(&rules(&comm));
    let disk = Disk::mount(&home, 8192);
    let burner = Burner::start(&comm);
    let before = burner.nice_values();
    let mut evenkeel = home.start(&["--enforce"]);
    assert_eq!(evenkeel.post(&alert(1, "firing")).status, 200);
    holds(&burner, &before, NICE);
    evenkeel.wait_for_leases(1);
    evenkeel.kill();
    disk.remount("ro");
    let evenkeel = home.start(&["--enforce"]);
    assert!(burner.is_at(NICE));
    eventually("the ledger to be told as unwritable", TIMEOUT, || {
        (!is_writable(&evenkeel)).then_some(())
    });
    assert_eq!(evenkeel.leases(), 1, "it was read all the same");
    assert_eq!(evenkeel.post(&alert(2, "firing")).status, 503);
    evenkeel.post(&alert(1, "resolved"));
    holds(&burner, &before, 0);
    disk.remount("rw");
    eventually("the ledger to be written", TIMEOUT, || {
        is_writable(&evenkeel).then_some(())
    });
    assert_eq!(evenkeel.post(&alert(2, "firing")).status, 200);
    holds(&burner, &before, NICE);
    evenkeel.post(&alert(2, "resolved"));
    holds(&burner, &before, 0);
    drop(evenkeel);
    assert_eq!(home.outcomes("restored"), 2, "the one from memory is on record too");
}

#[test]
fn a_ledger_that_another_process_holds_is_waited_for() {
    let comm = comm("locked");
    let home = Home::new(&rules(&comm));
    let burner = Burner::start(&comm);
    let before = burner.nice_values();
    let evenkeel = home.start(&["--enforce"]);
    assert_eq!(evenkeel.post(&alert(1, "firing")).status, 200);
    holds(&burner, &before, NICE);
    let other = rusqlite::Connection::open(home.path().join("storage/ledger.db")).expect("a ledger");
    other.execute_batch("BEGIN EXCLUSIVE").expect("a lock");
    assert_eq!(evenkeel.post(&alert(2, "firing")).status, 503);
    assert!(!is_writable(&evenkeel));
    evenkeel.post(&alert(1, "resolved"));
    holds(&burner, &before, 0);
    other.execute_batch("ROLLBACK").expect("an end of the lock");
    eventually("the ledger to be written", TIMEOUT, || {
        is_writable(&evenkeel).then_some(())
    });
    assert_eq!(evenkeel.post(&alert(2, "firing")).status, 200);
    holds(&burner, &before, NICE);
    drop(other);
    drop(evenkeel);
}

#[test]
fn broken_ledger_is_set_aside_and_its_leases_restored() {
    let comm = comm("broken");
    let home = Home::new(&rules(&comm));
    let burner = Burner::start(&comm);
    let before = burner.nice_values();
    let mut evenkeel = home.start(&["--enforce"]);
    assert_eq!(evenkeel.post(&alert(1, "firing")).status, 200);
    holds(&burner, &before, NICE);
    evenkeel.wait_for_leases(1);
    evenkeel.kill();
    let ledger = home.path().join("storage/ledger.db");
    let connection = rusqlite::Connection::open(&ledger).expect("a ledger");
    let checkpoint = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    checkpoint.expect("a checkpoint");
    drop(connection);
    let mut bytes = std::fs::read(&ledger).expect("a ledger");
    bytes[..4096].fill(0xa5);
    std::fs::write(&ledger, bytes).expect("a writable ledger");
    let evenkeel = home.start(&["--enforce"]);
    holds(&burner, &before, 0);
    assert!(is_writable(&evenkeel));
    evenkeel.log_with("ledger.db.corrupt-");
    let kept = std::fs::read_dir(home.path().join("storage")).expect("a readable folder");
    let names = kept.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    assert_eq!(names.filter(|name| name.contains(".corrupt-")).count(), 1);
    assert_eq!(evenkeel.post(&alert(2, "firing")).status, 200);
    holds(&burner, &before, NICE);
    drop(evenkeel);
}

/// docs/operations.md, "Upgrading".
#[test]
fn ledger_of_a_later_version_is_only_read_until_the_upgrade() {
    let comm = comm("later");
    let home = Home::new(&rules(&comm));
    let burner = Burner::start(&comm);
    let before = burner.nice_values();
    let mut evenkeel = home.start(&["--enforce"]);
    assert_eq!(evenkeel.post(&alert(1, "firing")).status, 200);
    holds(&burner, &before, NICE);
    evenkeel.wait_for_leases(1);
    evenkeel.hand_over();
    let ledger = home.path().join("storage/ledger.db");
    let schema = |set: &str| {
        let connection = rusqlite::Connection::open(&ledger).expect("a ledger");
        let query = "SELECT value FROM meta WHERE key = 'schema'";
        let found: String = connection.query_row(query, [], |row| row.get(0)).expect("a version");
        let update = "UPDATE meta SET value = ?1 WHERE key = 'schema'";
        connection.execute(update, [set]).expect("a writable ledger");
        found
    };
    let current = schema("99");
    let bytes = std::fs::read(&ledger).expect("a ledger");
    let mut evenkeel = home.start(&["--enforce"]);
    eventually("the ledger to be told as unwritable", TIMEOUT, || {
        (!is_writable(&evenkeel)).then_some(())
    });
    assert!(evenkeel.scrape_text().contains("node_memory_MemTotal_bytes"));
    assert_eq!(evenkeel.post(&alert(2, "firing")).status, 503);
    evenkeel.log_with("written by a later version (schema 99");
    assert!(burner.is_at(NICE), "the lease goes on");
    evenkeel.terminate();
    holds(&burner, &before, 0);
    assert!(
        std::fs::read(&ledger).expect("a ledger") == bytes,
        "the ledger is as before"
    );

    schema(&current);
    let evenkeel = home.start(&["--enforce"]);
    evenkeel.post(&alert(1, "resolved"));
    eventually("the end of the lease", TIMEOUT, || {
        (evenkeel.leases() == 0 && is_writable(&evenkeel)).then_some(())
    });
    assert_eq!(burner.nice_values(), before);
    drop(evenkeel);
}
