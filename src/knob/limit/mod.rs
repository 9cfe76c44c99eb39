//! The registry of the limits of a cgroup: one file of cgroup v2 for each, in the kernel's notation (cgroup-v2.rst,
//! "Interface Files").

pub mod cpu_max;
pub mod io_max;
pub mod limit_file;
pub mod memory;
pub mod notation;
pub mod pids_max;
pub mod property;
pub mod weight;

pub use cpu_max::Bandwidth;
pub use io_max::{IoChange, IoKind, IoLimit, IoLimits};
pub use limit_file::{Capacity, Relative};
pub use memory::MAX_PAGE_BYTES;
pub use notation::{Device, Limit, NotALimit};
pub use property::Property;

use super::{Change, Value};
use crate::diagnostic::Findings;
use crate::sandbox::CapabilitySet;
use crate::schema::{Key, Object};
use crate::yaml::{Content, Fields, Node};
use limit_file::LimitFile;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What changing a cgroup takes: the files of those that were delegated to other users, and systemd, which lets only
/// this capability change its units (sd_bus_query_sender_privilege(3)).
pub const CAPABILITIES: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::SYS_ADMIN);

/// Makes the enums of files and settings from the table of limits, and passes each question on to the limit's file.
macro_rules! limits_of_cgroups {
    ($($limit:ident = $name:literal in $file:ident,)*) => {
        /// A file of a cgroup that a rule can set.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum CgroupFile {
            $(#[serde(rename = $name)] $limit,)*
        }

        /// The value of one such file.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Setting {
            $(#[serde(rename = $name)] $limit(<$file::$limit as LimitFile>::Value),)*
            /// One line of `io.max`.
            #[serde(rename = "io.max limit")]
            IoLimit(IoLimit),
        }

        /// The keys of the limits in a step of a rule.
        pub const KEYS: &[Key] = &[$($file::$limit::KEY,)*];

        impl CgroupFile {
            /// In the order of the reference.
            pub const ALL: [CgroupFile; KEYS.len()] = [$(CgroupFile::$limit,)*];

            /// The name of the file.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(CgroupFile::$limit => $file::$limit::KEY.name,)*
                }
            }

            /// What the kernel shows where nothing was set.
            pub fn unlimited(self) -> &'static str {
                match self {
                    $(CgroupFile::$limit => $file::$limit::UNLIMITED,)*
                }
            }

            /// The properties of a systemd unit behind the file.
            pub fn properties(self) -> &'static [&'static str] {
                match self {
                    $(CgroupFile::$limit => $file::$limit::PROPERTIES,)*
                }
            }

            /// What systemd writes into the file of the unit's next cgroup, by the numbers of its properties.
            pub fn recorded(self, numbers: &[u64]) -> Option<Setting> {
                match self {
                    $(CgroupFile::$limit => $file::$limit::recorded(numbers).map(Setting::$limit),)*
                }
            }

            /// Whether the kernel may kill processes when a value is written.
            pub fn may_kill(self) -> bool {
                match self {
                    $(CgroupFile::$limit => $file::$limit::MAY_KILL,)*
                }
            }

            /// The changes that a rule writes as this text; otherwise what to write instead.
            fn compile(self, text: &str) -> Result<Vec<Change>, String> {
                match self {
                    $(CgroupFile::$limit => $file::$limit::compile(text).ok_or_else(|| {
                        // For a typo in the unit of a size, a suggestion is a better hint than the list of forms.
                        $file::$limit::suggestion(text).unwrap_or_else(|| $file::$limit::HELP.to_owned())
                    }),)*
                }
            }
        }

        impl Setting {
            pub fn file(&self) -> CgroupFile {
                match self {
                    $(Setting::$limit(_) => CgroupFile::$limit,)*
                    Setting::IoLimit(_) => CgroupFile::IoMax,
                }
            }

            /// Parses the content of a file.
            ///
            /// # Errors
            /// When the text is not a value of that file.
            pub fn parse(file: CgroupFile, text: &str) -> Result<Setting, NotALimit> {
                match file {
                    $(CgroupFile::$limit => $file::$limit::parse(text).map(Setting::$limit),)*
                }
            }

            /// The line to write.
            pub fn line(&self) -> String {
                match self {
                    $(Setting::$limit(value) => $file::$limit::line(value),)*
                    Setting::IoLimit(limit) => limit.to_string(),
                }
            }

            /// Whether a file that shows `found` after this was written is what was to be expected.
            pub fn explains(&self, found: &Setting) -> bool {
                match (self, found) {
                    $((Setting::$limit(wanted), Setting::$limit(found)) => $file::$limit::explains(wanted, found),)*
                    _ => self == found,
                }
            }

            /// Whether it leaves the cgroup more than `other`.
            pub fn is_more_than(&self, other: &Setting) -> bool {
                match (self, other) {
                    $((Setting::$limit(value), Setting::$limit(other)) => $file::$limit::is_more(value, other),)*
                    (Setting::IoLimit(limit), Setting::IoLimit(other)) => limit.limit.is_more_than(other.limit),
                    _ => false,
                }
            }

            /// The limit after a relative change. `None` if it has no relative form.
            pub fn relative(&self, by: Relative, capacity: Capacity) -> Option<Setting> {
                match self {
                    $(Setting::$limit(now) => $file::$limit::relative(by, now, capacity).map(Setting::$limit),)*
                    Setting::IoLimit(_) => None,
                }
            }

            /// The properties to set so that systemd writes this setting into the cgroup file.
            pub fn properties(&self) -> Vec<(&'static str, Property)> {
                let properties = match self {
                    $(Setting::$limit(value) => $file::$limit::properties(value),)*
                    Setting::IoLimit(limit) => return vec![(*limit.kind.property(), limit.property())],
                };
                self.file().properties().iter().copied().zip(properties).collect()
            }

            /// What is left when systemd has read its own drop-in again.
            #[must_use]
            pub fn kept_in_drop_in(&self) -> Setting {
                match self {
                    $(Setting::$limit(value) => Setting::$limit($file::$limit::kept_in_drop_in(value)),)*
                    Setting::IoLimit(limit) => Setting::IoLimit(*limit),
                }
            }

            /// Bytes in use above which the kernel kills processes when this is written.
            pub fn kills_above(&self) -> Option<u64> {
                match self {
                    $(Setting::$limit(value) => $file::$limit::kills_above(value),)*
                    Setting::IoLimit(_) => None,
                }
            }
        }

        impl fmt::Display for Setting {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Setting::$limit(value) => write!(f, "{value}"),)*
                    Setting::IoLimit(limit) => write!(f, "{limit}"),
                }
            }
        }
    };
}

