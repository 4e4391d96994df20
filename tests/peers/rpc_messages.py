"""Google's reader of the command session's messages, to compare ours with.

Reads lines "MESSAGE HEX" and answers each with "error", or with the hex of the message
written again without what it does not know. Needs the vendor's SDK, which has the
messages' descriptors.
"""

import sys

from google.protobuf.message import DecodeError
from prime_sandboxes._proto.command_session import command_session_pb2 as messages

for line in sys.stdin:
    name, text = line.rstrip("\n").split(" ")
    message = getattr(messages, name)()
    try:
        message.ParseFromString(bytes.fromhex(text))
        message.DiscardUnknownFields()
        print(message.SerializeToString(deterministic=True).hex())
    except DecodeError:
        print("error")
