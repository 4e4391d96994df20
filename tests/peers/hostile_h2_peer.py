"""An HTTP/2 server over TLS that breaks off or breaks the rules, each in the way
its path asks for. By the packages `h2` and `hyperframe`.

Prints the port once it listens. Ends with its standard input, so that it never
outlives the test.

    hostile_h2_peer.py CERTIFICATE KEY
"""

import os
import socket
import ssl
import sys
import threading
import time

import h2.config
import h2.connection
import h2.errors
import h2.events
from hyperframe.frame import (ContinuationFrame, DataFrame, GoAwayFrame, HeadersFrame,
                              PingFrame, RstStreamFrame, SettingsFrame)

DRIP = 0.02  # seconds between two bytes of a slow server
BLOCK = b"y" * 16384

seen = {}  # requests by path


class Peer:
    """One connection. Frames that h2 would not send go out by themselves."""

    def __init__(self, stream):
        self.stream = stream
        config = h2.config.H2Configuration(
            client_side=False, header_encoding="utf-8", validate_outbound_headers=False,
            normalize_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.paths = {}
        self.flush()

    def flush(self):
        self.stream.sendall(self.h2.data_to_send())

    def raw(self, frame):
        self.flush()
        self.stream.sendall(frame.serialize())

    def head(self, id, *extra, end=False, status="200"):
        self.h2.send_headers(id, [(":status", status), *extra], end_stream=end)
        self.flush()

    def data(self, id, data, end=False):
        """As much as the windows allow; the client's is large."""
        self.h2.send_data(id, data, end_stream=end)
        self.flush()

    def goaway(self, last, error=h2.errors.ErrorCodes.NO_ERROR):
        frame = GoAwayFrame(0)
        frame.last_stream_id = last
        frame.error_code = int(error)
        self.raw(frame)

    def reset(self, id, error):
        frame = RstStreamFrame(id)
        frame.error_code = int(error)
        self.raw(frame)

    def run(self):
        while True:
            bytes_in = self.stream.recv(65536)
            if not bytes_in:
                return
            for event in self.h2.receive_data(bytes_in):
                if isinstance(event, h2.events.RequestReceived):
                    path = dict(event.headers)[":path"].strip("/")
                    self.paths[event.stream_id] = path
                    seen[path] = seen.get(path, 0) + 1
                elif isinstance(event, h2.events.DataReceived):
                    self.h2.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    if SERVE[self.paths[event.stream_id]](self, event.stream_id) == "close":
                        self.flush()
                        return
            self.flush()


def ok(peer, id):
    peer.head(id, ("content-length", "2"))
    peer.data(id, b"ok", end=True)


def count(peer, id):
    peer.head(id)
    peer.data(id, str(seen).encode(), end=True)


def goaway_kind(peer, id):
    """Says that it goes, and finishes what it has begun."""
    peer.head(id)
    peer.data(id, b"first, ")
    peer.goaway(id)
    peer.data(id, b"second", end=True)
    time.sleep(0.05)
    return "close"


def goaway_rude(peer, id):
    peer.head(id)
    peer.data(id, b"first, ")
    peer.goaway(id, h2.errors.ErrorCodes.INTERNAL_ERROR)
    return "close"


def goaway_before(peer, id):
    """Says that it has not looked at the request."""
    peer.goaway(0)
    return "close"


def cut(peer, id):
    peer.head(id, ("content-length", "1000"))
    peer.data(id, b"x" * 10)
    return "close"


def cut_head(peer, id):
    return "close"


def reset_with(error, answered):
    def serve(peer, id):
        if answered:
            peer.head(id)
            peer.data(id, b"part")
        peer.reset(id, error)

    return serve


def length_wrong(length):
    def serve(peer, id):
        peer.head(id, ("content-length", length))
        peer.data(id, b"12345", end=True)

    return serve


def head_of(*headers):
    def serve(peer, id):
        peer.h2.send_headers(id, headers, end_stream=True)

    return serve


def many_headers(peer, id):
    peer.head(id, *[("x-%d" % i, "y" * 50) for i in range(3000)], end=True)


def endless_headers(peer, id):
    frame = HeadersFrame(id)
    frame.data = peer.h2.encoder.encode([(":status", "200")])
    peer.raw(frame)
    more = ContinuationFrame(id)
    more.data = peer.h2.encoder.encode([("x-long", "y" * 8000)], huffman=False)
    while True:
        peer.raw(more)


def endless(peer, id):
    peer.head(id)
    while True:
        frame = DataFrame(id)
        frame.data = BLOCK
        peer.raw(frame)


def slow_body(peer, id):
    peer.head(id)
    while True:
        peer.data(id, b"x")
        time.sleep(DRIP)


def flood(peer, frame):
    one = frame.serialize()
    while True:
        peer.stream.sendall(one * 1000)


def pings(peer, id):
    flood(peer, PingFrame(0, opaque_data=b"12345678"))


def settings(peer, id):
    flood(peer, SettingsFrame(0))


def settings_burst(peer, id):
    """One TLS record of them, more than a client answers; then nothing more."""
    peer.flush()
    peer.stream.sendall(SettingsFrame(0).serialize() * 1500)


def garbage(peer, id):
    peer.stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def silent(peer, id):
    pass


def stuck(peer, id):
    """Never reads again, nor writes."""
    time.sleep(60)


Codes = h2.errors.ErrorCodes
SERVE = {
    "ok": ok,
    "count": count,
    "goaway-kind": goaway_kind,
    "goaway-rude": goaway_rude,
    "goaway-before": goaway_before,
    "cut": cut,
    "cut-head": cut_head,
    "reset-internal": reset_with(Codes.INTERNAL_ERROR, False),
    "reset-cancel": reset_with(Codes.CANCEL, False),
    "reset-refused": reset_with(Codes.REFUSED_STREAM, False),
    "reset-answered": reset_with(Codes.INTERNAL_ERROR, True),
    "reset-no-error": reset_with(Codes.NO_ERROR, True),
    "length-more": length_wrong("1000"),
    "length-less": length_wrong("2"),
    "length-word": length_wrong("abc"),
    "no-status": head_of(("x", "y")),
    "upper-case": head_of((":status", "200"), ("X-Upper", "y")),
    "connection": head_of((":status", "200"), ("connection", "close")),
    "line-break": head_of((":status", "200"), ("x", "a\r\nset-cookie: b=c")),
    "many-headers": many_headers,
    "endless-headers": endless_headers,
    "endless": endless,
    "slow-body": slow_body,
    "pings": pings,
    "settings": settings,
    "settings-burst": settings_burst,
    "garbage": garbage,
    "silent": silent,
    "stuck": stuck,
}


def serve(connection, context):
    try:
        stream = context.wrap_socket(connection, server_side=True)
        Peer(stream).run()
        stream.unwrap()
    except Exception:  # clients that go away are what the tests are about
        pass
    finally:
        connection.close()


def end_with_input():
    sys.stdin.read()
    os._exit(0)


def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    context.set_alpn_protocols(["h2"])
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=end_with_input, daemon=True).start()
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, context), daemon=True).start()


main()
