//! The lines of requests in `/proc/net/rpc/nfs` and `/proc/net/rpc/nfsd`: a count per method, in the order of the
//! protocol.

use crate::family::{Label, label};
use crate::sense::runtime::kernel_file::ParseError;

/// Methods of NFS 2 in the order of the file.
pub const VERSION_2: &str = "\
    Null GetAttr SetAttr Root Lookup ReadLink Read WrCache Write Create Remove Rename Link SymLink MkDir RmDir \
    ReadDir FsStat";

/// Methods of NFS 3 in the order of the file.
pub const VERSION_3: &str = "\
    Null GetAttr SetAttr Lookup Access ReadLink Read Write Create MkDir SymLink MkNod Remove RmDir Rename Link \
    ReadDir ReadDirPlus FsStat FsInfo PathConf Commit";

/// The numbers of a line after its name.
pub fn numbers(line: &str) -> Result<Vec<f64>, ParseError> {
    let numbers = line.split_ascii_whitespace().skip(1).map(str::parse);
    let numbers: Result<Vec<f64>, _> = numbers.collect();
    numbers.map_err(|_| ParseError::text(line, "is not a name with numbers"))
}

/// Labels and counts of a line of requests, whose first number says how many follow. Kernels have more methods over
/// time; one that this kernel lacks has 0. Methods named `.` are not shown.
pub fn requests(
    line: &str,
    version: &'static str,
    methods: &'static str,
) -> Result<Vec<([Label; 2], f64)>, ParseError> {
    let numbers = numbers(line)?;
    let Some((length, counts)) = numbers.split_first() else {
        return Err(ParseError::missing("number of methods", line));
    };
    if *length != counts.len() as f64 {
        return Err(ParseError::text(line, "has another number of methods than it says"));
    }
    let methods = methods.split_ascii_whitespace().enumerate();
    let shown = methods.filter(|(_, method)| *method != ".").map(|(index, method)| {
        let labels = [label("proto", version), label("method", method)];
        (labels, counts.get(index).copied().unwrap_or_default())
    });
    Ok(shown.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_belong_to_methods_by_position() {
        let found = requests("proc4ops 3 7 8 9", "4", "Null . Read Write").unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(labels, count)| (labels[1].1.to_string(), *count))
            .collect();
        assert_eq!(
            found,
            [
                ("Null".to_owned(), 7.0),
                ("Read".to_owned(), 9.0),
                ("Write".to_owned(), 0.0)
            ]
        );
        for bad in ["proc2", "proc2 2 1", "proc2 x", "proc2 1 -"] {
            assert!(requests(bad, "2", VERSION_2).is_err(), "{bad}");
        }
    }
}
