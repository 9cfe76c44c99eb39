"""Writes a directory as a cpio archive for an initramfs, with all files owned by root.

Format "newc" of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import os
import stat
import sys


def padded(data):
    return data + b"\0" * (-len(data) % 4)


def entry(name, mode, data, inode, mtime):
    name = name.encode() + b"\0"
    fields = [inode, mode, 0, 0, 1, mtime, len(data), 0, 0, 0, 0, len(name), 0]
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return padded(header + name) + padded(data)


def entries(tree):
    yield ".", tree
    for folder, directories, files in os.walk(tree):
        for name in sorted(directories + files):
            path = os.path.join(folder, name)
            yield os.path.relpath(path, tree), path


def content(path, mode):
    if stat.S_ISLNK(mode):
        return os.readlink(path).encode()
    if stat.S_ISREG(mode):
        with open(path, "rb") as file:
            return file.read()
    return b""


out = sys.stdout.buffer
for inode, (name, path) in enumerate(entries(sys.argv[1]), start=1):
    found = os.lstat(path)
    out.write(entry(name, found.st_mode, content(path, found.st_mode), inode, int(found.st_mtime)))
out.write(entry("TRAILER!!!", 0, b"", 0, 0))
