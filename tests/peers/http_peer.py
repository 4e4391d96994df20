"""An HTTP/1.1 server whose answers are asked for by the path; see HANDLERS.

Prints the port, or "ready" for a Unix socket, once it listens. Ends with its
standard input, so that it never outlives the test.

    http_peer.py [--unix PATH] [--tls CERTIFICATE KEY [AUTHORITY OF CLIENTS]]
"""

import collections
import gzip
import hashlib
import json
import os
import socket
import ssl
import sys
import threading
import time
import urllib.parse
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

lock = threading.Lock()
seen = collections.Counter()  # requests by their query parameter `key`
busy = collections.Counter()  # "now" and "most" of the requests to /busy
barriers = {}  # of the requests to /together, by `count`
connections = set()  # client ports
flooded = collections.Counter()  # bytes sent by /flood, by `key`
logins = []  # what the clients of our proxy said who they are
never = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536

    def log_message(self, *unused):
        pass

    def address_string(self):
        return "peer"

    def body_blocks(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            while left := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                yield self.rfile.read(left)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            block = self.rfile.read(min(left, 65536))
            if not block:
                return
            yield block
            left -= len(block)

    def read_body(self):
        digest, size, start = hashlib.sha256(), 0, b""
        for block in self.body_blocks():
            digest.update(block)
            start += block[: 65536 - len(start)]
            size += len(block)
        return size, digest.hexdigest(), start

    def start_chunks(self, headers=()):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()

    def write_chunk(self, block):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
        self.wfile.flush()

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def serve(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        with lock:
            seen[query.get("key")] += 1
            connections.add(self.client_address)
        name = url.path.strip("/").replace("-", "_") or "echo"
        getattr(self, "on_" + name)(query)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = serve

    def on_echo(self, query):
        size, digest, start = self.read_body()
        facts = {
            "method": self.command,
            "path": self.path,
            "headers": {k.lower(): v for k, v in self.headers.items()},
            "size": size,
            "sha256": digest,
            "text": start.decode("latin-1"),
        }
        self.answer(200, json.dumps(facts).encode(), [("Content-Type", "application/json")])

    def on_bytes(self, query):
        size = int(query["n"])
        block = bytes(range(256)) * 256
        self.send_response(int(query.get("status", 200)))
        chunked = "chunked" in query
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(size))
        self.end_headers()
        while size > 0:
            part = block[:size]
            size -= len(part)
            if chunked:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            else:
                self.wfile.write(part)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def on_status(self, query):
        self.read_body()
        headers = [("Retry-After", query["after"])] if "after" in query else []
        self.answer(int(query["code"]), b'{"detail": "as you asked"}', headers)

    def on_seen(self, query):
        with lock:
            count = seen[query["of"]]
        self.answer(200, str(count).encode())

    def on_busy(self, query):
        self.read_body()
        with lock:
            busy["now"] += 1
            busy["most"] = max(busy["most"], busy["now"])
        time.sleep(float(query.get("seconds", 0.005)))
        with lock:
            busy["now"] -= 1
        self.answer(200, b"done")

    def on_together(self, query):
        """Answers once `count` of them are here at the same time."""
        count = int(query["count"])
        with lock:
            barrier = barriers.setdefault(count, threading.Barrier(count))
        barrier.wait()
        self.answer(200, b"all here")

    def on_busiest(self, query):
        with lock:
            facts = {"most": busy["most"], "connections": len(connections)}
        self.answer(200, json.dumps(facts).encode())

    def on_hang(self, query):
        self.read_body()
        # Ends when the client closes, so that threads do not pile up.
        self.connection.recv(1)
        self.close_connection = True

    def on_stall(self, query):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x")
        self.wfile.flush()
        self.connection.recv(1)
        self.close_connection = True

    def on_deaf(self, query):
        never.wait()  # never reads the body

    def on_drop(self, query):
        self.read_body()
        self.close_connection = True

    def on_drop_once(self, query):
        self.read_body()
        with lock:
            first = seen[query["key"]] == 1
        if first:
            self.close_connection = True
        else:
            self.answer(200, b"at last")

    def on_cut(self, query):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)
        self.close_connection = True

    def on_redirect(self, query):
        left = int(query.get("n", 1))
        to = "/redirect?n=%d" % (left - 1) if left > 1 else "/echo?token=secret"
        self.answer(302, b"elsewhere", [("Location", to)])

    def on_headers(self, query):
        self.answer(200, b"", [("X-One", "a"), ("x-one", "b"), ("X-Empty", ""),
                               ("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2")])

    def on_many_headers(self, query):
        self.answer(200, b"", [("X-%d" % i, "y" * 20) for i in range(2000)])

    def on_gzip(self, query):
        body = gzip.compress(b"z" * int(query.get("n", 100000)))
        self.answer(200, body, [("Content-Encoding", "gzip")])

    def on_lead(self, query):
        self.read_body()
        self.answer(int(query.get("code", 302)), b"elsewhere", [("Location", query["to"])])

    def on_set(self, query):
        self.answer(200, b"", [("Set-Cookie", query["cookie"])])

    def on_set_many(self, query):
        start, count = int(query["from"]), int(query["n"])
        self.answer(200, b"", [("Set-Cookie", "c%d=%d" % (i, i))
                               for i in range(start, start + count)])

    def on_pieces(self, query):
        """The text in chunks of `size` bytes, `pause` seconds apart."""
        text, size = query["text"].encode("latin-1"), int(query.get("size", 1))
        self.start_chunks([("Content-Type", query.get("type", "text/plain"))])
        for at in range(0, len(text), size):
            self.write_chunk(text[at:at + size])
            time.sleep(float(query.get("pause", 0)))
        self.write_chunk(b"")

    def on_flood(self, query):
        """Sends until the client goes, and counts."""
        self.start_chunks()
        block = b"x" * 65536
        with lock:
            flooded[query["key"]] = 0
        try:
            while True:
                self.write_chunk(block)
                with lock:
                    flooded[query["key"]] += len(block)
        finally:
            with lock:
                flooded[query["key"]] *= -1

    def on_flooded(self, query):
        """How much was sent there; negative once the client has gone."""
        with lock:
            count = flooded[query["of"]]
        self.answer(200, str(count).encode())

    def on_pause(self, query):
        """A first byte, a break, a second byte."""
        self.start_chunks()
        self.write_chunk(b"1")
        time.sleep(float(query["seconds"]))
        self.write_chunk(b"2")
        self.write_chunk(b"")

    def on_early(self, query):
        """An answer to a body that nobody reads."""
        self.close_connection = True
        self.answer(int(query["code"]), b"no more", [("Connection", "close")])
        while self.connection.recv(65536):
            pass  # else the kernel would reset the connection

    def on_mirror(self, query):
        """Sends each piece of the body back as it comes."""
        self.start_chunks()
        for block in self.body_blocks():
            self.write_chunk(block)
        self.write_chunk(b"")

    def on_bomb(self, query):
        """`n` bytes, which compression makes a thousandth of that."""
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        blocks = int(query["n"]) // 65536
        body = b"".join(packer.compress(bytes(65536)) for _ in range(blocks)) + packer.flush()
        self.answer(200, body, [("Content-Encoding", "gzip")])

    def do_CONNECT(self):
        with lock:
            seen["CONNECT"] += 1
            logins.append(self.headers.get("Proxy-Authorization"))
        if self.path.startswith("refused."):
            self.send_error(403)
            return
        host, port = self.path.rsplit(":", 1)
        there = socket.create_connection(("127.0.0.1", int(port)))
        self.send_response(200)
        self.end_headers()
        self.wfile.flush()
        threading.Thread(target=copy, args=(there, self.connection), daemon=True).start()
        copy(self.connection, there)
        self.close_connection = True

    def on_logins(self, query):
        with lock:
            self.answer(200, json.dumps(logins).encode())

    def on_garbage(self, query):
        self.wfile.write(b"not http at all\r\n\r\n")
        self.close_connection = True


