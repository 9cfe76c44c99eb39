//! A cache of what was derived from names in a kernel file, mostly descriptors of families. The names are the same
//! every second and in the same order, so the cache goes by position. Pure.

/// Values derived from the beginnings of a file's lines, in the order of the last read.
#[derive(Debug)]
pub struct NameCache<T> {
    made: Vec<(String, T)>,
    next: usize,
}

impl<T> Default for NameCache<T> {
    fn default() -> Self {
        NameCache {
            made: Vec::new(),
            next: 0,
        }
    }
}

impl<T> NameCache<T> {
    /// Begins a read: the next line is the first.
    pub fn rewind(&mut self) {
        self.next = 0;
    }

    /// The value for the part of the next line before `separator`, and the part behind it; `None` without a separator.
    /// `make` is called only where the line begins differently from the last read.
    pub fn next<'l>(
        &mut self,
        line: &'l str,
        separator: char,
        make: impl FnOnce(&str) -> T,
    ) -> Option<(&mut T, &'l str)> {
        let known = self.made.get(self.next);
        let rest = known.and_then(|(begin, _)| line.strip_prefix(begin.as_str())?.strip_prefix(separator));
        let rest = match rest {
            Some(rest) => rest,
            None => {
                let (begin, rest) = line.split_once(separator)?;
                self.made.truncate(self.next);
                self.made.push((begin.to_owned(), make(begin)));
                rest
            }
        };
        self.next += 1;
        self.made.get_mut(self.next - 1).map(|(_, made)| (made, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_made_again_only_for_a_new_name() {
        let mut name_cache = NameCache::default();
        let mut read = |text: &str| {
            let mut made = 0;
            name_cache.rewind();
            let lines = text.lines().map(|line| {
                let make = |name: &str| {
                    made += 1;
                    name.to_uppercase()
                };
                let found = name_cache.next(line, ':', make);
                found.map(|(name, rest)| format!("{name}={rest}"))
            });
            let lines: Vec<_> = lines.map(|line| line.unwrap_or_default()).collect();
            (lines.join(" "), made)
        };
        assert_eq!(read("a:1\nbc:2\nd:3"), ("A=1 BC=2 D=3".to_owned(), 3));
        assert_eq!(read("a:4\nbc:5\nd:6"), ("A=4 BC=5 D=6".to_owned(), 0));
        assert_eq!(read("a:4"), ("A=4".to_owned(), 0));
        // A name that begins like the cached one is another name.
        assert_eq!(read("a:1\nb:2\nd:3"), ("A=1 B=2 D=3".to_owned(), 2));
        assert_eq!(read("a:1\nbc:2\nd:3"), ("A=1 BC=2 D=3".to_owned(), 2));
        assert_eq!(read("none\na:1"), (" A=1".to_owned(), 0));
    }
}
