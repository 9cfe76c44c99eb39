//! Functions that read files of procfs and sysfs, and the error that names the file. They know no metric.

use rustix::fs::{Mode, OFlags};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// No file that a collector reads is longer. The bound keeps a broken driver from filling the memory.
const MAX_FILE_BYTES: usize = 16 << 20;

/// No line of a file that is read line by line is longer; a longer one counts as several.
const MAX_LINE_BYTES: u64 = 4096;

/// No such file is longer: that is a table of 28 million sockets.
const MAX_TABLE_BYTES: u64 = 4 << 30;

/// Size of the first read: most procfs files fit.
const FIRST_READ_BYTES: usize = 16 << 10;

/// Size of the first read of a file with one value.
const VALUE_BYTES: usize = 256;

/// The kernel composes a file in a buffer of at least one page (`seq_read_iter()`), and pages are no smaller.
const PAGE_BYTES: usize = 4096;

/// No row of [`FileLayout::Rows`] is longer: a network device has a name of 15 bytes and 16 numbers of 20 digits.
const MAX_ROW_BYTES: usize = 1024;

/// Why a collector returned no families.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Malformed { path: PathBuf, source: ParseError },
    /// The host lacks the feature (no bonding, no PSI …). It counts as not successful, as in node_exporter, but is no
    /// fault.
    #[error("this host has {0}")]
    Absent(&'static str),
    #[error("{0}")]
    System(String),
}

/// What is wrong with the text of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("{0}")]
    File(&'static str),
    #[error("{text:?} {problem}")]
    Text { text: String, problem: &'static str },
    #[error("{field:?} {problem} in {line:?}")]
    Field {
        field: String,
        problem: &'static str,
        line: String,
    },
    #[error("no {item} in {line:?}")]
    Missing { item: String, line: String },
    #[error("line {number}: {problem}")]
    Line { number: usize, problem: &'static str },
}

impl ParseError {
    pub(in crate::sense) fn text(text: &str, problem: &'static str) -> Self {
        ParseError::Text {
            text: text.to_owned(),
            problem,
        }
    }

    pub(in crate::sense) fn field(field: &str, problem: &'static str, line: &str) -> Self {
        ParseError::Field {
            field: field.to_owned(),
            problem,
            line: line.to_owned(),
        }
    }

    pub(in crate::sense) fn missing(item: &str, line: &str) -> Self {
        ParseError::Missing {
            item: item.to_owned(),
            line: line.to_owned(),
        }
    }
}

impl ReadError {
    pub(in crate::sense) fn io(path: &Path, source: io::Error) -> Self {
        ReadError::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(in crate::sense) fn malformed(path: &Path, source: ParseError) -> Self {
        ReadError::Malformed {
            path: path.to_owned(),
            source,
        }
    }

    /// Whether there is no such file, also where a part of its path is a file itself.
    pub(in crate::sense) fn is_not_found(&self) -> bool {
        let is_missing = |kind| matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
        matches!(self, ReadError::Io { source, .. } if is_missing(source.kind()))
    }

    /// Turns a missing file into `Absent`.
    pub(in crate::sense) fn or_absent(self, what: &'static str) -> Self {
        if self.is_not_found() {
            ReadError::Absent(what)
        } else {
            self
        }
    }
}

/// Goes on without a file that cannot be parsed, for a collector that has others.
pub(in crate::sense) fn or_without<T>(read: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
    match read {
        Err(ReadError::Malformed { .. }) => Ok(None),
        read => read.map(Some),
    }
}

/// `None` where the file is missing.
pub(in crate::sense) fn if_present<T>(read: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
    match read {
        Err(error) if error.is_not_found() => Ok(None),
        read => read.map(Some),
    }
}

/// How the kernel writes a file, which decides where a read may stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sense) enum FileLayout {
    /// In pieces: only an empty read is the end. A piece may be longer than the page that the kernel returns at once (a
    /// disk with many partitions, a mount with many options), so even a read of a few bytes may be followed by more.
    Pieces,
    /// In rows of bounded length. The kernel adds rows while they fit in its buffer, so a read that leaves room for
    /// another one has all the rest. The empty read that it saves would make the kernel look for the next row, and in
    /// `/proc/net/udp` it goes through a table of a megabyte.
    Rows,
    /// As one record (`single_open()`): a read that does not fill the buffer has it all. Another read would make the
    /// kernel compose the record again, which doubles the cost of `/proc/net/netstat`.
    Record,
    /// As one record of a few bytes (sysctl, sysfs). The buffer is small because the kernel allocates and clears as
    /// many bytes as are asked for (`proc_sys_call_handler()`).
    Value,
}

impl FileLayout {
    pub(in crate::sense) fn first_read_bytes(self) -> usize {
        match self {
            FileLayout::Pieces | FileLayout::Rows | FileLayout::Record => FIRST_READ_BYTES,
            FileLayout::Value => VALUE_BYTES,
        }
    }

    /// Whether a read of `count` bytes that did not fill the buffer was the last one.
    fn is_last(self, count: usize) -> bool {
        match self {
            FileLayout::Pieces => count == 0,
            FileLayout::Rows => count + MAX_ROW_BYTES <= PAGE_BYTES,
            FileLayout::Record | FileLayout::Value => true,
        }
    }
}

/// Reads a file whole. `fs::read` asks for a size first and then reads in small steps, which makes a procfs file, which
/// has no size, several times as expensive.
fn read(path: &Path, layout: FileLayout) -> Result<Vec<u8>, ReadError> {
    let read = || read_open(&mut File::open(path)?, layout);
    read().map_err(|source| ReadError::io(path, source))
}

fn read_open(file: &mut File, layout: FileLayout) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let length = read_to_end(&mut bytes, 0, layout, |buffer, _| file.read(buffer))?;
    bytes.truncate(length);
    Ok(bytes)
}

/// Reads a file to its end into a buffer from `start` on; the buffer grows as needed. `read` gets the offset in the
/// file. Returns the number of bytes of the file.
pub(in crate::sense) fn read_to_end(
    bytes: &mut Vec<u8>,
    start: usize,
    layout: FileLayout,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let (mut length, mut capacity) = (0, layout.first_read_bytes());
    loop {
        let end = start + capacity;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        let count = match read(&mut bytes[start + length..end], length as u64) {
            Ok(0) => return Ok(length),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        length += count;
        if length < capacity {
            if layout.is_last(count) {
                return Ok(length);
            }
            continue;
        }
        if length >= MAX_FILE_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "file is implausibly long"));
        }
        capacity *= 2;
    }
}

