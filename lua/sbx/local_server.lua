-- A private server for one run: a child of this process, in a session of its
-- own, that ends when this process does, even by `kill -9`: it watches a pipe.

local check = require("sbx.check")
local errors = require("sbx.errors")
local host = require("sbx.core.host")
local json = require("sbx.json")
local process = require("sbx.process")
local task = require("sbx.task")

---@class sbx.local_server
local local_server = {}

---@class sbx.local_server.Server
---@field url string
---@field api_key string
---@field pid integer
---@field stop async fun()  ends it and its sandboxes, and waits until it is gone

local READY_SECONDS = 120
local STOP_SECONDS = 8
local MAX_TAIL = 4096

-- Passes on what the server tells people, and keeps the end of it for an error.
local function relay_messages(messages, stream, sink)
  while true do
    local ok, bytes = pcall(stream.read, stream)
    if not ok or not bytes then return end
    messages.tail = (messages.tail .. bytes):sub(-MAX_TAIL)
    -- Nobody may be reading our stderr any more.
    pcall(sink, bytes)
  end
end

-- The first line that the server prints: where it is, and its key.
local function read_ready_line(stream)
  local text = ""
  while not text:find("\n", 1, true) do
    local bytes = stream:read()
    if not bytes or #text > 65536 then return nil end
    text = text .. bytes
  end
  return json.decode(text)
end

local function raise_failed(messages, cause)
  local tail = messages.tail:gsub("%s+$", "")
  errors.raise {
    kind = "process",
    op = "local server",
    message = "the private server did not start"
      .. (tail ~= "" and ": " .. tail or (cause and ": " .. tostring(cause) or "")),
    cause = cause,
  }
end

local function to_stderr(bytes)
  host.write(2, bytes)
end

-- A function that ends the child: politely, then by force. Twice is harmless.
local function stopper(child)
  local stopped = false
  return function()
    if stopped then return end
    stopped = true
    task.shield(STOP_SECONDS + 2, function()
      child.stdin:close()
      if not task.move_on(STOP_SECONDS, child.wait, child) then
        child:kill_group("KILL")
        child:wait()
      end
    end)
  end
end

---Starts the server and waits until it can be used. What it has to say goes to
---`stderr(bytes)`, by default to this process's stderr. Raises kind `process`
---when it does not come up.
---@async
---@param options? {stderr?: fun(bytes: string)}
---@return sbx.local_server.Server
function local_server.start(options)
  local opts = check.options(options, { stderr = to_stderr })
  local child = process.spawn({ host.executable(), "serve", "--private" }, {
    stdin = "pipe", stdout = "pipe", stderr = "pipe", session = true,
    -- It makes a key of its own. A bundled program is to be the server, not the script.
    env = { PRIME_API_KEY = false, SBXLUA_BUNDLE = "ignore" },
  })
  local messages = { tail = "" }
  local relay = task.daemon(relay_messages, messages, child.stderr, opts.stderr)
  local stop = stopper(child)

  local ok, ready = pcall(task.timeout, READY_SECONDS, read_ready_line, child.stdout)
  if not ok or not ready then
    stop()
    -- Its last words are still in the pipe.
    task.shield(1, relay.pjoin, relay)
    if errors.is_error(ready) and ready.kind == "cancelled" then error(ready, 0) end
    raise_failed(messages, ready)
  end
  return { url = ready.url, api_key = ready.api_key, pid = child.pid, stop = stop }
end

return local_server
