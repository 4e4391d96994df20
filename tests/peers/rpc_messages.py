"""Google's reader of the command session's messages, to compare ours with.

First writes a line of JSON with the fields of each message of the command line that this
release knows: {"Message": {"1": {...}, "2": null}}. Then reads lines "MESSAGE HEX" and answers
each with "error", or with the hex of the message written again without what it does not
know. Needs the vendor's SDK, which has the messages' descriptors.
"""

import json
import sys

from google.protobuf.message import DecodeError
from prime_sandboxes._proto.command_session import command_session_pb2 as messages


def fields(descriptor):
    return {str(f.number): f.message_type and fields(f.message_type) for f in descriptor.fields}


print(json.dumps({name: fields(getattr(messages, name).DESCRIPTOR) for name in sys.argv[1:]}))
for line in sys.stdin:
    name, text = line.rstrip("\n").split(" ")
    message = getattr(messages, name)()
    try:
        message.ParseFromString(bytes.fromhex(text))
        message.DiscardUnknownFields()
        print(message.SerializeToString(deterministic=True).hex())
    except DecodeError:
        print("error")