/// Reads the bytes of a file.
pub(in crate::sense) fn read_bytes(path: &Path) -> Result<Vec<u8>, ReadError> {
    read(path, FileLayout::Pieces)
}

/// A file of [`FileLayout::Rows`] that is read up to its last row.
struct Rows {
    file: File,
    has_ended: bool,
}

impl Read for Rows {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.has_ended {
            return Ok(0);
        }
        let count = self.file.read(buffer)?;
        self.has_ended = count < buffer.len() && FileLayout::Rows.is_last(count);
        Ok(count)
    }
}

/// Reads the rows of a file that may be far longer than others, one after the other.
pub(in crate::sense) fn for_each_row(path: &Path, mut visit: impl FnMut(&str)) -> Result<(), ReadError> {
    let mut read = || {
        let rows = Rows {
            file: File::open(path)?,
            has_ended: false,
        };
        let mut file = BufReader::with_capacity(FIRST_READ_BYTES, rows.take(MAX_TABLE_BYTES));
        let mut line = Vec::new();
        while file.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? > 0 {
            visit(String::from_utf8_lossy(&line).trim_end_matches('\n'));
            line.clear();
        }
        Ok(())
    };
    read().map_err(|source| ReadError::io(path, source))
}

/// Reads a regular file that any user may have written, with the time of its last change. A pipe in its place is an
/// error: the open does not wait for a writer, and the open file is the one that is checked.
pub(in crate::sense) fn read_regular_file(path: &Path) -> Result<(Vec<u8>, SystemTime), ReadError> {
    let read = || {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let bytes = read_open(&mut file, FileLayout::Pieces)?;
        Ok(Some((bytes, file.metadata()?.modified()?)))
    };
    let read = read().map_err(|source| ReadError::io(path, source))?;
    read.ok_or_else(|| ReadError::malformed(path, ParseError::File("is not a regular file")))
}

/// Reads the text of a file. Names of devices, mounts and processes may be any bytes; invalid UTF-8 becomes U+FFFD.
pub(in crate::sense) fn read_text(path: &Path) -> Result<String, ReadError> {
    Ok(into_text(read_bytes(path)?))
}

pub(in crate::sense) fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Parses a file that the kernel writes as one record.
pub(in crate::sense) fn read_record<T>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<T, ParseError>,
) -> Result<T, ReadError> {
    let text = into_text(read(path, FileLayout::Record)?);
    parse(&text).map_err(|source| ReadError::malformed(path, source))
}

/// Parses a file that holds one number.
pub(in crate::sense) fn parse_number(text: &str) -> Result<f64, ParseError> {
    text.trim()
        .parse()
        .map_err(|_| ParseError::text(text, "is not a number"))
}

/// Parses a number of sysfs: decimal, or hexadecimal after `0x`.
pub(in crate::sense) fn parse_integer(text: &str) -> Option<f64> {
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok().map(|number| number as f64),
        None => text.parse().ok(),
    }
}

/// Reads a one-value file of sysfs without its newline. `None` where it is missing or its driver returns an error.
pub(in crate::sense) fn read_attribute(path: &Path) -> Option<String> {
    attribute_of(File::open(path).ok()?)
}

fn attribute_of(mut file: File) -> Option<String> {
    let mut text = into_text(read_open(&mut file, FileLayout::Value).ok()?);
    text.truncate(text.trim_end_matches('\n').len());
    Some(text)
}

/// A directory of one-value files. The kernel resolves its path once for all of them; that is half the cost of a file.
pub(in crate::sense) struct Attributes(OwnedFd);

impl Attributes {
    /// `None` where there is no such directory.
    pub fn open(directory: &Path) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Some(Attributes(rustix::fs::open(directory, flags, Mode::empty()).ok()?))
    }

    /// Like [`read_attribute`].
    pub fn read(&self, file: &str) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        attribute_of(rustix::fs::openat(&self.0, file, flags, Mode::empty()).ok()?.into())
    }
}

/// Reads a one-number file of sysfs.
pub(in crate::sense) fn read_number(path: &Path) -> Option<f64> {
    parse_integer(&read_attribute(path)?)
}

/// Lists the names in a directory, sorted, so that output does not depend on the kernel's order.
pub(in crate::sense) fn list_names(path: &Path) -> Result<Vec<String>, ReadError> {
    Ok(list_entries(path)?.iter().map(|entry| file_name(entry)).collect())
}

/// Lists the paths in a directory, sorted. A name may be any bytes, so its text is not a path.
pub(in crate::sense) fn list_entries(path: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let entries = fs::read_dir(path).map_err(|source| ReadError::io(path, source))?;
    let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    entries.sort_unstable();
    Ok(entries)
}

/// The last component of a path as text.
pub(in crate::sense) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::Tree;

    #[test]
    fn long_file_is_read_whole() {
        let tree = Tree::new();
        for length in [
            0,
            1,
            FIRST_READ_BYTES - 1,
            FIRST_READ_BYTES,
            FIRST_READ_BYTES + 1,
            5 * FIRST_READ_BYTES,
        ] {
            tree.proc("x", "y".repeat(length));
            assert_eq!(read_bytes(&tree.roots.proc("x")).unwrap().len(), length);
            assert_eq!(
                read_record(&tree.roots.proc("x"), |text| Ok(text.len())).unwrap(),
                length
            );
        }
    }

    #[test]
    fn attribute_is_the_same_by_path_and_directory() {
        let tree = Tree::new();
        for length in [0, 5, VALUE_BYTES - 1, VALUE_BYTES, 3 * VALUE_BYTES] {
            tree.sys("class/x/value", "y".repeat(length) + "\n");
            let found = read_attribute(&tree.roots.sys("class/x/value"));
            assert_eq!(found.as_ref().map(String::len), Some(length));
            let attributes = Attributes::open(&tree.roots.sys("class/x")).unwrap();
            assert_eq!(attributes.read("value"), found);
            assert_eq!(attributes.read("nothing"), None);
        }
        assert!(Attributes::open(&tree.roots.sys("class/x/value")).is_none());
    }

    /// As the kernel returns a mount with few options, one with many, and the end.
    #[test]
    fn short_read_does_not_end_a_file_in_pieces() {
        let read = |layout: FileLayout| {
            let mut pieces = [1540, 2940, 0].into_iter();
            let mut places = Vec::new();
            let mut bytes = Vec::new();
            let length = read_to_end(&mut bytes, 0, layout, |buffer, offset| {
                places.push(offset);
                Ok(pieces.next().unwrap().min(buffer.len()))
            });
            (length.unwrap(), places)
        };
        assert_eq!(read(FileLayout::Pieces), (4480, vec![0, 1540, 4480]));
        assert_eq!(read(FileLayout::Record), (1540, vec![0]));
        assert_eq!(read(FileLayout::Rows), (1540, vec![0]));
    }

    #[test]
    fn every_row_of_a_long_table_is_read() {
        let sockets: Vec<_> = (0..100)
            .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        let mut rows = Vec::new();
        for_each_row(Path::new("/proc/net/udp"), |row| rows.push(row.to_owned())).unwrap();
        for socket in &sockets {
            let address = format!(" 0100007F:{:04X} ", socket.local_addr().unwrap().port());
            assert!(rows.iter().any(|row| row.contains(&address)), "{address}");
        }
    }

    #[test]
    fn pipe_in_place_of_a_file_does_not_block() {
        let tree = Tree::new();
        let path = |name: &str| tree.roots.proc(name);
        tree.proc("file", "x 1\n");
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (done, finished) = std::sync::mpsc::channel();
        let read = path("file");
        std::thread::spawn(move || {
            let count = (0..5000).filter(|_| read_regular_file(&read).is_ok()).count();
            let _ = done.send(count);
        });
        // The pipe takes the place of the file, and the file that of the pipe, in turns.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while finished.try_recv().is_err() {
            let (file, pipe) = (path("file"), path("pipe"));
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(rustix::fs::CWD, &file, rustix::fs::CWD, &pipe, flags).unwrap();
            assert!(
                std::time::Instant::now() < until,
                "a read waits for a writer of the pipe"
            );
        }
    }

    #[test]
    fn error_names_the_file() {
        let error = read_text(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(
            error.is_not_found() && error.to_string().starts_with("/nowhere/at/all: "),
            "{error}"
        );
    }
}
