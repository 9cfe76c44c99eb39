//! `kernel_hung`: tasks that the kernel found hung, from `/proc/sys/kernel/hung_task_detect_count`.

use super::info::{CollectorInfo, Pace};
use crate::family::Family;
use crate::sense::runtime::kernel_file::{ReadError, parse_number};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "node_kernel_hung_tasks_total";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "kernel_hung",
    Pace::Scrape,
    "tasks that hang in the kernel",
    METRICS,
    |_| Box::new(read_kernel_hung),
);

pub fn read_kernel_hung(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let count = roots.parse_lines_once("sys/kernel/hung_task_detect_count", |text, bad| {
        Ok(bad.keep(parse_number(text)))
    });
    // The kernel has the file since 6.13.
    let count = count.map_err(|error| error.or_absent("no count of hung tasks"))?;
    let family =
        |count| Family::counter("node_kernel_hung_tasks_total", "Tasks found hung since the boot.").value(count);
    Ok(count.map(family).into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn hung_tasks_are_counted() {
        let tree = Tree::new();
        assert!(matches!(read_kernel_hung(&tree.roots), Err(ReadError::Absent(_))));
        tree.proc("sys/kernel/hung_task_detect_count", "3\n");
        assert_eq!(
            text_of(&read_kernel_hung(&tree.roots).unwrap(), ""),
            ["node_kernel_hung_tasks_total 3"]
        );
    }
}
