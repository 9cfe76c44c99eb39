//! A page of documentation as data: its fenced blocks, each with the comments before it.
//!
//! A comment on a separate line before a block describes the block:
//!
//! - `<!-- file: NAME -->`: the block is this file, for the blocks after it.
//! - `<!-- compared -->`: the commands print the shown output; `…` matches anything, and a number of three or more digits
//!   matches any other.
//! - `<!-- not run: REASON -->`: the block cannot run on a machine for tests.

use std::path::Path;

#[derive(Debug)]
pub struct Block {
    /// The line of the opening fence, counted from one.
    pub line: usize,
    pub language: String,
    pub text: String,
    pub file: Option<String>,
    pub is_compared: bool,
    pub not_run: Option<String>,
}

/// # Panics
///
/// At an unknown comment before a block, and at an unclosed block.
pub fn blocks(path: &Path) -> Vec<Block> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let at = |line: usize| format!("{}:{}", path.display(), line + 1);
    let mut lines = text.lines().enumerate();
    let mut found = Vec::new();
    let mut comments: Vec<(usize, String)> = Vec::new();
    while let Some((line, content)) = lines.next() {
        let trimmed = content.trim_start();
        if let Some(comment) = trimmed.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")) {
            // Marks of tables that tests write.
            if !comment.starts_with("begin: ") && !comment.starts_with("end: ") {
                comments.push((line, comment.to_owned()));
            }
            continue;
        }
        let Some(language) = trimmed.strip_prefix("```") else {
            assert!(
                comments.is_empty(),
                "{}: a comment that no block follows",
                at(comments[0].0)
            );
            continue;
        };
        let indent = content.len() - trimmed.len();
        let mut block = Block {
            line: line + 1,
            language: language.to_owned(),
            text: String::new(),
            file: None,
            is_compared: false,
            not_run: None,
        };
        for (line, comment) in comments.drain(..) {
            match comment.split_once(": ") {
                Some(("file", name)) => block.file = Some(name.to_owned()),
                Some(("not run", reason)) => block.not_run = Some(reason.to_owned()),
                None if comment == "compared" => block.is_compared = true,
                _ => panic!("{}: what is {comment:?}?", at(line)),
            }
        }
        loop {
            let (_, content) = lines
                .next()
                .unwrap_or_else(|| panic!("{}: this block does not end", at(line)));
            if content.trim() == "```" {
                break;
            }
            block.text.push_str(content.get(indent..).unwrap_or_default());
            block.text.push('\n');
        }
        found.push(block);
    }
    found
}

/// One command of a `console` block, and its shown output.
#[derive(Debug, PartialEq)]
pub struct Command {
    pub script: String,
    pub output: Vec<String>,
}

/// The commands after `$ `. A command continues after a backslash at the end of a line, and to the end of its
/// here-document.
pub fn commands(text: &str) -> Vec<Command> {
    let mut found: Vec<Command> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(script) = line.strip_prefix("$ ") else {
            if let Some(command) = found.last_mut() {
                command.output.push(line.to_owned());
            }
            continue;
        };
        let mut script = script.to_owned();
        let end = script.split_once("<<").map(|(_, rest)| {
            let word = rest.split_whitespace().next().unwrap_or_default();
            word.trim_matches(['\'', '"']).to_owned()
        });
        if let Some(end) = end {
            for line in lines.by_ref() {
                script = script + "\n" + line;
                if line == end {
                    break;
                }
            }
        }
        while script.ends_with('\\') {
            script = script + "\n" + lines.next().unwrap_or_default();
        }
        found.push(Command {
            script,
            output: Vec::new(),
        });
    }
    found
}

#[test]
fn a_page_is_read_as_people_read_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("page.md");
    let text = "# T\n\n<!-- file: a.yml -->\n```yaml\na: 1\n```\n\n1. x\n\n   <!-- not run: no -->\n   ```sh\n   if x\n     y\n   ```\n";
    std::fs::write(&path, text).expect("a writable folder");
    let found = blocks(&path);
    let seen: Vec<_> = found
        .iter()
        .map(|block| (block.line, block.language.as_str(), block.text.as_str()))
        .collect();
    assert_eq!(seen, [(4, "yaml", "a: 1\n"), (11, "sh", "if x\n  y\n")]);
    assert_eq!(
        (found[0].file.as_deref(), found[1].not_run.as_deref()),
        (Some("a.yml"), Some("no"))
    );

    let command = |script: &str, output: &[&str]| Command {
        script: script.to_owned(),
        output: output.iter().map(|&line| line.to_owned()).collect(),
    };
    let found = commands("$ a \\\n  b\nshown\n$ cat >x <<'END'\n$ no\nEND\n$ c\n");
    let expected = [
        command("a \\\n  b", &["shown"]),
        command("cat >x <<'END'\n$ no\nEND", &[]),
        command("c", &[]),
    ];
    assert_eq!(found, expected);
}
