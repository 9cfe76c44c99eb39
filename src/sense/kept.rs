//! Files of procfs that are read every second: opened once and read again from their beginning, for which the kernel
//! composes them anew. Opening costs as much as reading, and a file that stays open keeps the kernel's buffer, too.

use rustc_hash::FxHashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::roots::{Layout, read_to_end};

/// The open files, by their path below the root. A copy begins with none.
#[derive(Debug, Default)]
pub struct Kept(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    files: FxHashMap<String, KeptFile>,
    /// Counts rounds; before the first, nothing is shared.
    round: u64,
}

#[derive(Debug)]
struct KeptFile {
    file: File,
    bytes: Vec<u8>,
    length: usize,
    read_in: u64,
}

impl Clone for Kept {
    fn clone(&self) -> Self {
        Kept::default()
    }
}

impl Kept {
    /// From here to the next call a file that two collectors want is read once.
    pub fn begin_round(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).round += 1;
    }

    /// Shows the file's bytes of now, or of earlier in this round.
    pub fn read<T>(&self, root: &Path, path: &str, layout: Layout, show: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        // A parser that panicked left at worst a file that is read anew.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { files, round } = &mut *state;
        if let Some(kept) = files.get_mut(path) {
            if *round > 0 && kept.read_in == *round {
                return Ok(show(&kept.bytes[..kept.length]));
            }
            // What was taken away (a module) and came back is another file under the same name.
            if kept.read_again(layout).is_ok() {
                kept.read_in = *round;
                return Ok(show(&kept.bytes[..kept.length]));
            }
            files.remove(path);
        }
        let mut kept = KeptFile {
            file: File::open(root.join(path))?,
            bytes: vec![0; layout.first_read_bytes()],
            length: 0,
            read_in: *round,
        };
        kept.read_again(layout)?;
        let kept = files.entry(path.to_owned()).or_insert(kept);
        Ok(show(&kept.bytes[..kept.length]))
    }
}

impl KeptFile {
    fn read_again(&mut self, layout: Layout) -> io::Result<()> {
        let file = &self.file;
        self.length = read_to_end(&mut self.bytes, layout, |room, place| file.read_at(room, place))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn length(kept: &Kept, root: &Path, path: &str, layout: Layout) -> io::Result<usize> {
        kept.read(root, path, layout, <[u8]>::len)
    }

    #[test]
    fn an_open_file_tells_what_is_in_it_now_and_in_one_round_the_same() {
        let directory = tempfile::tempdir().unwrap();
        for layout in [Layout::Record, Layout::Pieces, Layout::Value] {
            let kept = Kept::default();
            let first = layout.first_read_bytes();
            for expected in [0, 5, first - 1, first, 3 * first + 1, 2] {
                fs::write(directory.path().join("x"), "y".repeat(expected)).unwrap();
                assert_eq!(
                    length(&kept, directory.path(), "x", layout).unwrap(),
                    expected,
                    "{layout:?}"
                );
            }
        }
        let kept = Kept::default();
        kept.begin_round();
        assert_eq!(length(&kept, directory.path(), "x", Layout::Record).unwrap(), 2);
        fs::write(directory.path().join("x"), "four").unwrap();
        assert_eq!(length(&kept, directory.path(), "x", Layout::Record).unwrap(), 2);
        kept.begin_round();
        assert_eq!(length(&kept, directory.path(), "x", Layout::Record).unwrap(), 4);
        assert!(length(&kept, directory.path(), "nothing", Layout::Record).is_err());
    }

    /// All that the fast collectors keep open: each kernel must compose them anew when they are read again.
    #[test]
    fn files_of_this_kernel_that_are_kept_open_are_the_same_as_opened_anew() {
        let kept = Kept::default();
        for path in [
            "stat",
            "meminfo",
            "vmstat",
            "diskstats",
            "net/dev",
            "net/netstat",
            "net/snmp",
            "net/softnet_stat",
        ] {
            let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
            let fresh = lines(&fs::read(Path::new("/proc").join(path)).unwrap());
            for _ in 0..3 {
                let again = kept.read(Path::new("/proc"), path, Layout::Pieces, lines).unwrap();
                assert_eq!(again, fresh, "{path}");
            }
        }
        // Time stands still for nobody.
        let uptime = || {
            kept.read(Path::new("/proc"), "stat", Layout::Record, <[u8]>::to_vec)
                .unwrap()
        };
        let before = uptime();
        while uptime() == before {
            std::thread::yield_now();
        }
    }
}
