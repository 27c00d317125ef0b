"""What the operating system must be told about a child process.

Linux calls that Python 3.11 does not wrap, made through ctypes: ending with the parent, and
running a program that refuses to be root. Elsewhere ending with the parent does nothing.
No Django here.
"""

import contextlib
import ctypes
import os
import pwd
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

LINUX = sys.platform == "linux"

# linux/prctl.h, linux/securebits.h, linux/sched.h, linux/capability.h
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_PR_SET_CHILD_SUBREAPER = 36
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CLONE_NEWUSER = 0x10000000
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522

# What asks a process to end.
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOBODY = 65534
PROBE_SECONDS = 30

# Loaded before any fork: a child between fork and exec must not load libraries.
_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapabilityData(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


class NotPermitted(Exception):
    """The kernel or the user database does not let a server run as anybody suitable."""


class Identity(NamedTuple):
    """Who a child runs as: ``enter`` goes between fork and exec, ``owner`` is the uid files must have."""

    owner: int
    enter: Callable[[], None]


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _stay() -> None:
    """Keep the identity of the parent."""


def end_with_parent(number: int = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Have the kernel send this process a signal when its parent ends, however it ends.

    ``parent``: the pid the parent had before the fork; if it is gone already the process ends
    here. A change of user clears the wish, so this comes after it. Linux only, else nothing.
    """
    if _libc is None:
        return
    _check(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0))
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose parent ends, to clear them away. Linux only, else nothing."""
    if _libc is not None:
        _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def reap(known: Collection[int]) -> None:
    """Clear away adopted processes that have ended; those whose pids are ``known`` are left to their owner."""
    if not LINUX:
        return
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid in known:
                return
            os.waitpid(ended.si_pid, 0)


def kill_group(group: int) -> bool:
    """SIGKILL a process group and clear away its dead; whether anybody is left in it."""
    try:
        os.killpg(group, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-group, os.WNOHANG)[0]:
                continue
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal; False where /proc does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    masks = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")]
    return bool(masks) and bool(masks[0] >> (number - 1) & 1)


def before_exec(*, identity: Identity | None = None, on_orphan: int = signal.SIGKILL) -> Callable[[], None]:
    """What ``subprocess`` runs in the child: take on the identity, end with this process.

    Call it in the main thread and start the child there: the kernel takes the end of the
    forking *thread* for the end of the parent.
    """
    assert threading.current_thread() is threading.main_thread(), "children start from the main thread"
    parent = os.getpid()
    enter = identity.enter if identity is not None else _stay

    def prepare() -> None:
        # The mask would outlive the exec.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
        enter()
        end_with_parent(on_orphan, parent=parent)

    return prepare


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Hold back requests to end until the block is done.

    A handler that raises while a child is being started would lose the only reference to it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _namespace(uid: int, gid: int) -> Identity:
    """Root outside, ``uid`` inside a user namespace: files stay root's, the program sees no root."""
    outside = (os.geteuid(), os.getegid())

    def enter() -> None:
        assert _libc is not None
        _check(_libc.unshare(_CLONE_NEWUSER))
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {outside[0]} 1"),
            ("gid_map", f"{gid} {outside[1]} 1"),
        ):
            handle = os.open(f"/proc/self/{name}", os.O_WRONLY)
            try:
                os.write(handle, text.encode())
            finally:
                os.close(handle)

    return Identity(outside[0], enter)


def _user(uid: int, gid: int) -> Identity:
    """Become ``uid`` for good, keeping the right to pass other users' folders on the way to its own files."""

    def enter() -> None:
        assert _libc is not None
        _check(_libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
        # Else access(2), by which PostgreSQL looks for its own programs, answers without that right. A root without
        # CAP_SETPCAP may not say so, which matters only where the programs lie in a folder that is closed to others.
        _libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        bit = 1 << _CAP_DAC_OVERRIDE
        header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
        # Version 3 takes two words of 32 capabilities each.
        data = (_CapabilityData * 2)(_CapabilityData(bit, bit, bit), _CapabilityData(0, 0, 0))
        _check(_libc.capset(ctypes.byref(header), ctypes.byref(data)))
        _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0))

    return Identity(uid, enter)


def _works(identity: Identity, *, folder: Path, program: Path) -> str:
    """Try to write in ``folder`` and to run ``program -V`` with an identity; "" or why it failed."""
    script = ': >"$1/.probe" && rm "$1/.probe" && exec "$2" -V'
    try:
        done = subprocess.run(  # noqa: S603 - our own command line
            ["/bin/sh", "-c", script, "sh", str(folder), str(program)],
            preexec_fn=identity.enter,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]


def unprivileged(*, folder: Path, program: Path) -> Identity:
    """Somebody other than root who can run ``program`` on ``folder``. Raises ``NotPermitted``.

    An ordinary user stays itself. Root becomes the owner of ``folder`` if that is somebody else;
    otherwise root in the eyes of the files but not of the program (user namespace), and where
    the kernel refuses that, the user nobody. No user is made and no other folder's mode changes.
    """
    uid = os.geteuid()
    if uid != 0:
        try:
            pwd.getpwuid(uid)
        except KeyError:
            raise NotPermitted(
                f"user id {uid} has no entry in the password file, which PostgreSQL asks for; add one"
            ) from None
        return Identity(uid, _stay)
    if not LINUX:
        raise NotPermitted("this system cannot run it for root; start as an ordinary user")
    owner = folder.stat().st_uid
    if owner != 0:
        candidates = [_user(owner, folder.stat().st_gid)]
    else:
        try:
            entry = pwd.getpwuid(NOBODY)
        except KeyError:
            others = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
            if not others:
                raise NotPermitted("the password file knows no user but root") from None
            entry = others[0]
        candidates = [_namespace(entry.pw_uid, entry.pw_gid), _user(entry.pw_uid, entry.pw_gid)]
    reasons = []
    for candidate in candidates:
        reason = _works(candidate, folder=folder, program=program)
        if not reason:
            return candidate
        reasons.append(reason)
    raise NotPermitted(f"it refuses to run as root, and nobody else can run it here ({'; '.join(reasons)})")


def allow_files(count: int) -> int:
    """Let this process and its children open ``count`` files, as far as this user may; how many they may now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return count
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed
