"""System calls on a mount that Node has no functions for, made in a process that may be killed.

Usage: transport-probe.py COMMAND ARGUMENTS...; the answer is one line of JSON. Errors are errno names.
"""

import ctypes
import errno
import json
import mmap
import os
import random
import sys


def name_of(problem):
    return errno.errorcode.get(problem.errno, str(problem.errno))


def outcome(call):
    """"ok", or the name of the errno that `call` ends with."""
    try:
        call()
        return "ok"
    except OSError as problem:
        return name_of(problem)


def ranges(size, count, seed):
    """Offsets and lengths: the edges first, then any."""
    pick = random.Random(seed)
    yield from [(0, 1), (0, 4096), (0, 1 << 20), (1, 4096), (511, 2), (4095, 4098), (131071, 131074)]
    yield from [(size - 1, 1), (size - 1, 4096), (size - 5000, 9000), (size, 1), (size + 1, 4096)]
    yield from [(size + (1 << 32), 4096), (0, 0)]
    for _ in range(count):
        yield (pick.randrange(size), pick.choice([1, 7, 512, 4096, 65536, 300001]))


def compare(shown, image, count, seed):
    """Reads the same ranges of both; the differing ones, and how many bytes were the same."""
    ours = os.open(shown, os.O_RDONLY)
    theirs = os.open(image, os.O_RDONLY)
    wrong = []
    same = 0
    for at, length in ranges(os.fstat(theirs).st_size, count, seed):
        expected = os.pread(theirs, length, at)
        if os.pread(ours, length, at) == expected:
            same += len(expected)
        else:
            wrong.append([at, length])
    os.close(ours)
    os.close(theirs)
    return {"wrong": wrong, "same": same}


