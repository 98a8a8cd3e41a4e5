"""File systems that a test's commands see, and nobody else: in a mount namespace that a process holds open."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Mounts:
    """A mount namespace.

    Attributes:
        prefix: of a command that is to run in there, in the folder that was given.
    """

    def __init__(self, holder: int, folder: Path) -> None:
        enter = ["nsenter", "-t", str(holder), "-m", "-U", "--preserve-credentials"]
        self.prefix = [*enter, "sh", "-c", 'cd "$0" && exec "$@"', str(folder)]

    def run(self, *command: str) -> None:
        """Runs a command in there that has to end with 0."""
        done = subprocess.run([*self.prefix, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"

    def small(self, folder: str, size: str) -> None:
        """Puts a small file system of its own in the place of a folder."""
        self.run("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", folder)

    def read_only(self, folder: str) -> None:
        """Lets nobody write to a folder any more, but for files that are open."""
        aside = f"{folder}.read-only"
        self.run("mkdir", "-p", aside)
        self.run("mount", "--bind", folder, aside)
        self.run("mount", "-o", "remount,ro,bind", aside)
        self.run("mount", "--bind", aside, folder)  # in one step: between two, somebody would open a file to write

    def writable(self, folder: str) -> None:
        """Takes that back."""
        self.run("umount", folder)
        self.run("umount", f"{folder}.read-only")

    def fill(self, folder: str) -> None:
        """Leaves no room on a file system."""
        self.run("sh", "-c", f"cat /dev/zero > {folder}/filler 2>/dev/null; test -s {folder}/filler")

    def empty(self, folder: str) -> None:
        """Gives the room back."""
        self.run("rm", f"{folder}/filler")


@contextmanager
def mounts(folder: Path) -> Iterator[Mounts]:
    """A mount namespace whose commands work in a folder."""
    holder = subprocess.Popen(["unshare", "-rm", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline()
        yield Mounts(holder.pid, folder)
    finally:
        holder.kill()
        holder.communicate()
