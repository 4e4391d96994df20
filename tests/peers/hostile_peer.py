"""An HTTP/1.1 server that breaks the rules, each in the way its path asks for.

Prints the port once it listens. Ends with its standard input, so that it never
outlives the test. Bare sockets: no library would send such bytes.

    hostile_peer.py [--tls CERTIFICATE KEY]
"""

import gzip
import itertools
import os
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.parse
import zlib

OK = b"HTTP/1.1 200 OK\r\n"
DRIP = 0.02  # seconds between two bytes of a slow server
LINGER = 10  # seconds that a silent one waits for its client to go


# Each of these makes a handler; one that returns True has kept the connection.


def send(*parts):
    """Sends these bytes and closes."""

    def serve(connection, query):
        connection.sendall(b"".join(parts))

    return serve


def keep(*parts):
    """Sends these bytes and goes on, as if they had been an answer."""

    def serve(connection, query):
        connection.sendall(b"".join(parts))
        return True

    return serve


def wait_for_end(connection):
    connection.settimeout(LINGER)
    while connection.recv(65536):
        pass


def drip(start, parts):
    """Sends the start at once, then one part after the other, slowly."""

    def serve(connection, query):
        connection.sendall(start)
        for part in parts():
            connection.sendall(part)
            time.sleep(DRIP)

    return serve


def pour(start, part):
    """Sends the start, then the part again and again until the client goes."""

    def serve(connection, query):
        connection.sendall(start)
        while True:
            connection.sendall(part)

    return serve


def reset(*parts):
    """Sends these bytes, then breaks the connection as a crash would."""

    def serve(connection, query):
        connection.sendall(b"".join(parts))
        time.sleep(0.05)  # or the reset outruns the bytes
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return serve


def chunked(*parts):
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(parts)


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def encoded(name, data):
    return OK + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s" % (name, len(data), data)


def sized(length, data=b""):
    return OK + b"Content-Length: %s\r\n\r\n" % length + data


PACKED = gzip.compress(b"z" * 100000 + os.urandom(1000))
BLOCK = b"y" * 65536


def damaged(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1:]


def crc_wrong(data):
    return data[:-8] + b"\0\0\0\0" + data[-4:]


def layers(count):
    data = b"x" * 100
    for _ in range(count):
        data = gzip.compress(data)
    return OK + b"Content-Encoding: " + b", ".join([b"gzip"] * count) + \
        b"\r\nContent-Length: %d\r\n\r\n" % len(data) + data


def pour_gzip(connection, query):
    connection.sendall(OK + b"Content-Encoding: gzip\r\n\r\n")
    packer = zlib.compressobj(wbits=31)
    while True:
        connection.sendall(packer.compress(bytes(1 << 20)))


def say_farewell(*parts):
    """Sends these bytes and closes, TLS first."""

    def serve(connection, query):
        connection.sendall(b"".join(parts))
        if hasattr(connection, "unwrap"):
            connection.unwrap()

    return serve


def refuse_upload(connection, query):
    connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n"
                       b"Connection: close\r\n\r\nno!")
    wait_for_end(connection)


def refuse_and_reset(connection, query):
    """The same, and closes with the rest of the upload unread."""
    connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!")
    time.sleep(0.05)


def leave_answer_behind(connection, query):
    """Answers, and once more a moment later, when nobody has asked."""
    connection.sendall(sized(b"5", b"first"))
    time.sleep(0.05)
    connection.sendall(sized(b"6", b"forged"))
    return True


