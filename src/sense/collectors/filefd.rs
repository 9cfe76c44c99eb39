//! `filefd`: file handles in use and their limit, from `/proc/sys/fs/file-nr`.

use super::info::{CollectorInfo, Pace};
use crate::family::{Descriptor, Family, unlabelled_descriptors, unlabelled_families};
use crate::sense::runtime::kernel_file::{FileLayout, ParseError, ReadError};
use crate::sense::runtime::roots::Roots;
use std::sync::{Arc, LazyLock};

/// The published metrics.
const METRICS: &str = "node_filefd_allocated node_filefd_maximum";

pub const INFO: CollectorInfo =
    CollectorInfo::on("filefd", Pace::Fast, "file handles", METRICS, |_| Box::new(read_filefd));

static FILE_HANDLES: LazyLock<[Arc<Descriptor>; 2]> = LazyLock::new(|| {
    unlabelled_descriptors([
        ("node_filefd_allocated", "File handles that are allocated."),
        ("node_filefd_maximum", "File handles that may be allocated."),
    ])
});

/// Allocated and largest number of file handles from `/proc/sys/fs/file-nr`.
pub fn parse_file_nr(text: &str) -> Result<[f64; 2], ParseError> {
    let fields: Vec<f64> = text
        .split_ascii_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    match fields[..] {
        [allocated, _, maximum] => Ok([allocated, maximum]),
        _ => Err(ParseError::text(text, "is not three numbers")),
    }
}

pub fn read_filefd(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let handles = roots.parse("sys/fs/file-nr", FileLayout::Value, parse_file_nr)?;
    Ok(unlabelled_families(&*FILE_HANDLES, handles.map(Some)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn file_handles_are_two_numbers() {
        let tree = Tree::new();
        tree.proc("sys/fs/file-nr", "492\t0\t2465610\n");
        assert_eq!(
            text_of(&read_filefd(&tree.roots).unwrap(), ""),
            ["node_filefd_allocated 492", "node_filefd_maximum 2465610"]
        );
        assert!(parse_file_nr("492 0\n").is_err());
    }
}
