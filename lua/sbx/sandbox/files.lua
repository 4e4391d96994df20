-- Moving files in and out. Contents stream between disk and socket: memory does
-- not grow with the file.

local check = require("sbx.check")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local fs = require("sbx.fs")
local gateway = require("sbx.sandbox.gateway")
local hash = require("sbx.hash")
local request = require("sbx.sandbox.request")
local task = require("sbx.task")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local MAX_UPLOAD = 200 * 1024 * 1024 -- bytes of one file, as the API documents it
local MAX_MADE_UP = 16 * 1024 * 1024 -- bytes of one that does not tell its size
local CLEANUP_SECONDS = 5

---@class sbx.sandbox.Upload
---@field success boolean
---@field path string  in the sandbox, as asked for
---@field size integer  bytes
---@field timestamp string|nil

local function checked(remote_path, given, defaults)
  check.string(remote_path, "remote_path")
  if remote_path == "" or remote_path:find("\0", 1, true) then
    error("remote_path: expected a path, got an empty string or a NUL byte", 0)
  end
  defaults.timeout = defaults.timeout or 300
  local options = check.options(given, defaults, -1)
  options.timeout = check.number(options.timeout, "timeout", 0.001)
  return options
end

local function check_size(op, id, size, what)
  if size <= MAX_UPLOAD then return end
  errors.raise({
    kind = "file_too_large",
    code = "EFBIG",
    op = op,
    sandbox_id = id,
    size = size,
    message = ("%s %s: %s has %d bytes; the limit for one file is %d"):format(
      op, id, what, size, MAX_UPLOAD),
  })
end

---@async
local function upload(client, op, id, remote_path, part, timeout)
  part.name = "file"
  part.type = "application/octet-stream"
  local call = {
    op = op,
    operation = "upload",
    method = "POST",
    sandbox_id = id,
    query = wire.query({ { "path", remote_path }, { "sandbox_id", id } }),
    request = { multipart = { part } },
    timeout = timeout,
    limit = timeout,
    timeout_kind = "upload_timeout",
    repeatable = true, -- it overwrites: twice is the same as once
    repeat_408 = true,
  }
  local response = gateway.call(client, call)
  local answer = failure.object(response.body)
  if not answer or answer.success ~= true then
    local what = answer and "it does not say success" or "expected a JSON object"
    error(failure.bad_answer(call, response, what), 0)
  end
  return {
    success = true,
    path = failure.field(call, answer, "path", "string"),
    size = failure.field(call, answer, "size", "integer"),
    timestamp = type(answer.timestamp) == "string" and answer.timestamp or nil,
  }
end

local function base_name(path)
  return path:match("([^/]+)/*$") or "file"
end

---Copies a local file into a sandbox; missing folders are made, an existing file
---is replaced. Raises `io` when the local file cannot be read, `file_too_large`
---above 200 MiB before anything is sent, `upload_timeout`, `not_running`, `api`.
---@async
---@param target string|sbx.sandbox.Box
---@param remote_path string  in the sandbox
---@param local_path string
---@param options? { timeout?: number }  seconds, all told (default 300)
---@return sbx.sandbox.Upload
function methods:upload_file(target, remote_path, local_path, options)
  local id = wire.id_of(target)
  local opts = request.blame(checked, remote_path, options, {})
  request.blame(check.string, local_path, "local_path")
  local stat = fs.stat(local_path)
  if stat.type ~= "file" then
    errors.raise({
      kind = "io",
      code = stat.type == "directory" and "EISDIR" or "EINVAL",
      op = "upload_file",
      sandbox_id = id,
      message = ("upload_file %s: %s is not a regular file"):format(id, local_path),
    })
  end
  check_size("upload_file", id, stat.size, local_path)
  local part = { filename = base_name(local_path), path = local_path }
  if stat.size == 0 then
    -- Files that are made up as they are read, as in /proc, have no size.
    part.path, part.data = nil, fs.read(local_path, { max = MAX_MADE_UP })
  end
  return upload(self, "upload_file", id, remote_path, part, opts.timeout)
end