SERVE = {
    "ok": keep(sized(b"2", b"ok")),
    # heads
    "slow-head": drip(b"HTTP/1.1 200 OK\r\nX: ", lambda: itertools.repeat(b"x")),
    "silent": keep(),
    "long-line": pour(OK + b"X: ", BLOCK),
    "long-status": pour(b"HTTP/1.1 200 ", BLOCK),
    "many-lines": pour(OK, b"X-Header: y\r\n" * 1000),
    "many-interim": pour(b"", b"HTTP/1.1 103 Early\r\nX: y\r\n\r\n" * 1000),
    "zero-byte": keep(OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n"),
    "no-colon": keep(OK + b"nonsense\r\nContent-Length: 2\r\n\r\nok"),
    "folded": keep(OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nok"),
    "bare-lf": keep(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    "http09": send(b"<html>no head at all</html>"),
    "http3": keep(b"HTTP/3 200\r\nContent-Length: 2\r\n\r\nok"),
    "status-0": keep(b"HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n"),
    "status-99": keep(b"HTTP/1.1 99 No\r\nContent-Length: 0\r\n\r\n"),
    "status-1000": keep(b"HTTP/1.1 1000 No\r\nContent-Length: 0\r\n\r\n"),
    "status-word": keep(b"HTTP/1.1 abc No\r\nContent-Length: 0\r\n\r\n"),
    "garbage": send(b"not http at all\r\n\r\n"),
    "interim": keep(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nX: y\r\n\r\n",
                    sized(b"2", b"ok")),
    "switch": keep(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nother"),
    # lengths
    "too-long": keep(sized(b"1000", b"x" * 10)),
    "cut": send(sized(b"1000", b"x" * 10)),
    "too-short": keep(sized(b"4", b"good, and more of it")),
    "left-behind": leave_answer_behind,
    "length-negative": keep(sized(b"-5", b"ok")),
    "length-word": keep(sized(b"abc", b"ok")),
    "length-huge": send(sized(b"99999999999999999999999999", b"ok")),
    "length-most": send(sized(b"9223372036854775807", b"ok")),
    "length-twice": keep(OK + b"Content-Length: 2\r\nContent-Length: 5\r\n\r\nok"),
    "length-list": keep(sized(b"2, 5", b"ok")),
    "length-twins": keep(OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
    "length-and-chunks": keep(OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
                              chunk(b"body"), chunk(b"")),
    # bodies
    "slow-body": drip(sized(b"100000"), lambda: itertools.repeat(b"x")),
    "slow-chunks": drip(chunked(), lambda: itertools.repeat(chunk(b"x"))),
    "endless": pour(OK + b"\r\n", BLOCK),
    "endless-chunks": pour(chunked(), chunk(BLOCK)),
    "endless-gzip": pour_gzip,
    "trailer": keep(chunked(chunk(b"ok"), b"0\r\nContent-Type: forged\r\nHTTP/1.1 404: x\r\n\r\n")),
    "endless-trailers": pour(chunked(chunk(b"ok"), b"0\r\n"), b"X-Trailer: y\r\n" * 1000),
    # ends
    "drop": send(),
    "reset": reset(),
    "reset-head": reset(b"HTTP/1.1 200 OK\r\nCont"),
    "reset-body": reset(sized(b"1000", b"x" * 10)),
    "reset-chunk": reset(chunked(b"10\r\nx")),
    "head-cut": send(b"HTTP/1.1 200 OK\r\nA: b\r\n"),
    "line-cut": send(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "until-farewell": say_farewell(OK + b"\r\nall of it"),
    "until-end": send(OK + b"\r\nall of it"),
    "refuse-upload": refuse_upload,
    "refuse-and-reset": refuse_and_reset,
    # chunks
    "chunk-word": keep(chunked(b"xyz\r\nok\r\n0\r\n\r\n")),
    "chunk-negative": keep(chunked(b"-2\r\nok\r\n0\r\n\r\n")),
    "chunk-huge": keep(chunked(b"ffffffffffffffffff\r\nok\r\n")),
    "chunk-most": send(chunked(b"7fffffffffffffff\r\nok\r\n")),
    "chunk-no-end": keep(chunked(b"2\r\nokXX0\r\n\r\n")),
    "chunk-cut": send(chunked(chunk(b"ok"), b"1000\r\npart")),
    "chunk-no-last": send(chunked(chunk(b"ok"))),
    "chunk-line": pour(chunked(b"2;"), BLOCK),
    # encodings
    "gzip-none": keep(encoded(b"gzip", b"this is no gzip")),
    "gzip-cut": keep(encoded(b"gzip", PACKED[:-600])),
    "gzip-damaged": keep(encoded(b"gzip", damaged(PACKED))),
    "gzip-crc": keep(encoded(b"gzip", crc_wrong(PACKED))),
    "gzip-behind": keep(encoded(b"gzip", PACKED + b"garbage behind it")),
    "gzip-empty": keep(encoded(b"gzip", b"")),
    "deflate-none": keep(encoded(b"deflate", b"this is no zlib")),
    "br-none": keep(encoded(b"br", b"\xff" * 100)),
    "zstd-none": keep(encoded(b"zstd", b"\xff" * 100)),
    "unknown": keep(encoded(b"rot13", b"uryyb")),
    "gzip-6": keep(layers(6)),
    "gzip-3": keep(layers(3)),
    # ways
    "loop": keep(b"HTTP/1.1 302 Found\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n"),
    "to-file": keep(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n"
                    b"Content-Length: 0\r\n\r\n"),
}


def read_request(connection):
    """The path and the query of the next request; its body is left where it is
    unless it is there already."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return None
        data += piece
    target = urllib.parse.urlsplit(data.split(b" ", 2)[1].decode("latin-1"))
    return target.path.strip("/"), dict(urllib.parse.parse_qsl(target.query))


def serve(connection):
    try:
        while True:
            request = read_request(connection)
            if request is None:
                return
            handler = SERVE[request[0]]
            if not handler(connection, request[1]):
                return
    except (OSError, ValueError):
        pass  # clients that go away are what the tests are about
    finally:
        connection.close()


def secure(connection, context):
    try:
        wrapped = context.wrap_socket(connection, server_side=True)
    except (OSError, ValueError):
        connection.close()
        return
    serve(wrapped)


def end_with_input():
    sys.stdin.read()
    os._exit(0)


def main():
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    context = None
    if "--tls" in sys.argv:
        place = sys.argv.index("--tls")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[place + 1], sys.argv[place + 2])
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=end_with_input, daemon=True).start()
    while True:
        connection, _ = listener.accept()
        work = (secure, (connection, context)) if context else (serve, (connection,))
        threading.Thread(target=work[0], args=work[1], daemon=True).start()


main()
