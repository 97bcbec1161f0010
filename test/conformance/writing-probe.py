"""Writing to a mount, with system calls that Node has no functions for, in a process that may be killed.

Usage: writing-probe.py COMMAND ARGUMENTS...; the answer is one line of JSON. Errors are errno names.
"""

import ctypes
import errno
import json
import mmap
import os
import random
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT = 1, 2, 8, 16, 32
PAGE = 4096


def fallocate(fd, mode, at, length):
    wide = ctypes.c_int64
    if LIBC.fallocate64(fd, mode, wide(at), wide(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def outcome(call):
    """"ok" or what `call` returns, or the name of the errno that it ends with."""
    try:
        result = call()
        return "ok" if result is None else result
    except OSError as problem:
        return errno.errorcode.get(problem.errno, str(problem.errno))


def pages(data):
    """The bytes in memory that O_DIRECT takes."""
    buffer = mmap.mmap(-1, max(len(data), PAGE))
    buffer[: len(data)] = data
    return buffer


class Written:
    """A file and the bytes that it ought to hold."""

    def __init__(self, path, fallocates):
        self.fd = os.open(path, os.O_RDWR)
        self.around = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.size = os.fstat(self.fd).st_size
        self.bytes = bytearray(self.read(0, self.size))
        self.fallocates = fallocates

    def read(self, at, length):
        parts = []
        while length > 0:
            part = os.pread(self.fd, min(length, 1 << 20), at)
            if not part:
                break
            parts.append(part)
            at += len(part)
            length -= len(part)
        return b"".join(parts)

    def zero(self, at, length):
        end = min(at + length, self.size)
        if at < end:
            self.bytes[at:end] = bytes(end - at)

    def step(self, pick):
        """One change of any kind; its name."""
        at = pick.randrange(self.size)
        length = min(pick.choice([1, 511, 4096, 70000, 300001]), self.size - at)
        what = pick.choice(["write", "write", "direct", "map", "punch", "zeros", "fsync", "cut", "dsync"])
        data = pick.randbytes(length)
        if what == "write":
            assert os.pwrite(self.fd, data, at) == length
        elif what == "dsync":
            assert os.pwritev(self.fd, [data], at, os.RWF_DSYNC) == length
        elif what == "direct":
            at = at // PAGE * PAGE
            data = pick.randbytes(min((length // PAGE + 1) * PAGE, (self.size - at) // PAGE * PAGE))
            if data:
                assert os.pwritev(self.around, [memoryview(pages(data))[: len(data)]], at) == len(data)
        elif what == "map":
            view = mmap.mmap(self.fd, self.size, flags=mmap.MAP_SHARED)
            view[at : at + length] = data
            if pick.random() < 0.5:
                view.flush()
            view.close()
        elif what == "cut":
            # What is still in the page cache would be written behind the cut.
            os.fsync(self.fd)
            if pick.random() < 0.9:
                at = self.size - min(length, self.size)
            os.ftruncate(self.fd, at)
            self.zero(at, self.size)
            return what
        elif what == "fsync":
            os.fsync(self.fd)
            return what
        elif self.fallocates:
            how = PUNCH_HOLE if what == "punch" else ZERO_RANGE
            fallocate(self.fd, how | KEEP_SIZE, at, length)
            self.zero(at, length)
            return what
        else:
            return what
        self.bytes[at : at + len(data)] = data
        return what

    def differences(self):
        """How often what is read is not what was written: through the page cache, around it, and the size."""
        wrong = 0
        if self.read(0, self.size + PAGE) != self.bytes:
            wrong += 1
        buffer = mmap.mmap(-1, 1 << 20)
        for at in range(0, self.size, 1 << 20):
            moved = os.preadv(self.around, [buffer], at)
            if buffer[:moved] != bytes(self.bytes[at : at + (1 << 20)]):
                wrong += 1
        return wrong + (os.fstat(self.fd).st_size != self.size)


def scribble(path, model, seed, fallocates):
    """Changes the file in any way, and leaves what it then ought to hold in `model`."""
    pick = random.Random(int(seed))
    file = Written(path, fallocates == "yes")
    steps = {}
    wrong = 0
    for number in range(90):
        what = file.step(pick)
        steps[what] = steps.get(what, 0) + 1
        if number % 30 == 29:
            wrong += file.differences()
    wrong += file.differences()
    os.close(file.fd)
    os.close(file.around)
    with open(model, "wb") as out:
        out.write(file.bytes)
    return {"wrong": wrong, "steps": steps}


def parallel(path, processes):
    """Several processes write at once, each to every so-manieth piece of 8 KiB; the pieces that are wrong after."""
    processes = int(processes)
    size = os.stat(path).st_size // 8192
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                fd = os.open(path, os.O_RDWR | (os.O_DIRECT if number % 2 else 0))
                for piece in range(number, size, processes):
                    os.pwritev(fd, [pages(piece.to_bytes(4, "little") * 2048)], piece * 8192)
                    if piece % 97 == 0:
                        os.fsync(fd)
                os.close(fd)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    wrong = 0
    with open(path, "rb") as found:
        for piece in range(size):
            wrong += found.read(8192) != piece.to_bytes(4, "little") * 2048
    return {"statuses": statuses, "wrong": wrong}


def end(path):
    """What writing over and past the end comes to."""
    size = os.stat(path).st_size
    last = size - PAGE
    around = os.open(path, os.O_WRONLY | os.O_DIRECT)
    found = {
        "direct, past": outcome(lambda: os.pwritev(around, [pages(bytes(PAGE))], (size // PAGE + 1) * PAGE)),
    }
    os.close(around)
    # At once, or where the page cache took it, at fsync.
    for what, at in [("past", size), ("far past", size + (1 << 40)), ("over", last)]:
        fd = os.open(path, os.O_RDWR)
        moved = outcome(lambda: os.pwrite(fd, b"x" * 2 * PAGE, at))
        synced = outcome(lambda: os.fsync(fd))
        short = isinstance(moved, int) and moved <= PAGE and at == last
        found[what] = "no space" if "ENOSPC" in (moved, synced) or short else [moved, synced]
        found[what + ", then"] = outcome(lambda: os.ftruncate(fd, size))
        found[what + ", size"] = os.fstat(fd).st_size == size
        outcome(lambda: os.close(fd))
    fd = os.open(path, os.O_RDWR)
    found["read"] = os.pread(fd, 2 * PAGE, last) == b"x" * PAGE
    outcome(lambda: os.fsync(fd))
    # The errors of before were told: nothing of them is left.
    found["fsync"] = outcome(lambda: os.fsync(fd))
    return found


def endless(path):
    """Writes until the device is full, as one that is no file would be; how it ended."""
    fd = os.open(path, os.O_WRONLY)
    piece = bytes(1 << 20)
    written = 0
    try:
        while written < 1 << 36:
            written += os.write(fd, piece)
    except OSError as problem:
        return {"ended": errno.errorcode[problem.errno], "close": outcome(lambda: os.close(fd))}
    return {"ended": "never"}


def kinds(path):
    """What every kind of fallocate ends with."""
    fd = os.open(path, os.O_RDWR)
    size = os.fstat(fd).st_size
    calls = {
        "reserve": (0, 0, size),
        "reserve past the end": (0, 0, size + 1),
        "reserve past the end, not seen": (KEEP_SIZE, 0, size + 1),
        "zeros": (ZERO_RANGE, 0, size),
        "zeros past the end": (ZERO_RANGE, size - 10, 11),
        "zeros past the end, not seen": (ZERO_RANGE | KEEP_SIZE, size - 10, 11),
        "hole past the end": (PUNCH_HOLE | KEEP_SIZE, size - 10, 1 << 20),
        "collapse": (COLLAPSE, 0, PAGE),
        "insert": (INSERT, 0, PAGE),
    }
    found = {what: outcome(lambda: fallocate(fd, *call)) for what, call in calls.items()}
    return {**found, "same size": os.fstat(fd).st_size == size}


def changes(path, directory):
    """What every attempt to change something else than bytes ends with."""
    there = os.path.join(directory, "new")
    own = os.stat(path)
    found = {
        "create": outcome(lambda: os.open(there, os.O_WRONLY | os.O_CREAT)),
        "mkdir": outcome(lambda: os.mkdir(there)),
        "symlink": outcome(lambda: os.symlink("x", there)),
        "link": outcome(lambda: os.link(path, there)),
        "rename": outcome(lambda: os.rename(path, there)),
        "unlink": outcome(lambda: os.unlink(path)),
        "rmdir": outcome(lambda: os.rmdir(path)),
        "chmod": outcome(lambda: os.chmod(path, 0o600)),
        "chmod, the same": outcome(lambda: os.chmod(path, own.st_mode)),
        "chown": outcome(lambda: os.chown(path, own.st_uid + 1, -1)),
        "chown, the same": outcome(lambda: os.chown(path, own.st_uid, own.st_gid)),
        "grow": outcome(lambda: os.truncate(path, own.st_size + 1)),
        "stay": outcome(lambda: os.truncate(path, own.st_size)),
    }
    return {**found, "same size": os.stat(path).st_size == own.st_size}


def cut(path, at):
    """Opened anew for writing, or cut by path: what is behind reads as zeros at once, where it was read before."""
    at = int(at)
    with open(path, "rb") as reader:
        before = reader.read()
        if at == 0:
            os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
        else:
            os.truncate(path, at)
        reader.seek(0)
        after = reader.read()
    return {
        "kept": after[:at] == before[:at],
        "zeros": after[at:] == bytes(len(before) - at),
        "were zeros": before[at:] == bytes(len(before) - at),
    }


def times(path):
    """Times that were set, and that writing sets, in ms."""
    os.utime(path, ns=(1_234_567_890_123_000_000, 1_234_567_890_123_000_000))
    own = os.stat(path)
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"x", 0)
    os.fsync(fd)
    os.close(fd)
    return {
        "set": [own.st_atime_ns // 1_000_000, own.st_mtime_ns // 1_000_000],
        "written later": os.stat(path).st_mtime_ns > own.st_mtime_ns,
    }


def stable(path, image, how):
    """Writes that the image has when they return (how: dsync, sync); whether it has them."""
    flags = {"dsync": os.O_DSYNC, "sync": os.O_SYNC, "mount": 0}[how]
    fd = os.open(path, os.O_WRONLY | flags)
    theirs = os.open(image, os.O_RDONLY)
    found = []
    for at in [0, 5000, 1 << 20]:
        data = os.urandom(6000)
        os.pwrite(fd, data, at)
        found.append(os.pread(theirs, 6000, at) == data)
    os.close(fd)
    return found


COMMANDS = {
    "changes": changes,
    "cut": cut,
    "end": end,
    "endless": endless,
    "kinds": kinds,
    "parallel": parallel,
    "scribble": scribble,
    "stable": stable,
    "times": times,
}

print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