---Writes a string to a file in a sandbox; otherwise as `upload_file`.
---@async
---@param target string|sbx.sandbox.Box
---@param remote_path string
---@param bytes string
---@param options? { timeout?: number, filename?: string }
---@return sbx.sandbox.Upload
function methods:upload_bytes(target, remote_path, bytes, options)
  local id = wire.id_of(target)
  local opts = request.blame(checked, remote_path, options, { filename = check.none })
  request.blame(check.string, bytes, "bytes")
  if opts.filename ~= nil then request.blame(check.string, opts.filename, "filename") end
  check_size("upload_bytes", id, #bytes, "the content")
  local part = { filename = opts.filename or base_name(remote_path), data = bytes }
  return upload(self, "upload_bytes", id, remote_path, part, opts.timeout)
end

-- A name beside `path` for the unfinished file, removed at the end of the block
-- unless it was renamed.
local Partial = {}

function Partial:__close()
  if self.kept then return end
  -- Also when cancelled: no half a file may stay behind.
  task.shield(CLEANUP_SECONDS, errors.try, fs.remove, self.path, { missing_ok = true })
end

local function partial(path)
  return setmetatable({ path = ("%s.part-%s"):format(path, hash.random_hex(6)) }, Partial)
end

---@async
local function make_parents(path)
  local parent = path:match("^(.*)/[^/]*$")
  if parent and parent ~= "" then fs.mkdir(parent, { parents = true }) end
end

---@async
local function keep(part, path)
  do
    local file <close> = fs.open(part.path, "r+")
    file:sync()
  end
  fs.rename(part.path, path)
  part.kept = true
end

---Copies a file out of a sandbox. The local file appears only once it is whole;
---missing local folders are made. Raises `file_not_found`, `io` when it cannot be
---written, `download_timeout`, `not_running`, `api`.
---@async
---@param target string|sbx.sandbox.Box
---@param remote_path string  in the sandbox
---@param local_path string
---@param options? { timeout?: number }  seconds, all told (default 300)
---@return integer size  bytes written
function methods:download_file(target, remote_path, local_path, options)
  local id = wire.id_of(target)
  local opts = request.blame(checked, remote_path, options, {})
  if request.blame(check.string, local_path, "local_path") == "" then
    error("local_path: is empty", 2)
  end
  make_parents(local_path)
  local part <close> = partial(local_path)
  gateway.call(self, {
    op = "download_file",
    operation = "download",
    method = "GET",
    sandbox_id = id,
    query = wire.query({ { "path", remote_path }, { "sandbox_id", id } }),
    request = { save = part.path },
    timeout = opts.timeout,
    limit = opts.timeout,
    timeout_kind = "download_timeout",
    repeatable = true,
    file = true,
  })
  local size = fs.stat(part.path).size
  keep(part, local_path)
  return size
end

---@class sbx.sandbox.Window
---@field size integer  bytes returned
---@field total_size integer|nil
---@field offset integer|nil
---@field truncated boolean  some of the file is outside the window

---Reads a text file, or a part of it: a negative `offset` counts from the end.
---Bytes that are no UTF-8 are replaced; `download_file` is exact. Raises
---`file_not_found`, and `file_too_large` above 10 MiB.
---@async
---@param target string|sbx.sandbox.Box
---@param remote_path string
---@param options? { offset?: integer, length?: integer, timeout?: number }
---@return string content, sbx.sandbox.Window window
function methods:read_file(target, remote_path, options)
  local id = wire.id_of(target)
  local opts = request.blame(checked, remote_path, options, {
    offset = check.none,
    length = check.none,
    timeout = 30,
  })
  if opts.offset ~= nil then request.blame(check.integer, opts.offset, "offset") end
  if opts.length ~= nil then request.blame(check.integer, opts.length, "length", 0) end
  local call = {
    op = "read_file",
    operation = "read-file",
    method = "GET",
    sandbox_id = id,
    query = wire.query({
      { "path", remote_path }, { "offset", opts.offset }, { "length", opts.length },
    }),
    timeout = opts.timeout,
    limit = opts.timeout,
    timeout_kind = "api_timeout",
    repeatable = true,
    repeat_408 = true,
    file = true,
  }
  local response = gateway.call(self, call)
  local answer = failure.object(response.body)
  if not answer then
    error(failure.bad_answer(call, response, "expected a JSON object"), 0)
  end
  return failure.field(call, answer, "content", "string"), {
    size = failure.field(call, answer, "size", "integer"),
    total_size = math.tointeger(answer.total_size),
    offset = math.tointeger(answer.offset),
    truncated = answer.truncated == true,
  }
end

return { methods = methods }
