//! `uname`: names and versions of kernel and host, from `uname(2)`.

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};

/// The published metrics.
const METRICS: &str = "node_uname_info";

pub const INFO: CollectorInfo = CollectorInfo::on("uname", Pace::Slow, "kernel and host name", METRICS, |_| {
    Box::new(|_| Ok(read_uname()))
});

pub fn read_uname() -> Vec<Family> {
    let uname = rustix::system::uname();
    let text = |field: &std::ffi::CStr| field.to_string_lossy().into_owned();
    let mut info = Family::gauge(
        "node_uname_info",
        "Kernel and host as uname(2) names them; the value is always 1.",
    );
    info.push(
        vec![
            label("domainname", text(uname.domainname())),
            label("machine", text(uname.machine())),
            label("nodename", text(uname.nodename())),
            label("release", text(uname.release())),
            label("sysname", text(uname.sysname())),
            label("version", text(uname.version())),
        ],
        1.0,
    );
    vec![info]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uname_names_linux() {
        let families = read_uname();
        assert!(families[0].point(0).labels.contains(&label("sysname", "Linux")));
    }
}
