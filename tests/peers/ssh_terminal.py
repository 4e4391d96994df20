# A terminal for the OpenSSH client: argv is the command. It has 100 columns and 30 lines,
# and at the first "RESIZE" in what comes out, 120 and 40. What comes in on standard input
# is typed; what comes out is copied. Ends with the command's status.
import fcntl
import os
import pty
import struct
import sys
import termios
import threading


def resize(fd, rows, cols):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


pid, terminal = pty.fork()
if pid == 0:
    resize(0, 30, 100)
    os.execvp(sys.argv[1], sys.argv[1:])


def type_all():
    while data := os.read(0, 4096):
        os.write(terminal, data)


threading.Thread(target=type_all, daemon=True).start()
seen = b""
while True:
    try:
        data = os.read(terminal, 4096)
    except OSError:
        break
    if not data:
        break
    os.write(1, data)
    before = b"RESIZE" in seen
    seen += data
    if b"RESIZE" in seen and not before:
        resize(terminal, 40, 120)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
