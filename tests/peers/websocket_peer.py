"""A WebSocket server by Python's `websockets`, asked by the path; see serve.

Prints the port once it listens. Ends with its standard input, so that it never
outlives the test.

    websocket_peer.py [--tls CERTIFICATE KEY]
"""

import asyncio
import http
import json
import os
import ssl
import sys
import threading
import urllib.parse

from websockets.legacy.server import serve as serve_websockets

events = {}  # by the query parameter `key`
closes = {}


def event_of(table, query):
    return table.setdefault(query["key"], asyncio.Event())


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def serve(socket, path=None):
    url = urllib.parse.urlsplit(path or socket.path)
    query = dict(urllib.parse.parse_qsl(url.query))
    name = url.path.strip("/")
    if name == "echo":
        await echo(socket)
    elif name == "request":
        headers = {k.lower(): v for k, v in socket.request_headers.items()}
        await socket.send(json.dumps({"path": socket.path, "headers": headers}))
    elif name == "close":
        await socket.send("before")
        await socket.close(int(query["code"]), query.get("reason", ""))
    elif name == "push":
        for i in range(int(query["n"])):
            await socket.send(str(i))
    elif name == "parts":
        await socket.send(["one ", "tw\u00f6 ", "three"])
        await socket.send([b"\x00", b"", b"\xff"])
    elif name == "ping":
        await (await socket.ping())
        event_of(events, query).set()
        await socket.wait_closed()
    elif name == "pinged":
        await event_of(events, query).wait()
        await socket.send("yes")
    elif name == "watch":
        await socket.wait_closed()
        closes[query["key"] + ".code"] = socket.close_code
        event_of(closes, query).set()
    elif name == "closed":
        await event_of(closes, query).wait()
        await socket.send(str(closes[query["key"] + ".code"]))


async def refuse(path, headers):
    if path.startswith("/refuse"):
        body = b"not for you, " * 200
        return http.HTTPStatus.FORBIDDEN, [("Content-Type", "text/plain")], body
    if path.startswith("/busy"):
        return http.HTTPStatus.SERVICE_UNAVAILABLE, [("Retry-After", "7")], b""
    return None


async def main():
    context = None
    if "--tls" in sys.argv:
        place = sys.argv.index("--tls")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[place + 1], sys.argv[place + 2])
    server = await serve_websockets(
        serve, "127.0.0.1", 0, ssl=context, max_size=None, process_request=refuse,
        subprotocols=["beta", "alpha"], ping_interval=None, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Future()


def end_with_input():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end_with_input, daemon=True).start()
asyncio.run(main())
