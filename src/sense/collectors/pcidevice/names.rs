//! Where the names of PCI devices are looked up.

use super::ids::PciIds;
use crate::sense::runtime::kernel_file::read_text;
use crate::sense::runtime::roots::Roots;
use std::path::{Path, PathBuf};

/// Whether and where names of devices are looked up.
#[derive(Debug, Clone, Default)]
pub struct PciNames {
    pub are_wanted: bool,
    /// `--collector.pcidevice.idsfile`.
    pub file: Option<PathBuf>,
}

impl PciNames {
    pub fn then<T>(&self, value: impl FnOnce() -> T) -> Option<T> {
        self.are_wanted.then(value)
    }

    pub fn load(&self, roots: &Roots) -> PciIds {
        let defaults = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"];
        let defaults = defaults.map(|path| roots.host(Path::new(path)));
        let mut texts = self
            .file
            .iter()
            .chain(&defaults)
            .filter_map(|path| read_text(path).ok());
        PciIds::parse(&texts.next().unwrap_or_default())
    }
}
