//! Favours: values that leave a process or a cgroup more than it has, which only root can arrange. A user must not get
//! one by supplying the program that a rule selects, nor keep one beyond the alert.

use super::apply::keeps_from_children;
use super::descendants::{Family, is_born_since};
use super::guard::Denial;
use crate::host::{Host, Thread, Value};
use crate::ledger::lease::Favour;
use crate::ledger::{Decision, Lease, SavedValue};
use crate::process::cgroup::unit_of;
use crate::process::{Identity, Process, ProcessFields};

/// # Errors
/// When one of the processes that would get a favour does not run a program of this host.
pub fn screen<'p>(processes: impl IntoIterator<Item = &'p Process>) -> Result<(), Denial> {
    let is_foreign =
        |process: &&Process| process.details.is_host_program != Some(true) || process.details.unread.is_some();
    let Some(foreign) = processes.into_iter().find(is_foreign) else {
        return Ok(());
    };
    let (pid, exe) = (
        foreign.identity.pid,
        foreign.details.exe.as_deref().unwrap_or("its executable"),
    );
    Err(Denial {
        decision: Decision::Protected,
        reason: format!(
            "this value favours process {pid}, and {exe} is not a program of this host: a file at that path in a \
             system directory that only root can write"
        ),
    })
}

/// Notes in the saved values of a process that the step favours it. `others` are the other leases on the process.
pub fn note(host: &mut impl Host, process: &Process, value: &Value, saved: &mut [SavedValue], others: &[&Lease]) {
    let mut read = process.clone();
    host.read_details(&mut read, ProcessFields::USER | ProcessFields::CGROUP);
    let asked_before = |thread: Thread| {
        let mut known = others.iter().flat_map(|lease| lease.effect.saved());
        known.any(|saved| saved.thread() == thread && saved.favour.as_ref().is_some_and(|favour| favour.resets_on_fork))
    };
    for saved in saved {
        let thread = saved.thread();
        saved.favour = Some(Favour {
            resets_on_fork: !asked_before(thread) && keeps_from_children(host, process.identity, thread, value),
            uid: read.details.uid,
            cgroup: read.details.cgroup.clone(),
        });
    }
}

/// Lets the kernel copy the values of threads to their children again, where it did before the lease.
pub fn let_children_inherit(host: &mut impl Host, target: Identity, lease: &Lease) {
    for saved in lease.effect.saved() {
        if saved.favour.as_ref().is_some_and(|favour| favour.resets_on_fork) {
            // A thread that is gone needs nothing.
            let _ = host.set_reset_on_fork(target, saved.thread(), false);
        }
    }
}

/// Processes that hold the favour of a lease although their parents, which led to its target, are gone. They started
/// since the lease, belong to the same user and the same unit, and have a value that only root can give.
pub fn holders(host: &mut impl Host, lease: &Lease, ours: &Value, own: &Value, family: &Family<'_>) -> Vec<Identity> {
    let favour = lease.effect.saved().iter().find_map(|saved| saved.favour.as_ref());
    let Some((favour, initial)) = favour.zip(ours.knob().initial()) else {
        return Vec::new();
    };
    // A process of root can give itself any value. Where the kernel resets children, none has inherited it.
    let Some(uid) = favour.uid.filter(|uid| *uid != 0 && !favour.resets_on_fork) else {
        return Vec::new();
    };
    let young = family.tree.iter().filter(|process| {
        let mut line = std::iter::once(*process).chain(family.tree.ancestors(process));
        is_born_since(process, lease.taken_at)
            && !process.is_dead()
            && lease.target != process.identity.into()
            && !line.any(|process| (family.is_holder)(process.identity))
    });
    let mut found = Vec::new();
    for process in young {
        let value = match ours.knob().in_table(process) {
            Some(value) => Ok(value),
            None => host.get(process.identity, process.identity.main_thread(), ours.knob()),
        };
        let is_ours = value.is_ok_and(|value| value.favours(own) && value.favours(&initial) && !value.favours(ours));
        if is_ours && is_of_user(host, process, uid, favour.cgroup.as_deref()) {
            found.push(process.identity);
        }
    }
    found
}

fn is_of_user(host: &mut impl Host, process: &Process, uid: u32, cgroup: Option<&str>) -> bool {
    let mut read = process.clone();
    host.read_details(&mut read, ProcessFields::USER | ProcessFields::CGROUP)
        && read.details.uid == Some(uid)
        && is_same_place(cgroup, read.details.cgroup.as_deref())
}

/// Whether two cgroups belong to one unit, or to the slice of one user, who can start processes in any unit of it.
fn is_same_place(one: Option<&str>, other: Option<&str>) -> bool {
    let (Some(one), Some(other)) = (one, other) else {
        return one == other;
    };
    let user_slice = |path: &str| {
        let mut parts = path.strip_prefix("/user.slice/")?.split('/');
        parts.next().map(str::to_owned)
    };
    unit_of(one) == unit_of(other) || (user_slice(one).is_some() && user_slice(one) == user_slice(other))
}