def copy(source, target):
    try:
        while block := source.recv(65536):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class UnixServer(ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self):
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", 0

    def get_request(self):
        connection, _ = self.socket.accept()
        return connection, ("unix", 0)


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # clients that went away are what the tests are about


class TlsServer(Server):
    def finish_request(self, request, client_address):
        # In the connection's own thread: a silent client must not block accept.
        secure = self.tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        try:
            secure.do_handshake()
        except ssl.SSLError:
            # With bytes unread the close would overtake what TLS has to say.
            plain = socket.socket(fileno=secure.detach())
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(65536):
                pass
            plain.close()
            return
        super().finish_request(secure, client_address)


def make_server(arguments):
    if "--unix" in arguments:
        return UnixServer(arguments[arguments.index("--unix") + 1], Handler)
    if "--tls" not in arguments:
        return Server(("127.0.0.1", 0), Handler)
    server = TlsServer(("127.0.0.1", 0), Handler)
    place = arguments.index("--tls")
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.tls.load_cert_chain(arguments[place + 1], arguments[place + 2])
    if len(arguments) > place + 3:
        server.tls.verify_mode = ssl.CERT_REQUIRED
        server.tls.load_verify_locations(arguments[place + 3])
    return server


def main():
    server = make_server(sys.argv[1:])
    print(getattr(server, "server_port", 0) or "ready", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


main()
