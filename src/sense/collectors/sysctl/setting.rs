//! A setting that a flag names for the collector `sysctl`. Pure.

/// A setting to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// As sysctl(8) names it: `fs.file-nr` or `fs/file-nr`.
    pub name: String,
    /// Names of its numbers, in order; without any they are numbered.
    pub keys: Vec<String>,
    /// Whether its values are words and not numbers.
    pub is_text: bool,
}

/// What is wrong with the value of a flag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a setting such as fs.file-nr or fs.file-nr:total,current,max")]
pub struct InvalidSysctl(String);

impl Sysctl {
    /// # Errors
    /// When the name leads out of `/proc/sys`.
    pub fn parse(text: &str, is_text: bool) -> Result<Sysctl, InvalidSysctl> {
        let (name, keys) = text.split_once(':').unwrap_or((text, ""));
        // Points and slashes divide, so that no part is `..`.
        if name.split(['.', '/']).any(str::is_empty) {
            return Err(InvalidSysctl(text.to_owned()));
        }
        let keys = keys
            .split(',')
            .filter(|key| !key.is_empty())
            .map(str::to_owned)
            .collect();
        Ok(Sysctl {
            name: name.to_owned(),
            keys,
            is_text,
        })
    }

    /// Its file below procfs.
    pub fn path(&self) -> String {
        format!("sys/{}", self.name.replace('.', "/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_proc_sys() {
        for wrong in [
            "",
            "..",
            "a..b",
            "/etc/passwd",
            "kernel//x",
            "kernel/../x",
            "../../etc/passwd",
        ] {
            assert!(Sysctl::parse(wrong, false).is_err(), "{wrong:?}");
        }
        for name in ["kernel.x", "kernel/x"] {
            assert_eq!(Sysctl::parse(name, false).unwrap().path(), "sys/kernel/x");
        }
    }
}
