-- The gateway: commands and files, one sandbox per token. Everything goes
-- through the agent inside the sandbox; no path here is ever one of the host's.

local access = require("sbx.server.access")
local errors = require("sbx.errors")
local json = require("sbx.json")
local range = require("sbx.server.range")
local reply = require("sbx.server.reply")
local sandbox = require("sbx.server.sandbox")
local start_failure = require("sbx.server.start_failure")
local text = require("sbx.server.text")
local time = require("sbx.core.time")
local validate = require("sbx.server.validate")

local gateway = {}

local MAX_UPLOAD = 200 * 1024 * 1024
local MAX_READ = 10 * 1024 * 1024
local MAX_OUTPUT = 10 * 1024 * 1024
local MULTIPART_SLACK = 65536
local MAX_COMMAND_SECONDS = 86400
local DEFAULT_COMMAND_SECONDS = 300
local KILLED = 137 -- by signal 9

local function refuse_not_running(record)
  if record.status == "TERMINATED" then
    reply.refuse_gateway(502, "sandbox_not_found", "Sandbox is gone", { sandboxId = record.id })
  end
  reply.refuse_gateway(409, "sandbox_not_running", "Status is " .. record.status)
end

-- The sandbox that the token and the URL agree on, whatever its status.
local function authorized(server, request, params)
  local record, problem, words = access.find(server, request, params)
  if record then return record end
  if problem == "token" then reply.refuse_gateway(401, "unauthorized", words) end
  reply.refuse_gateway(502, "sandbox_not_found", "Sandbox is gone", { sandboxId = words })
end

-- Calls `fn(agent)` while the sandbox counts as used. When the agent goes away
-- under the call, the answer is about the sandbox, not about the agent.
local function with_agent(record, fn)
  if not access.is_running(record) then refuse_not_running(record) end
  local ok, result = pcall(access.using, record, fn, record.box.agent)
  if ok then return result end
  local is_gone = errors.is_error(result) and result.kind == "not_running"
  if record.status ~= "RUNNING" or is_gone then refuse_not_running(record) end
  error(result, 0)
end

local MISSING = { ENOENT = true, ENOTDIR = true }

-- Answers for what the agent says about a path. Anything else is passed on.
local function refuse_path(failure, path)
  if not errors.is_error(failure) or failure.kind == "refused" then error(failure, 0) end
  if MISSING[failure.code] then reply.refuse_gateway(404, "file_not_found", path) end
  if failure.code == "EISDIR" then
    reply.refuse_gateway(422, "not_a_file", path .. " is a directory")
  elseif failure.code == "EACCES" or failure.code == "EPERM" or failure.code == "EROFS" then
    reply.refuse_gateway(403, "permission_denied", tostring(failure))
  elseif failure.code == "ENOSPC" or failure.code == "EDQUOT" then
    reply.refuse_gateway(507, "no_space", tostring(failure))
  elseif failure.code then
    reply.refuse_gateway(422, "bad_path", tostring(failure))
  end
  error(failure, 0)
end

local function on_path(path, fn, ...)
  local ok, first, second = pcall(fn, ...)
  if ok then return first, second end
  refuse_path(first, path)
end

-- The path a caller means; relative ones start at the mount path. Returns it
-- absolute, and as it was given but fit for an answer: any bytes make a path.
local function wanted_path(request)
  local given = reply.query(request, "path")
  if not given or given == "" then
    reply.refuse_gateway(422, "bad_path", "the query needs a path")
  elseif #given > 4096 or given:find("\0", 1, true) then
    reply.refuse_gateway(422, "bad_path", "path is too long or holds a NUL byte")
  end
  local shown = text.valid_utf8(given)
  if given:sub(1, 1) == "/" then return given, shown end
  return sandbox.MOUNT_PATH .. "/" .. given, shown
end

local function optional_string(body, name)
  local value = body[name]
  if value == nil or value == json.null or value == "" then return nil end
  if type(value) ~= "string" or value:find("\0", 1, true) then
    reply.refuse_gateway(422, "bad_request", name .. ": expected a string without NUL")
  end
  return value
end

local function command_seconds(body)
  local seconds = body.timeout
  if seconds == nil or seconds == json.null then return DEFAULT_COMMAND_SECONDS end
  if type(seconds) ~= "number" or seconds ~= seconds or seconds <= 0 then
    reply.refuse_gateway(422, "bad_request", "timeout: expected seconds above 0")
  end
  return math.min(seconds, MAX_COMMAND_SECONDS)
