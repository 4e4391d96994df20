"""A terminal: runs a program on a pty and says what its screen shows.

    terminal.py COLUMNS ROWS COMMAND...

Each line of stdin is an order, as JSON; each answer is one line of JSON.

    {"until": TEXT, "seconds": N}   waits until the screen and what scrolled off it
                                    hold TEXT; answers with a screen
    {"shows": LINES, "cursor": [COLUMN, ROW], "seconds": N}
                                    waits until the screen and what scrolled off it
                                    are these lines, with the cursor there; answers
                                    with a screen and whether it is the `same`
    {"screen": true}                answers with a screen, as it is
    {"resize": [COLUMNS, ROWS]}     the window changes; no answer
    {"type": TEXT}                  keys; no answer
    {"end": true, "seconds": N}     waits for the program's end; answers with a
                                    screen, `status` and all `bytes` it wrote

A screen is {"lines": [...], "cursor": [column, row], "colours": {...}}: `lines` from
the first that scrolled off to the last that is not blank, `colours` the text that
stood in each colour but the default.
"""

import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios
import time

import pyte


def resize(descriptor, columns, rows):
    size = struct.pack("HHHH", rows, columns, 0, 0)
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, size)


class Terminal:
    def __init__(self, columns, rows, command):
        self.screen = pyte.HistoryScreen(columns, rows, history=10000, ratio=0.5)
        self.stream = pyte.ByteStream(self.screen)
        self.written = b""
        self.status = None
        self.child, self.master = pty.fork()
        if self.child == 0:
            # The parent sets the size before it lets the program begin.
            sys.stdin.buffer.raw.read(1)
            os.execvp(command[0], command)
        resize(self.master, columns, rows)
        os.write(self.master, b"\n")
        self.drop_echo()

    def drop_echo(self):
        while b"\n" not in os.read(self.master, 1):
            pass

    def feed(self, seconds):
        """Takes what the program writes within that time; False at its end."""
        ready, _, _ = select.select([self.master], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:
            data = b""
        self.written += data
        self.stream.feed(data)
        return data != b""

    def text_of(self, line):
        cells = (line[column].data for column in range(self.screen.columns))
        return "".join(cells).rstrip()

    def lines(self):
        lines = [self.text_of(line) for line in self.screen.history.top]
        lines += [self.text_of(self.screen.buffer[row]) for row in range(self.screen.lines)]
        while lines and lines[-1] == "":
            lines.pop()
        return lines

    def colours(self):
        found = {}
        for row in range(self.screen.lines):
            for column in range(self.screen.columns):
                cell = self.screen.buffer[row][column]
                if cell.fg != "default":
                    found[cell.fg] = found.get(cell.fg, "") + cell.data
        return found

    def show(self, **more):
        cursor = [self.screen.cursor.x, self.screen.cursor.y]
        print(json.dumps({"lines": self.lines(), "cursor": cursor,
                          "colours": self.colours(), **more}), flush=True)

    def until(self, text, seconds):
        give_up = time.monotonic() + seconds
        while text not in "\n".join(self.lines()) and time.monotonic() < give_up:
            if not self.feed(0.05):
                break
        # A drawing comes in pieces: it is over when nothing follows.
        while select.select([self.master], [], [], 0.02)[0] and self.feed(0):
            pass
        self.show()

    def is_shown(self, order):
        cursor = [self.screen.cursor.x, self.screen.cursor.y]
        return self.lines() == order["shows"] and order.get("cursor", cursor) == cursor

    def shows(self, order):
        give_up = time.monotonic() + order["seconds"]
        while not self.is_shown(order) and time.monotonic() < give_up:
            if not self.feed(0.05):
                break
        self.show(same=self.is_shown(order))

    def end(self, seconds):
        give_up = time.monotonic() + seconds
        while self.feed(max(0, give_up - time.monotonic())):
            if time.monotonic() > give_up:
                os.kill(self.child, 9)
        _, status = os.waitpid(self.child, 0)
        self.child = None
        self.show(status=os.waitstatus_to_exitcode(status),
                  bytes=self.written.decode("utf-8", "replace"))

    def obey(self, order):
        if "until" in order:
            self.until(order["until"], order["seconds"])
        elif "shows" in order:
            self.shows(order)
        elif "screen" in order:
            self.show()
        elif "resize" in order:
            columns, rows = order["resize"]
            resize(self.master, columns, rows)
            self.screen.resize(rows, columns)
        elif "type" in order:
            os.write(self.master, order["type"].encode())
        elif "end" in order:
            self.end(order["seconds"])


def main():
    terminal = Terminal(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    try:
        for line in sys.stdin:
            terminal.obey(json.loads(line))
    finally:
        if terminal.child is not None:
            os.kill(terminal.child, 9)
            os.waitpid(terminal.child, 0)


main()
