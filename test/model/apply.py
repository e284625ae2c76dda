"""Applies a layer tar to a directory as the image specification says, with nothing of layerd: whiteouts by hand, the
rest by GNU tar. Paths must stay below PATH_MAX, and nobody else may write to the directory.
"""

import os
import shutil
import subprocess
import sys
import tarfile


def remove(path: bytes) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def make_room(directory: bytes, member: tarfile.TarInfo) -> None:
    name = os.fsencode(member.name)
    parent, base = os.path.split(name)
    if base == b".wh..wh..opq":
        opaque = os.path.join(directory, parent)
        for below in os.listdir(opaque) if os.path.isdir(opaque) else []:
            remove(os.path.join(opaque, below))
    elif base.startswith(b".wh."):
        remove(os.path.join(directory, parent, base[4:]))
    elif not (member.isdir() and os.path.isdir(os.path.join(directory, name))):
        remove(os.path.join(directory, name))


def set_acls(directory: bytes, member: tarfile.TarInfo) -> None:
    # GNU tar reads ACLs from records of another name
    for key, value in member.pax_headers.items():
        if key.startswith("SCHILY.xattr.system.posix_acl_") and not member.islnk():
            name = key.removeprefix("SCHILY.xattr.")
            os.setxattr(os.path.join(directory, os.fsencode(member.name)), name, os.fsencode(value))


def main() -> None:
    archive, directory = os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2])
    with tarfile.open(archive, errors="surrogateescape") as opened:
        members = opened.getmembers()
    for member in members:
        make_room(directory, member)
    attributes = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-permissions", "--same-owner"]
    subprocess.run(
        ["tar", "-x", *attributes, "--exclude=.wh.*", "-f", archive, "-C", directory],
        check=True,
    )
    for member in members:
        set_acls(directory, member)


main()
