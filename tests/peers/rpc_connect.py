"""A command session served by the Connect library, to test the client with.

Prints its port, then serves Start, SendInput and SendSignal with real processes until
its stdin ends. Needs the vendor's SDK, which has the messages' descriptors, and the
library `connectrpc` that comes with it.
"""

import io
import os
import queue
import signal
import socketserver
import subprocess
import sys
import threading
import wsgiref.simple_server

from connectrpc.code import Code
from connectrpc.compat import google_protobuf_codecs
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo
from connectrpc.server import ConnectWSGIApplication, EndpointSync
from prime_sandboxes._proto.command_session import command_session_pb2 as pb

SERVICE = "command_session.CommandSession"
processes = {}


def pump(events, stream, name):
    while data := os.read(stream.fileno(), 65536):
        events.put({"data": {name: data}})
    events.put(None)


def start(request, context):
    command = request.command
    if command.cmd == "/refused":
        raise ConnectError(Code[command.args[0]], "refused by the service")
    child = subprocess.Popen(
        [command.cmd, *command.args],
        cwd=command.cwd if command.HasField("cwd") else None,
        env={"PATH": os.environ["PATH"], **command.envs},
        stdin=subprocess.PIPE if request.stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    processes[child.pid] = child
    yield event(start={"pid": child.pid})
    events = queue.Queue()
    for name in ("stdout", "stderr"):
        threading.Thread(target=pump, args=(events, getattr(child, name), name)).start()
    open_streams = 2
    while open_streams:
        item = events.get()
        if item:
            yield event(keepalive={})
            yield event(**item)
        else:
            open_streams -= 1
    code = child.wait()
    yield event(end={"exit_code": code, "exited": code >= 0, "status": f"exit status {code}"})


def event(**fields):
    return pb.StartResponse(event=pb.CommandSessionEvent(**fields))


def find(request):
    child = processes.get(request.session.pid)
    if child is None or child.poll() is not None:
        raise ConnectError(Code.NOT_FOUND, "no such process")
    return child


def send_input(request, context):
    child = find(request)
    child.stdin.write(request.input.stdin)
    child.stdin.flush()
    return pb.SendInputResponse()


def send_signal(request, context):
    find(request).send_signal(signal.Signals(request.signal))
    return pb.SendSignalResponse()


def method(name):
    request, response = getattr(pb, name + "Request"), getattr(pb, name + "Response")
    return MethodInfo(
        name=name,
        service_name=SERVICE,
        input=request,
        output=response,
        idempotency_level=IdempotencyLevel.UNKNOWN,
    )


class Application(ConnectWSGIApplication):
    @property
    def path(self):
        return "/" + SERVICE


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *args):
        pass


def main():
    application = Application(
        codecs=google_protobuf_codecs(),
        endpoints={
            f"/{SERVICE}/Start": EndpointSync.server_stream(
                method=method("Start"), function=start
            ),
            f"/{SERVICE}/SendInput": EndpointSync.unary(
                method=method("SendInput"), function=send_input
            ),
            f"/{SERVICE}/SendSignal": EndpointSync.unary(
                method=method("SendSignal"), function=send_signal
            ),
        },
    )

    def below_prefix(environ, start_response):
        path = environ["PATH_INFO"]
        environ["PATH_INFO"] = path[path.index("/" + SERVICE) :]
        # The library reads to the end, which wsgiref does not know.
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        environ["wsgi.input"] = io.BytesIO(body)
        return application(environ, start_response)

    server = wsgiref.simple_server.make_server(
        "127.0.0.1", 0, below_prefix, server_class=Server, handler_class=Quiet
    )
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    for child in processes.values():
        child.kill()


main()
