#!/usr/bin/env bash
# Checks the prose of all tracked files: no word of tests/words.txt, and in Markdown no line over 100 columns outside of
# tables, fenced code and link definitions. `make lint` runs it.
set -euo pipefail
cd "$(dirname "$0")/.."

checked=('*.md' '*.yml' '*.sh' '*.py' '*.rs' '*.js' '*.css' '*.toml' '*.service' '*.socket' Makefile .ci/run fuzz/run)
excluded=(tests/fixtures)

mapfile -d '' files < <(git ls-files -z -- "${checked[@]}" "${excluded[@]/#/:(exclude)}")
python3 -S - tests/words.txt "${files[@]}" <<'PYTHON'
import os, re, sys

COLUMNS = 100
words, *files = sys.argv[1:]
phrases = [line.split() for line in open(words, encoding="utf-8") if line.strip() and not line.startswith("#")]
# A phrase may continue on the next line of a comment. Parts of identifiers count as words.
between = r"(?:[ \t_-]|\n[ \t]*(?:#|//[/!]?|>)?[ \t]*)+"
alternatives = "|".join(between.join(map(re.escape, phrase)) for phrase in phrases)
forbidden = re.compile(rf"(?<![^\W_])(?:{alternatives})(?![^\W_])", re.IGNORECASE)


def long_lines(text):
    is_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*(```|~~~)", line):
            is_code = not is_code
        elif is_code or len(line) <= COLUMNS or re.match(r"\s*\||\[[^]]+\]: ", line):
            continue
        # A single word, such as a URL, cannot be wrapped.
        elif " " in re.sub(r"^[\s>]*([-*]|\d+\.)?\s*", "", line):
            yield number, f"{len(line)} columns, the limit is {COLUMNS}"


def findings(file):
    text = open(file, encoding="utf-8").read()
    for found in forbidden.finditer(text):
        word = " ".join(re.split(between, found[0]))
        yield text.count("\n", 0, found.start()) + 1, f'"{word}" is in tests/words.txt'
    if file.endswith(".md"):
        yield from long_lines(text)


found = [(file, *finding) for file in files if os.path.exists(file) for finding in sorted(findings(file))]
for file, line, message in found:
    print(f"{file}:{line}: {message}", file=sys.stderr)
sys.exit(bool(found))
PYTHON
