"""Runs a program on a pseudo-terminal: rpc_pty.py COLS ROWS PROGRAM [ARGS...]

Our stdin is what is typed, our stdout what the terminal shows. A line "COLS ROWS" on
descriptor 3 changes its size. Ends as the program does.
"""

import fcntl
import os
import pty
import select
import struct
import sys
import termios


def resize(terminal, cols, rows):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def relay(terminal):
    sources = [terminal, 0, 3]
    while True:
        for source in select.select(sources, [], [])[0]:
            try:
                data = os.read(source, 65536)
            except OSError:  # of the terminal, once the program has ended
                data = b""
            if source == terminal:
                if not data:
                    return
                os.write(1, data)
            elif not data:
                sources.remove(source)
            elif source == 0:
                os.write(terminal, data)
            else:
                resize(terminal, *map(int, data.split()[-2:]))


def main():
    cols, rows, *argv = sys.argv[1:]
    child, terminal = pty.fork()
    if child == 0:
        resize(0, int(cols), int(rows))
        os.execvp(argv[0], argv)
    relay(terminal)
    status = os.waitpid(child, 0)[1]
    sys.exit(os.waitstatus_to_exitcode(status) & 0xFF)


main()
