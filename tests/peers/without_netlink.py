"""Runs a program that learns nothing of the machine's network interfaces.

A browser gives up whatever it is loading when an interface comes or goes, and other
tests make and remove interfaces. Without netlink sockets it never hears of them.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2
AF_NETLINK = 16
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000 | errno.EAFNOSUPPORT
# The numbers of socket(2) and, as the kernel counts them, of the architectures.
KNOWN = {"x86_64": (41, 0xC000003E), "aarch64": (198, 0xC00000B7)}


def program(call, architecture):
    """Instructions that refuse the one call; offsets are those of seccomp_data."""
    steps = [
        (LOAD, 0, 0, 4), (EQUAL, 0, 5, architecture),
        (LOAD, 0, 0, 0), (EQUAL, 0, 3, call),
        (LOAD, 0, 0, 16), (EQUAL, 0, 1, AF_NETLINK),
        (RETURN, 0, 0, FAIL), (RETURN, 0, 0, ALLOW),
    ]
    return len(steps), b"".join(struct.pack("HBBI", *step) for step in steps)


def main():
    known = KNOWN.get(platform.machine())
    if known:
        libc = ctypes.CDLL(None, use_errno=True)
        count, code = program(*known)
        kept = ctypes.create_string_buffer(code, len(code))
        whole = struct.pack("HP", count, ctypes.addressof(kept))
        if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
                PR_SET_SECCOMP, FILTER, whole, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    os.execvp(sys.argv[1], sys.argv[1:])


main()