// The order is that of the reference. A new limit needs a file, its `mod` line above, and a row here.
limits_of_cgroups! {
    CpuMax = "cpu.max" in cpu_max,
    CpuWeight = "cpu.weight" in weight,
    MemoryHigh = "memory.high" in memory,
    MemoryMax = "memory.max" in memory,
    MemorySwapMax = "memory.swap.max" in memory,
    IoMax = "io.max" in io_max,
    IoWeight = "io.weight" in weight,
    PidsMax = "pids.max" in pids_max,
}

/// The files of a cgroup, by their names.
pub static LIMITS: Object = Object::new("the limits of a cgroup", KEYS);

impl CgroupFile {
    /// The controller that must be enabled for the file to exist.
    pub fn controller(self) -> &'static str {
        self.as_str().split('.').next().unwrap_or_default()
    }
}

impl fmt::Display for CgroupFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Setting> for Change {
    fn from(setting: Setting) -> Change {
        Change::To(Value::Cgroup(setting))
    }
}

/// Reads `cgroup:` of a step. Limits that make no sense are among the findings. `None` if no limit has the right type.
pub fn read(node: &Node, findings: &mut Findings) -> Option<Vec<Change>> {
    let fields = Fields::open(node, &LIMITS, findings)?;
    if matches!(&node.content, Content::Mapping(entries) if entries.is_empty()) {
        let help = format!("give at least one of: {}", LIMITS.names().join(", "));
        findings.error(node.span, "`cgroup` sets nothing", help);
    }
    let mut all = None;
    for (_, key) in fields.known() {
        let Some(file) = CgroupFile::ALL.into_iter().find(|file| file.as_str() == key) else {
            continue;
        };
        let Some(text) = fields.text(key, findings) else {
            continue;
        };
        let changes: &mut Vec<Change> = all.get_or_insert_default();
        match file.compile(text.value.trim()) {
            Ok(more) => changes.extend(more),
            Err(help) => findings.error(text.span, format!("`{file}` cannot be {:?}", text.value), help),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;

    fn check<T: FromStr<Err = NotALimit> + fmt::Display>(pairs: &[(&str, &str)], wrong: &[&str]) {
        for (text, canonical) in pairs {
            let value: T = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(value.to_string(), *canonical);
            let again: T = canonical.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(again.to_string(), *canonical);
        }
        for text in wrong {
            assert!(text.parse::<T>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn files_are_read_as_they_are_written() {
        check::<Limit>(&[("max\n", "max"), ("4096\n", "4096")], &["", "-1", "1k", "max max"]);
        check::<Bandwidth>(
            &[
                ("max 100000\n", "max 100000"),
                ("50000 20000", "50000 20000"),
                ("50000", "50000 100000"),
            ],
            &["", "1 100000", "50000 10", "50000 2000000", "5 5 5", "half"],
        );
    }

    #[test]
    fn what_the_kernel_makes_of_a_value_is_told_from_another_value() {
        for (file, wanted, found, expected) in [
            (CgroupFile::MemoryHigh, "1000001", "999424", true),
            (CgroupFile::MemoryHigh, "1000001", "900000", false),
            (CgroupFile::MemoryHigh, "999424", "1000001", false),
            (CgroupFile::MemoryMax, "max", "4096", false),
            (CgroupFile::CpuMax, "100000 300000", "99999 300000", true),
            (CgroupFile::CpuMax, "50000 100000", "25000 50000", true),
            (CgroupFile::CpuMax, "50000 100000", "max 100000", false),
            (CgroupFile::CpuMax, "max 50000", "max 100000", true),
            (CgroupFile::PidsMax, "100", "99", false),
            (CgroupFile::IoWeight, "50", "default 50\n8:0 200\n", true),
        ] {
            let (wanted, found) = (
                Setting::parse(file, wanted).unwrap(),
                Setting::parse(file, found).unwrap(),
            );
            assert_eq!(wanted.explains(&found), expected, "{wanted} {found}");
        }
    }

    #[test]
    fn limits_are_compared_by_what_they_leave_a_cgroup() {
        for (file, less, more) in [
            (CgroupFile::CpuMax, "50000 100000", "30000 50000"),
            (CgroupFile::CpuMax, "50000 100000", "max 100000"),
            (CgroupFile::CpuWeight, "99", "100"),
            (CgroupFile::IoWeight, "50", "default 100"),
            (CgroupFile::MemoryHigh, "9", "10"),
            (CgroupFile::MemoryMax, "9", "max"),
            (CgroupFile::MemorySwapMax, "0", "4096"),
            (CgroupFile::PidsMax, "100", "max"),
        ] {
            let [less, more] = [less, more].map(|text| Setting::parse(file, text).unwrap());
            assert!(more.is_more_than(&less) && !less.is_more_than(&more), "{less} {more}");
            assert!(!more.is_more_than(&more), "{more}");
        }
        let io = |text: &str| Setting::IoLimit(text.parse().unwrap());
        assert!(io("8:0 wbps=max").is_more_than(&io("8:0 wbps=5")));
        assert!(!io("8:0 wbps=5").is_more_than(&io("8:0 wbps=max")));
    }

    #[test]
    fn one_io_limit_is_written_as_the_kernel_takes_it() {
        check::<IoLimit>(
            &[("8:0 wbps=5", "8:0 wbps=5"), ("8:16 riops=max\n", "8:16 riops=max")],
            &["", "8:0", "8:0 wbps", "sda wbps=1", "8:0 wbps=1 rbps=1"],
        );
    }

    #[test]
    fn io_limits_say_every_kind_for_each_device_and_nothing_for_others() {
        check::<IoLimits>(
            &[
                ("", "max"),
                ("254:0 rbps=max wbps=max riops=max wiops=max\n", "max"),
                (
                    "8:16 rbps=1048576 wiops=120\n8:0 riops=9\n",
                    "8:0 rbps=max wbps=max riops=9 wiops=max; 8:16 rbps=1048576 wbps=max riops=max wiops=120",
                ),
            ],
            &["sda rbps=1", "8:0 rbps", "8:0 speed=1", "8:0 rbps=-1"],
        );
    }
}