def parallel(shown, image, processes):
    """`compare` in several processes at once; the exit status of each."""
    children = []
    for seed in range(processes):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                found = compare(shown, image, 150, seed)
                status = 0 if not found["wrong"] and found["same"] > 100000 else 2
            finally:
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def direct(shown, image):
    """Reads with O_DIRECT: whole and at the end; the ranges that differ."""
    ours = os.open(shown, os.O_RDONLY | os.O_DIRECT)
    theirs = os.open(image, os.O_RDONLY)
    size = os.fstat(theirs).st_size
    buffer = mmap.mmap(-1, 1 << 20)
    wrong = []
    for at, length in [(0, 4096), (4096, 1 << 20), (1 << 20, 1 << 20), (size // 4096 * 4096, 4096)]:
        moved = os.preadv(ours, [memoryview(buffer)[:length]], at)
        if buffer[:moved] != os.pread(theirs, length, at):
            wrong.append([at, length, moved])
    return wrong


def mapped(shown, image):
    """Compares a mapping with the image; also whether a mapping for writing is refused."""
    ours = os.open(shown, os.O_RDONLY)
    with open(image, "rb") as theirs:
        expected = theirs.read()
    view = mmap.mmap(ours, 0, prot=mmap.PROT_READ)
    writing = "ok"
    try:
        mmap.mmap(ours, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as problem:
        writing = name_of(problem)
    return {"same": view[:] == expected, "bytes": len(view), "writing": writing}


def sent(shown, copy):
    """Copies with sendfile(2); the bytes sent."""
    source = os.open(shown, os.O_RDONLY)
    target = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    total = 0
    while True:
        moved = os.sendfile(target, source, total, 1 << 20)
        if moved == 0:
            return total
        total += moved


def written(shown, directory):
    """What every attempt to change something ends with."""
    there = os.path.join(directory, "new")
    reading = os.open(shown, os.O_RDONLY)
    return {
        "open for writing": outcome(lambda: os.open(shown, os.O_WRONLY)),
        "open for reading and writing": outcome(lambda: os.open(shown, os.O_RDWR)),
        "open and cut": outcome(lambda: os.open(shown, os.O_RDONLY | os.O_TRUNC)),
        "open for appending": outcome(lambda: os.open(shown, os.O_WRONLY | os.O_APPEND)),
        "truncate": outcome(lambda: os.truncate(shown, 5)),
        "chmod": outcome(lambda: os.chmod(shown, 0o600)),
        "chown": outcome(lambda: os.chown(shown, 1, 1)),
        "utimes": outcome(lambda: os.utime(shown, (1, 1))),
        "setxattr": outcome(lambda: os.setxattr(shown, "user.x", b"y")),
        "removexattr": outcome(lambda: os.removexattr(shown, "user.vdisk.format")),
        "create": outcome(lambda: os.open(there, os.O_WRONLY | os.O_CREAT)),
        "mkdir": outcome(lambda: os.mkdir(there)),
        "symlink": outcome(lambda: os.symlink("x", there)),
        "link": outcome(lambda: os.link(shown, there)),
        "rename": outcome(lambda: os.rename(shown, there)),
        "unlink": outcome(lambda: os.unlink(shown)),
        "fsync": outcome(lambda: os.fsync(reading)),
        "fdatasync": outcome(lambda: os.fdatasync(reading)),
    }


def xattrs(shown, directory):
    """The extended attributes, and what the calls with little room say."""
    libc = ctypes.CDLL(None, use_errno=True)
    path = os.fsencode(shown)
    key = b"user.vdisk.format"

    def get(room):
        buffer = ctypes.create_string_buffer(256)
        moved = libc.getxattr(path, key, buffer if room else None, ctypes.c_size_t(room))
        return errno.errorcode[ctypes.get_errno()] if moved < 0 else moved

    def listing(room):
        buffer = ctypes.create_string_buffer(4096)
        moved = libc.listxattr(path, buffer if room else None, ctypes.c_size_t(room))
        return errno.errorcode[ctypes.get_errno()] if moved < 0 else moved

    names = os.listxattr(shown)
    return {
        "values": {name: os.getxattr(shown, name).decode() for name in names},
        "listed": sum(len(name.encode()) + 1 for name in names),
        "size alone": get(0),
        "too little room": get(2),
        "just enough": get(3),
        "list: size alone": listing(0),
        "list: too little room": listing(10),
        "missing": outcome(lambda: os.getxattr(shown, "user.other")),
        "of the directory": os.listxattr(directory),
    }


def access(shown, directory):
    """access(2) of the file and of its directory."""
    modes = {"F": os.F_OK, "R": os.R_OK, "W": os.W_OK, "X": os.X_OK}
    paths = {"file": shown, "directory": directory}
    return {
        what: "".join(letter for letter, mode in modes.items() if os.access(path, mode))
        for what, path in paths.items()
    }


def holes(path):
    """The map of data and holes: alternating offsets from SEEK_DATA and SEEK_HOLE, up to the end."""
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    found = []
    at = 0
    while at < size:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as problem:
            found.append(name_of(problem))
            break
        at = os.lseek(fd, data, os.SEEK_HOLE)
        found.append([data, at])
    found.append(outcome(lambda: os.lseek(fd, size, os.SEEK_DATA)))
    found.append(outcome(lambda: os.lseek(fd, size, os.SEEK_HOLE)))
    return found


def statfs(path):
    found = os.statvfs(path)
    return {
        "bytes": found.f_blocks * found.f_frsize,
        "free": found.f_bfree,
        "files": found.f_files,
        "namemax": found.f_namemax,
        "read-only": bool(found.f_flag & os.ST_RDONLY),
    }


def missing(directory, shown):
    """Names that are not there."""
    return {
        "other": outcome(lambda: os.stat(os.path.join(directory, "other"))),
        "part": outcome(lambda: os.stat(shown[:-1])),
        "below a file": outcome(lambda: os.stat(os.path.join(shown, "x"))),
        "too long": outcome(lambda: os.stat(os.path.join(directory, "x" * 256))),
        "no UTF-8": outcome(lambda: os.stat(os.path.join(os.fsencode(directory), b"\xff\xfe"))),
    }


def listing(directory):
    """Names and kinds as readdir gives them, without looking at the files."""
    kinds = {}
    for entry in os.scandir(directory):
        kinds[entry.name] = [entry.is_file(follow_symlinks=False), entry.inode()]
    return kinds


def reading(shown):
    """Reads until standard input ends: with the page cache and around it. Says what it ended with."""
    cached = os.open(shown, os.O_RDONLY)
    around = os.open(shown, os.O_RDONLY | os.O_DIRECT)
    first = os.pread(cached, 4096, 0)
    buffer = mmap.mmap(-1, 4096)
    print("reading", flush=True)
    os.set_blocking(0, False)
    count = 0
    while True:
        try:
            if os.read(0, 1) == b"":
                return {"ended": "asked to", "reads": count}
        except BlockingIOError:
            pass
        try:
            moved = os.preadv(around, [buffer], 0)
        except OSError as problem:
            return {"ended": name_of(problem), "reads": count}
        if buffer[:moved] != first:
            return {"ended": "wrong bytes", "reads": count}
        count += 1


COMMANDS = {
    "access": access,
    "compare": lambda shown, image: compare(shown, image, 200, 1),
    "direct": direct,
    "holes": holes,
    "listing": listing,
    "mapped": mapped,
    "missing": missing,
    "parallel": lambda shown, image: parallel(shown, image, 8),
    "reading": reading,
    "sent": sent,
    "statfs": statfs,
    "written": written,
    "xattrs": xattrs,
}

print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
