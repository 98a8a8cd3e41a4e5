"""What a second user of the host tries; run by an interpreter of the host's, as that user, with paths on its input.

Standard library alone: the environment of the tests may lie where that user cannot read. Without paths it watches,
until its input ends, what it can see of a folder and of the processes that work for it.
"""

import json
import os
import select
import stat
import sys


def attempts(path):
    """What can be done to a file or folder: it is done, and told."""
    done = []

    def try_to(name, act):
        try:
            act()
        except OSError:
            return
        done.append(name)

    mode = stat.S_IFMT(os.lstat(path).st_mode) if can_see(path) else 0
    if mode == stat.S_IFDIR:
        try_to("list", lambda: os.listdir(path))
        try_to("add to", lambda: os.mkdir(os.path.join(path, "planted")))
    else:
        try_to("read", lambda: open(path, "rb").close())
        try_to("write", lambda: open(path, "ab").close())
    try_to("change the rights of", lambda: os.chmod(path, 0o777))
    try_to("link", lambda: os.link(path, os.path.join("/var/tmp", f"linked-{os.getpid()}")))
    try_to("move", lambda: os.rename(path, path + ".moved"))
    try_to("remove", lambda: (os.rmdir if mode == stat.S_IFDIR else os.unlink)(path))
    return done


def can_see(path):
    try:
        os.lstat(path)
    except OSError:
        return False
    return True


def read(path):
    with open(path, "rb") as stream:
        return stream.read(1 << 20)


_PRIVATE = (("environ", read), ("mem", read), ("maps", read), ("fd", os.listdir), ("cwd", os.readlink))


def seen(root, words):
    """What it may read of the files below a folder, and of the processes that have the folder in their arguments."""
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            try:
                content = read(path)
            except OSError:
                continue
            found += [f"{path} holds {word}" for word in words if word.encode() in content]
            found.append(path)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        try:
            command = read(f"/proc/{pid}/cmdline")
        except OSError:
            continue
        found += [f"{command!r} holds {word}" for word in words if word.encode() in command]
        if root.encode() not in command:
            continue
        found.append("a process")
        for name, look in _PRIVATE:
            try:
                look(f"/proc/{pid}/{name}")
            except OSError:
                continue
            found.append(f"{name} of {command!r}")
    return found


def watch(root, words):
    """Looks again and again, until its input ends."""
    found = set()
    while not select.select([0], [], [], 0.3)[0]:
        found.update(seen(root, words))
    return sorted(found)


task = json.loads(sys.argv[1])
if "watch" in task:
    answer = watch(task["watch"], task["words"])
else:
    answer = {path: done for path in json.load(sys.stdin) for done in [attempts(path)] if done}
print(json.dumps(answer))
