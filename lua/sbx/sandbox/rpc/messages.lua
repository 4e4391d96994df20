-- The messages of the command session (package `command_session`), as schemas for
-- protobuf.lua. The ids that end in `_uuid`, and `user`, are of clients newer than ours:
-- a request with an id may be sent again, and has its effect once.

local messages = {}

local command = {
  { 1, "cmd", "string" },
  { 2, "args", "string", repeated = true },
  { 3, "envs", "map" },
  { 4, "cwd", "string", optional = true },
  { 5, "user", "string", optional = true },
}

local size = { { 1, "cols", "uint32" }, { 2, "rows", "uint32" } }
local pty = { { 1, "size", "message", schema = size } }

local data = {
  { 1, "stdout", "bytes", oneof = "output" },
  { 2, "stderr", "bytes", oneof = "output" },
  { 3, "pty", "bytes", oneof = "output" },
}

local ended = {
  { 1, "exit_code", "sint32" },
  { 2, "exited", "bool" },
  { 3, "status", "string" },
  { 4, "error", "string", optional = true },
}

local event = {
  { 1, "start", "message", oneof = "event", schema = { { 1, "pid", "uint32" } } },
  { 2, "data", "message", oneof = "event", schema = data },
  { 3, "end", "message", oneof = "event", schema = ended },
  { 4, "keepalive", "message", oneof = "event", schema = {} },
}

local selector = {
  { 1, "pid", "uint32", oneof = "selector" },
  { 2, "tag", "string", oneof = "selector" },
  { 3, "session_uuid", "string", oneof = "selector" },
}

local input = {
  { 1, "stdin", "bytes", oneof = "input" },
  { 2, "pty", "bytes", oneof = "input" },
}

local session = { 1, "session", "message", schema = selector }

messages.StartRequest = {
  { 1, "command", "message", schema = command },
  { 2, "pty", "message", schema = pty },
  { 3, "tag", "string", optional = true },
  { 4, "stdin", "bool", optional = true },
  { 5, "session_uuid", "string", optional = true },
}

messages.StartResponse = { { 1, "event", "message", schema = event } }
messages.ConnectRequest = { session }
messages.ConnectResponse = messages.StartResponse

messages.SendInputRequest = {
  session,
  { 2, "input", "message", schema = input },
  { 3, "input_uuid", "string", optional = true },
}
messages.SendSignalRequest = {
  session,
  { 2, "signal", "uint32" },
  { 3, "signal_uuid", "string", optional = true },
}
messages.UpdateRequest = { session, { 2, "pty", "message", schema = pty } }

messages.StreamInputRequest = {
  { 1, "start", "message", oneof = "event", schema = { session } },
  {
    2, "data", "message", oneof = "event",
    schema = { { 2, "input", "message", schema = input } },
  },
  { 3, "keepalive", "message", oneof = "event", schema = {} },
}

messages.ListResponse = {
  {
    1, "sessions", "message", repeated = true,
    schema = {
      { 1, "command", "message", schema = command },
      { 2, "pid", "uint32" },
      { 3, "tag", "string", optional = true },
      { 4, "session_uuid", "string", optional = true },
    },
  },
}

-- ListRequest, and the answers of SendInput, SendSignal, Update and StreamInput.
messages.Empty = {}

return messages
