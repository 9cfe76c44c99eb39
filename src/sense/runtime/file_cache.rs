//! A cache of open procfs files. A file that is read every second is opened once and read again from its start; the
//! kernel then composes it again. Opening costs as much as reading, and an open file keeps the kernel's buffer as well.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::kernel_file::{FileLayout, read_to_end};

/// A file that the kernel lacks is looked for again after this time: a module that brings it may be loaded meanwhile.
const ABSENT_FOR: Duration = Duration::from_secs(15);

/// The open files by their path below the root. A clone begins without open files.
#[derive(Debug, Default)]
pub struct FileCache(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// A few files; those that are read every second come first.
    files: Vec<OpenFile>,
    /// The files that do not exist, and when they were last looked for.
    absent: Vec<(&'static str, Instant)>,
    /// Number of the round; in round 0 no text is shared, and no file counts as absent.
    round: u64,
    /// The texts read in this round, one behind the other, so that they touch few pages.
    texts: Vec<u8>,
    length: usize,
}

#[derive(Debug)]
struct OpenFile {
    path: &'static str,
    file: File,
    read_in: u64,
    text: Range<usize>,
}

impl Clone for FileCache {
    fn clone(&self) -> Self {
        FileCache::default()
    }
}

impl FileCache {
    /// Begins a round. Within a round a file that two collectors need is read once.
    pub fn begin_round(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.round += 1;
        state.length = 0;
    }

    /// Calls `show` with the bytes of the file, read now or earlier in this round.
    pub fn read<T>(
        &self,
        root: &Path,
        path: &'static str,
        layout: FileLayout,
        show: impl FnOnce(&[u8]) -> T,
    ) -> io::Result<T> {
        // A parser that panicked leaves at worst a file that is read again.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = state.text(root, path, layout)?;
        Ok(show(&state.texts[text]))
    }
}

impl State {
    fn text(&mut self, root: &Path, path: &'static str, layout: FileLayout) -> io::Result<Range<usize>> {
        // Nearly always the path is the literal by which the file was opened, so comparing addresses is enough.
        let is_it = |cache: &OpenFile| ptr::eq(cache.path, path);
        let known = self.files.iter().position(is_it);
        if let Some(index) = known.or_else(|| self.files.iter().position(|cache| cache.path == path)) {
            let cache = &self.files[index];
            if self.round > 0 && cache.read_in == self.round {
                return Ok(cache.text.clone());
            }
            if let Ok(text) = self.read(index, layout) {
                return Ok(text);
            }
            // After a module was unloaded and loaded, another file has the same name.
            self.files.remove(index);
        }
        let file = self.open(root, path)?;
        self.files.push(OpenFile {
            path,
            file,
            read_in: 0,
            text: 0..0,
        });
        let index = self.files.len() - 1;
        self.read(index, layout).inspect_err(|_| drop(self.files.pop()))
    }

    fn open(&mut self, root: &Path, path: &'static str) -> io::Result<File> {
        self.absent.retain(|(_, looked)| looked.elapsed() < ABSENT_FOR);
        if self.round > 0 && self.absent.iter().any(|(absent, _)| *absent == path) {
            return Err(rustix::io::Errno::NOENT.into());
        }
        File::open(root.join(path)).inspect_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                self.absent.push((path, Instant::now()));
            }
        })
    }

    fn read(&mut self, index: usize, layout: FileLayout) -> io::Result<Range<usize>> {
        if self.round == 0 {
            self.length = 0;
        }
        let cache = &mut self.files[index];
        let start = self.length;
        let length = read_to_end(&mut self.texts, start, layout, |buffer, offset| {
            cache.file.read_at(buffer, offset)
        })?;
        self.length += length;
        cache.read_in = self.round;
        cache.text = start..self.length;
        Ok(cache.text.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn length(cache: &FileCache, root: &Path, path: &'static str, layout: FileLayout) -> io::Result<usize> {
        cache.read(root, path, layout, <[u8]>::len)
    }

    #[test]
    fn open_file_is_read_once_per_round() {
        let directory = tempfile::tempdir().unwrap();
        for layout in [FileLayout::Record, FileLayout::Pieces, FileLayout::Value] {
            let cache = FileCache::default();
            let first = layout.first_read_bytes();
            for expected in [0, 5, first - 1, first, 3 * first + 1, 2] {
                fs::write(directory.path().join("x"), "y".repeat(expected)).unwrap();
                assert_eq!(
                    length(&cache, directory.path(), "x", layout).unwrap(),
                    expected,
                    "{layout:?}"
                );
            }
        }
        let cache = FileCache::default();
        cache.begin_round();
        assert_eq!(length(&cache, directory.path(), "x", FileLayout::Record).unwrap(), 2);
        fs::write(directory.path().join("x"), "four").unwrap();
        assert_eq!(length(&cache, directory.path(), "x", FileLayout::Record).unwrap(), 2);
        cache.begin_round();
        assert_eq!(length(&cache, directory.path(), "x", FileLayout::Record).unwrap(), 4);
        let missing = |cache: &FileCache| length(cache, directory.path(), "nothing", FileLayout::Record).unwrap_err();
        assert_eq!(missing(&cache).kind(), io::ErrorKind::NotFound);
        // What is absent is not looked for in every round.
        fs::write(directory.path().join("nothing"), "").unwrap();
        cache.begin_round();
        assert_eq!(missing(&cache).kind(), io::ErrorKind::NotFound);
        cache.0.lock().unwrap().absent[0].1 -= ABSENT_FOR;
        assert_eq!(
            length(&cache, directory.path(), "nothing", FileLayout::Record).unwrap(),
            0
        );
    }

    #[test]
    fn texts_of_a_round_do_not_overwrite_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let cache = FileCache::default();
        let read = |path: &'static str, layout| {
            let read = cache.read(directory.path(), path, layout, |bytes| {
                String::from_utf8(bytes.to_vec()).unwrap()
            });
            read.unwrap()
        };
        let write = |path: &str, text: &str| fs::write(directory.path().join(path), text).unwrap();
        fs::create_dir(directory.path().join("folder")).unwrap();
        let capacity = || cache.0.lock().unwrap().texts.len();
        for round in ["x", "yy", ""] {
            cache.begin_round();
            let long = round.repeat(70_000);
            write("short", round);
            write("long", &long);
            let all = [
                ("short", FileLayout::Value),
                ("long", FileLayout::Pieces),
                ("short2", FileLayout::Record),
            ];
            write("short2", "2");
            for _ in 0..2 {
                // A directory can be opened but not read.
                assert!(
                    cache
                        .read(directory.path(), "folder", FileLayout::Record, <[u8]>::len)
                        .is_err()
                );
                let texts = all.map(|(path, layout)| read(path, layout));
                assert_eq!(texts, [round.to_owned(), long.clone(), "2".to_owned()]);
            }
            // A file that is deleted and created again is opened again.
            fs::remove_file(directory.path().join("short2")).unwrap();
        }
        assert_eq!(cache.0.lock().unwrap().files.len(), 3);
        let before = capacity();
        write("short", &"x".repeat(1000));
        for _ in 0..before / 500 {
            cache.begin_round();
            read("short", FileLayout::Record);
        }
        assert_eq!(capacity(), before, "a round reuses the buffer of the last one");
    }

    /// The files that fast collectors keep open: each kernel must compose them again on a second read.
    #[test]
    fn kernel_composes_open_files_again() {
        let cache = FileCache::default();
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
                let again = cache.read(Path::new("/proc"), path, FileLayout::Pieces, lines).unwrap();
                assert_eq!(again, fresh, "{path}");
            }
        }
        // The text changes with time.
        let uptime = || {
            cache
                .read(Path::new("/proc"), "stat", FileLayout::Record, <[u8]>::to_vec)
                .unwrap()
        };
        let before = uptime();
        while uptime() == before {
            std::thread::yield_now();
        }
    }
}