end

-- The agent's options for the command that a request asks for.
local function wanted_command(record, body)
  -- An empty command is one: `sh -c ''` does nothing, and well.
  local command = body.command == "" and "" or optional_string(body, "command")
  if not command then reply.refuse_gateway(422, "bad_request", "command: required") end
  local variables = body.env ~= json.null and body.env or {}
  local checked, problem = validate.environment(variables)
  if not checked then reply.refuse_gateway(422, "bad_request", "env: " .. problem) end

  local directory = optional_string(body, "working_dir") or sandbox.MOUNT_PATH
  if directory:sub(1, 1) ~= "/" then directory = sandbox.MOUNT_PATH .. "/" .. directory end
  return {
    command = command,
    cwd = directory,
    env = record:environment(checked),
    user = optional_string(body, "user"),
    timeout = command_seconds(body),
    max_output = MAX_OUTPUT,
  }
end

-- A command that could not even start: its directory, its user, its size or its image.
local function run(record, agent, options)
  local ok, result = pcall(agent.exec, agent, options)
  if ok then return result end
  if errors.is_error(result) and result.code and not agent.closed then
    local why = start_failure.explain(agent, result, "/bin/sh", record.spec.docker_image)
    reply.refuse_gateway(422, "cannot_start", why or tostring(result))
  end
  error(result, 0)
end

-- What a command wrote, as JSON can carry it. Where we cut, we cut between
-- characters: the half of one is nothing that the command wrote.
local function output(bytes, truncated)
  return text.valid_utf8(truncated and text.whole_characters(bytes) or bytes)
end

-- Counts a command, and shows it to those who watch.
local function follow(server, record, options, fn)
  local ended = server.execs:began(record, options.command)
  local ok, result = pcall(fn)
  if not ok then
    ended("error")
    error(result, 0)
  end
  ended(result.timed_out and "timeout" or result.exit_code == 0 and "success" or "failure",
    result.exit_code)
  return result
end

function gateway.exec(server, request, params)
  local record = authorized(server, request, params)
  if record.spec.vm then
    reply.refuse_gateway(422, "unsupported", "commands of a virtual machine go through its"
      .. " command session (command_session.CommandSession/Start), not through exec")
  end
  local options = wanted_command(record, reply.json_body(request))
  local result = follow(server, record, options, function()
    return with_agent(record, function(agent)
      return run(record, agent, options)
    end)
  end)
  -- What the kernel killed for want of memory ends as a container would.
  if result.exit_code == KILLED and server.fleet:out_of_memory(record) then
    refuse_not_running(record)
  end
  if result.timed_out then
    reply.refuse_gateway(408, "command_timeout", ("Exceeded %g s"):format(options.timeout))
  end
  return 200, {
    stdout = output(result.stdout, result.stdout_truncated),
    stderr = output(result.stderr, result.stderr_truncated),
    exit_code = result.exit_code,
    stdout_truncated = result.stdout_truncated or false,
    stderr_truncated = result.stderr_truncated or false,
  }
end

local function refuse_large(limit)
  reply.refuse_gateway(413, "file_too_large", ("larger than %d bytes"):format(limit))
end

-- A source of the bytes of the part "file", which comes alone or first.
local function file_source(request)
  request:form()
  local bytes, part, filename = request:read()
  if bytes == nil or (part ~= "file" and not filename) then
    reply.refuse_gateway(422, "bad_request", "expected one multipart part named file")
  end
  local size, name = 0, part
  return function()
    local chunk = bytes
    if chunk == nil then return nil end
    bytes, part = request:read()
    if bytes ~= nil and part ~= name then bytes = nil end
    size = size + #chunk
    if size > MAX_UPLOAD then refuse_large(MAX_UPLOAD) end
    return chunk
  end
end

function gateway.upload(server, request, params)
  local record = authorized(server, request, params)
  local path, given = wanted_path(request)
  local announced = tonumber(request.headers["content-length"] or "0") or 0
  if announced > MAX_UPLOAD + MULTIPART_SLACK then refuse_large(MAX_UPLOAD) end
  local size = with_agent(record, function(agent)
    local source = file_source(request)
    return (on_path(given, agent.put, agent, path, source))
  end)
  return 200, {
    success = true, path = given, size = size, timestamp = text.timestamp(time.wall()),
  }
