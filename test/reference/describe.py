"""Prints every entry of trees, one JSON object a line: what layerd's views are compared by.

Paths come by standard input, in base64, one a line; each is answered by the entries and an empty line, or by what went
wrong. Nothing of layerd takes part. Names are bytes: those that are not printable ASCII, and backslashes, stand as \\xNN.
The walk goes by directory descriptors, so that paths of any length can be told.
"""

import base64
import hashlib
import json
import os
import re
import stat
import sys

TYPES = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
# what file systems keep for themselves: overlay's marks, and the ACLs that XFS shows a second time
PRIVATE = (b"trusted.overlay.", b"user.overlay.", b"trusted.SGI_ACL_")


def escape(name: bytes) -> str:
    text = name.decode("latin-1")
    return re.sub(r"[^\x20-\x5b\x5d-\x7e]", lambda found: f"\\x{ord(found[0]):02x}", text)


def content_digest(directory: int, name: bytes) -> str:
    digest = hashlib.sha256()
    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
    with open(opened, "rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def attributes(directory: int, name: bytes) -> dict:
    # the calls for extended attributes take no directory descriptor; /proc stands in for it
    path = b"/proc/self/fd/%d/%s" % (directory, name)
    names = sorted(os.fsencode(key) for key in os.listxattr(path, follow_symlinks=False))
    shown = [key for key in names if not key.startswith(PRIVATE)]
    return {escape(key): os.getxattr(path, key, follow_symlinks=False).hex() for key in shown}


def describe(directory: int, name: bytes, path: bytes) -> tuple:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    kind = stat.S_IFMT(status.st_mode)
    entry = {
        "path": escape(path),
        "type": TYPES[kind],
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime": str(status.st_mtime_ns),
    }
    if kind in (stat.S_IFREG, stat.S_IFLNK):
        entry["size"] = status.st_size
    if kind == stat.S_IFREG:
        entry["sha256"] = content_digest(directory, name)
    if kind == stat.S_IFLNK:
        entry["target"] = escape(os.readlink(name, dir_fd=directory))
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        entry["rdev"] = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    entry["xattrs"] = attributes(directory, name)
    return entry, status


def walk(directory: int, prefix: bytes, found: list, links: dict) -> None:
    for name in sorted(map(os.fsencode, os.listdir(directory))):
        entry, status = describe(directory, name, prefix + name)
        found.append(entry)
        if entry["type"] == "directory":
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            try:
                walk(below, prefix + name + b"/", found, links)
            finally:
                os.close(below)
        else:
            links.setdefault((status.st_dev, status.st_ino), []).append(entry)


def listing(path: bytes) -> list:
    found: list = []
    links: dict = {}
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        entry, _ = describe(root, b".", b".")
        found.append(entry)
        walk(root, b"", found, links)
    finally:
        os.close(root)
    for group in links.values():
        if len(group) > 1:
            first = min(entry["path"] for entry in group)
            for entry in group:
                entry["links"] = first
    return found


def main() -> None:
    for line in sys.stdin:
        try:
            answer = listing(base64.b64decode(line))
        except Exception as error:
            answer = [{"error": f"{type(error).__name__}: {error}"}]
        for entry in answer:
            sys.stdout.write(json.dumps(entry) + "\n")
        sys.stdout.write("\n")
        sys.stdout.flush()


sys.setrecursionlimit(100_000)
main()
