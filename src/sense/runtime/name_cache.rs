//! What was made of the kernel's own names, above all forms of families. Those names are the same every second, so it is
//! remembered, place by place. Pure.

/// What was made of the beginnings of a file's lines, in the order in which they came last time.
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
    /// The next line, or part of one, will be the first.
    pub fn rewind(&mut self) {
        self.next = 0;
    }

    /// What is made of the next line's part before `separator`, and the part behind it; nothing where it has none. Made anew
    /// only where the line begins otherwise than last time.
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
    fn what_is_made_of_a_line_is_made_again_only_where_it_begins_otherwise() {
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
        // A name that begins like the known one is another.
        assert_eq!(read("a:1\nb:2\nd:3"), ("A=1 B=2 D=3".to_owned(), 2));
        assert_eq!(read("a:1\nbc:2\nd:3"), ("A=1 BC=2 D=3".to_owned(), 2));
        assert_eq!(read("none\na:1"), (" A=1".to_owned(), 0));
    }
}