end

local function stat_file(agent, path, given)
  local stat = on_path(given, agent.stat, agent, path)
  if stat.type ~= "file" then
    reply.refuse_gateway(422, "not_a_file", given .. " is not a regular file")
  end
  return stat
end

-- The window of the file that is asked for, and the head of the answer. Files
-- without a size, as in /proc, go out whole and without a length.
local function plan(request, stat)
  local head = { ["Content-Type"] = "application/octet-stream" }
  if stat.size == 0 then return { status = 200, head = head } end
  head["Accept-Ranges"], head.ETag = "bytes", range.tag(stat)
  local offset, length = range.wanted(request.headers, stat)
  if offset == false then
    reply.refuse_gateway(416, "range_not_satisfiable", ("the file has %d bytes"):format(stat.size),
      nil, { ["Content-Range"] = ("bytes */%d"):format(stat.size) })
  end
  if not offset then return { status = 200, head = head, length = stat.size } end
  head["Content-Range"] = ("bytes %d-%d/%d"):format(offset, offset + length - 1, stat.size)
  return { status = 206, head = head, offset = offset, length = length }
end

-- Streams the file; the peer's pace is the agent's pace. Sets `answer.started`
-- with the first byte and `answer.whole` when all that was announced went out.
local function send_file(agent, request, path, given, answer)
  local wanted = plan(request, stat_file(agent, path, given))
  local function start()
    if answer.started then return end
    answer.started = true
    request:start(wanted.status, wanted.head, wanted.length)
  end
  local left = wanted.length or math.huge
  on_path(given, agent.get, agent, path, function(bytes)
    start()
    left = left - #bytes
    request:write(bytes)
  end, { offset = wanted.offset, length = wanted.length })
  start()
  answer.whole = left == 0 or wanted.length == nil
end

function gateway.download(server, request, params)
  local record = authorized(server, request, params)
  local path, given = wanted_path(request)
  local answer = { started = false, whole = false }
  local ok, failure = pcall(with_agent, record, function(agent)
    send_file(agent, request, path, given, answer)
  end)
  if not answer.started then error(failure, 0) end
  if ok and answer.whole then
    request:finish()
  else
    -- Too late for another status: the peer sees a broken transfer.
    request:close()
  end
end

local function window_integer(request, name)
  local given = reply.query(request, name)
  if not given or given == "" then return nil end
  local number = math.tointeger(tonumber(given))
  if not number then
    reply.refuse_gateway(422, "bad_request", name .. ": expected a whole number")
  end
  return number
end

-- Where to start reading, from the start of the file.
local function window_start(offset, size)
  if offset < 0 then return math.max(0, size + offset) end
  return offset
end

local function read_window(agent, path, given, offset, length)
  local parts, size = {}, 0
  local _, total = on_path(given, agent.get, agent, path, function(bytes)
    parts[#parts + 1] = bytes
    size = size + #bytes
    if size > MAX_READ + 1 then refuse_large(MAX_READ) end
  end, { offset = offset, length = length })
  return table.concat(parts), total
end

-- A virtual machine has no windows: it answers the whole file.
local function wanted_window(request, record)
  if record.spec.vm then return 0, nil end
  local length = window_integer(request, "length")
  if length and length < 0 then
    reply.refuse_gateway(422, "bad_request", "length: must not be negative")
  end
  return window_integer(request, "offset") or 0, length
end

function gateway.read_file(server, request, params)
  local record = authorized(server, request, params)
  local path, given = wanted_path(request)
  local offset, length = wanted_window(request, record)

  local content, total, start
  with_agent(record, function(agent)
    local size = stat_file(agent, path, given).size
    start = window_start(offset, size)
    -- One byte more than is allowed tells a file of the limit from a larger one.
    content, total =
      read_window(agent, path, given, start, math.min(length or MAX_READ + 1, MAX_READ + 1))
  end)
  if #content > MAX_READ then refuse_large(MAX_READ) end
  if record.spec.vm then
    return 200, { content = text.valid_utf8(content), size = #content }
  end
  total = math.max(total or 0, #content > 0 and start + #content or 0)
  return 200, {
    content = text.valid_utf8(content),
    size = #content,
    total_size = total,
    offset = start,
    truncated = #content < total,
  }
end

return gateway
