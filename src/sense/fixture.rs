//! Fixtures of tests: trees of procfs, sysfs and root file system, and families as lines to compare.

use super::runtime::bad_lines::BadLines;
use super::runtime::kernel_file::ParseError;
use super::runtime::roots::Roots;
use crate::family::{Family, SampleValue};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub struct Tree {
    /// The directory is deleted with the tree.
    _directory: tempfile::TempDir,
    pub roots: Roots,
}

impl Tree {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path();
        let roots = Roots::new(base.join("proc"), base.join("sys"), base.join("root"));
        Tree {
            _directory: directory,
            roots,
        }
    }

    pub fn proc(&self, path: &str, content: impl AsRef<[u8]>) {
        write(&self.roots.proc(path), content.as_ref());
    }

    pub fn sys(&self, path: &str, content: impl AsRef<[u8]>) {
        write(&self.roots.sys(path), content.as_ref());
    }

    pub fn host(&self, path: &str, content: impl AsRef<[u8]>) {
        write(&self.roots.host(Path::new(path)), content.as_ref());
    }
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Refuses sockets of netlink to this thread, as `RestrictAddressFamilies=` of systemd does.
pub fn deny_netlink() {
    let netlink = libc::AF_NETLINK.cast_unsigned().into();
    let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, netlink).unwrap();
    let rules = BTreeMap::from([(libc::SYS_socket, vec![SeccompRule::new(vec![condition]).unwrap()])]);
    let refused = SeccompAction::Errno(libc::EAFNOSUPPORT.cast_unsigned());
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, architecture).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// What a parser makes of a file.
pub fn parsed<T>(
    text: &str,
    parse: impl FnOnce(&str, &mut BadLines) -> Result<T, ParseError>,
) -> Result<T, ParseError> {
    BadLines::default().parse(text, parse)
}

/// Series as `name{labels} value`, in order, where the line contains `part`.
pub fn text_of(families: &[Family], part: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for family in families {
        for point in family.points() {
            let labels: Vec<String> = point
                .labels
                .iter()
                .map(|(name, value)| format!("{name}={value:?}"))
                .collect();
            let labels = if labels.is_empty() {
                String::new()
            } else {
                format!("{{{}}}", labels.join(","))
            };
            let SampleValue::Number(value) = point.value else {
                panic!("{} is no number", family.name)
            };
            lines.push(format!("{}{labels} {value}", family.name));
        }
    }
    lines.retain(|line| line.contains(part));
    lines
}
