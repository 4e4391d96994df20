-- Moving files in and out. Contents stream between disk and socket: memory does
-- not grow with the file.

local check = require("sbx.check")
local download = require("sbx.sandbox.download")
local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local fs = require("sbx.fs")
local gateway = require("sbx.sandbox.gateway")
local reader = require("sbx.reader")
local request = require("sbx.sandbox.request")
local save = require("sbx.sandbox.save")
local source = require("sbx.sandbox.source")
local upload = require("sbx.sandbox.upload")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local MAX_MADE_UP = 16 * 1024 * 1024 -- bytes of a file that does not tell its size
local MAX_IN_MEMORY = 64 * 1024 * 1024
local MAX_PARALLEL = 64

-- --------------------------------------------------------------------- options

local function remote_file(path)
  check.string(path, "remote_path")
  if path == "" or path:find("\0", 1, true) then
    error("remote_path: expected a path, got an empty string or a NUL byte", 0)
  end
  return path
end

-- A command need not start in the folder that relative paths of files are for.
local function absolute(path, why)
  if path:sub(1, 1) ~= "/" or path:sub(-1) == "/" then
    error(("remote_path: has to be an absolute path of a file with %s"):format(why), 0)
  end
end

local function is_checksum(value)
  if value == nil or type(value) == "boolean" then return value or false end
  if value == "sha256" then return true end
  error('checksum: expected true, false or "sha256"', 0)
end

local function permissions(value)
  if value == nil then return nil end
  local digits = type(value) == "string" and value:match("^[0-7][0-7][0-7][0-7]?$")
  if type(value) == "string" and not digits then
    error('mode: expected octal digits, such as "755", or a number', 0)
  end
  return check.integer(digits and tonumber(digits, 8) or value, "mode", 0, 4095)
end

local function part_size(value)
  if value == nil or type(value) == "boolean" then return value or nil end
  return check.integer(value, "split", 1, upload.max_file)
end

local function checked(remote_path, given, defaults)
  remote_file(remote_path)
  defaults.timeout = defaults.timeout or 300
  local options = check.options(given, defaults, -1)
  options.timeout = check.number(options.timeout, "timeout", 0.001, 1e9)
  if options.progress ~= nil then check.fn(options.progress, "progress") end
  options.checksum = is_checksum(options.checksum)
  return options
end

---@class sbx.sandbox.UploadOptions
---@field timeout? number  seconds for each request (default 300)
---@field progress? async fun(done: integer, total: integer|nil)  bytes handed over
---@field checksum? boolean|"sha256"  compare both sides' before the file gets its name
---@field mode? string|integer  permission bits: "755" or a number
---@field split? boolean|integer  send what is too large for one request in parts; bytes of a part
---@field parallel? integer  parts on their way at once (default 4)

-- What to do, of the checked arguments of an upload.
local function upload_plan(op, id, remote_path, given, more)
  local defaults = {
    progress = check.none, checksum = check.none, mode = check.none, split = check.none,
    parallel = 4,
  }
  for name in pairs(more) do
    defaults[name] = check.none
  end
  local options = checked(remote_path, given, defaults)
  options.mode, options.split = permissions(options.mode), part_size(options.split)
  check.integer(options.parallel, "parallel", 1, MAX_PARALLEL)
  if options.filename ~= nil then check.string(options.filename, "filename") end
  if options.size ~= nil then options.size = check.integer(options.size, "size", 0) end
  for _, name in ipairs({ "split", "checksum", "mode" }) do
    if options[name] then absolute(remote_path, name) end
  end
  options.op, options.sandbox_id, options.path = op, id, remote_path
  options.filename = options.filename or remote_path:match("([^/]+)/*$") or "file"
  return options
end

-- --------------------------------------------------------------------- uploads

-- What a file of this side is. Whoever swapped the two paths is told so.
---@async
local function stat_here(id, local_path, remote_path)
  local stat, err = errors.try(fs.stat, local_path)
  if stat then return stat end
  if not errors.is_error(err) then error(err, 0) end
  local swapped = err.code == "ENOENT" and fs.exists(remote_path)
  errors.raise({
    kind = err.kind,
    code = err.code,
    op = "upload_file",
    sandbox_id = id,
    cause = err,
    message = ("upload_file %s: %s%s"):format(id, err.message,
      swapped and "; the path in the sandbox comes first, that of this machine second" or ""),
  })
end

---Copies a local file into a sandbox; missing folders are made, an existing file
---is replaced. Raises `io` when the local file cannot be read, `file_too_large`
---above 200 MiB before anything is sent, unless `split` is set; `checksum_mismatch`,
---`upload_timeout`, `not_running`, `api`.
---@async
---@param target string|sbx.sandbox.Box
---@param remote_path string  in the sandbox
---@param local_path string
---@param options? sbx.sandbox.UploadOptions
---@return sbx.sandbox.Upload
function methods:upload_file(target, remote_path, local_path, options)
  local id = wire.id_of(target)
  local plan = request.blame(upload_plan, "upload_file", id, remote_path, options, {})
  request.blame(check.string, local_path, "local_path")
  plan.filename = local_path:match("([^/]+)/*$") or "file"
  local stat = stat_here(id, local_path, remote_path)
  if stat.type ~= "file" then
    errors.raise({
      kind = "io",
      code = stat.type == "directory" and "EISDIR" or "EINVAL",
      op = "upload_file",
      sandbox_id = id,
      message = ("upload_file %s: %s is not a regular file%s"):format(id, local_path,
        stat.type == "directory" and "; copy_tree_up copies folders" or ""),
    })
  end
  -- Files that are made up as they are read, as in /proc, have no size.
  local from = stat.size > 0 and source.file(local_path)
    or source.bytes(fs.read(local_path, { max = MAX_MADE_UP }))
  return upload.run(self, plan, from)
end

---Writes a string to a file in a sandbox; otherwise as `upload_file`.
---@async
---@param target string|sbx.sandbox.Box
---@param remote_path string
---@param bytes string
---@param options? sbx.sandbox.UploadOptions  and `filename`, which the server is told
---@return sbx.sandbox.Upload
function methods:upload_bytes(target, remote_path, bytes, options)
  local id = wire.id_of(target)
  local plan = request.blame(upload_plan, "upload_bytes", id, remote_path, options,
    { filename = true })
  request.blame(check.string, bytes, "bytes")
  return upload.run(self, plan, source.bytes(bytes))
end

---Writes what a function, a reader, an open file or a stream gives to a file in a
---sandbox. It passes through a temporary file (in $TMPDIR), for the length has to be
---known ahead and a request may have to be sent again. With `split` a stream may have
---any length. Raises `file_too_large` before its 200 MiB are sent, `usage` when it does
---not give `size` bytes, and what the source raises; otherwise as `upload_file`.
---@async
---@param target string|sbx.sandbox.Box
---@param remote_path string
---@param from string|sbx.Reader|(async fun(): string|nil)|{ read: function }
---@param options? sbx.sandbox.UploadOptions  and `filename`, and `size`: bytes that it has
---@return sbx.sandbox.Upload
function methods:upload_stream(target, remote_path, from, options)
  local id = wire.id_of(target)
  local plan = request.blame(upload_plan, "upload_stream", id, remote_path, options,
    { filename = true, size = true })
  return upload.run(self, plan, source.stream(reader.of(from, nil, 2), plan.size))
end

-- ------------------------------------------------------------------- downloads

---@class sbx.sandbox.DownloadOptions
---@field timeout? number  seconds for each request (default 300)
---@field progress? async fun(done: integer, total: integer|nil)  bytes that are here
---@field checksum? boolean|"sha256"  compare both sides' before the file gets its name
---@field resume? boolean  keep what a failed call got, and go on with what one left

---Copies a file out of a sandbox. The local file appears only once it is whole and on
---disk; missing local folders are made. Raises `file_not_found`, `io` when it cannot be
---written, `checksum_mismatch`, `download_timeout`, `not_running`, `api`.
---@async
---@param target string|sbx.sandbox.Box
---@param remote_path string  in the sandbox
---@param local_path string
---@param options? sbx.sandbox.DownloadOptions
---@return integer size  bytes of the file
function methods:download_file(target, remote_path, local_path, options)
  local id = wire.id_of(target)
  local plan = request.blame(function()
    local opts = checked(remote_path, options, {
      progress = check.none, checksum = check.none, resume = false,
    })
    check.boolean(opts.resume, "resume")
    for _, name in ipairs({ "checksum", "resume" }) do
      if opts[name] then absolute(remote_path, name) end
    end
    if check.string(local_path, "local_path") == "" then error("local_path: is empty", 0) end
    return opts
  end)
  plan.op, plan.sandbox_id, plan.path = "download_file", id, remote_path
  return save(self, plan, local_path)
end

---Opens a file of a sandbox for reading as it comes: nothing of it is kept. It goes on
---by itself after a broken connection. Raises as `download_file`, also while reading.
---@async
---@param target string|sbx.sandbox.Box
---@param remote_path string
---@param options? { timeout?: number }  seconds without a byte (default 300)
---@return sbx.sandbox.Download  a `<close>` value
function methods:download_stream(target, remote_path, options)
  local id = wire.id_of(target)
  local opts = request.blame(checked, remote_path, options, {})
  return download.open(self, {
    op = "download_stream", sandbox_id = id, path = remote_path, timeout = opts.timeout,
    idle = true,
  })
end

---The exact bytes of a file in a sandbox. Raises kind `limit` beyond `max` bytes;
---otherwise as `download_file`.
---@async
---@param target string|sbx.sandbox.Box
---@param remote_path string
---@param options? { max?: integer, timeout?: number }  bytes (default 64 MiB), seconds
---@return string
function methods:download_bytes(target, remote_path, options)
  local id = wire.id_of(target)
  local opts = request.blame(checked, remote_path, options, { max = MAX_IN_MEMORY })
  request.blame(check.integer, opts.max, "max", 0)
  local from <close> = download.open(self, {
    op = "download_bytes", sandbox_id = id, path = remote_path, timeout = opts.timeout,
  })
  if from.size and from.size > opts.max then
    errors.raise({
      kind = "limit",
      op = "download_bytes",
      sandbox_id = id,
      size = from.size,
      message = ("download_bytes %s: %s has %d bytes; max is %d"):format(
        id, failure.clean(remote_path), from.size, opts.max),
    })
  end
  return from:all(opts.max)
end

---@class sbx.sandbox.Window
---@field size integer  bytes returned
---@field total_size integer|nil
---@field offset integer|nil
---@field truncated boolean  some of the file is outside the window

-- The window of a whole file, with what the window cuts into replaced.
local function cut_window(content, offset, length)
  local total = #content
  if offset < 0 then offset = math.max(0, total + offset) end
  local from = math.min(offset, total)
  local count = math.min(length or total, total - from)
  return encoding.utf8_clean(content:sub(from + 1, from + count)), {
    size = count, total_size = total, offset = offset, truncated = count < total,
  }
end

---Reads a text file, or a part of it: a negative `offset` counts from the end.
---Bytes that are no UTF-8 are replaced; `download_bytes` is exact. Raises
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
  local content = failure.field(call, answer, "content", "string")
  local window = {
    size = failure.field(call, answer, "size", "integer"),
    total_size = math.tointeger(answer.total_size),
    offset = math.tointeger(answer.offset),
    truncated = answer.truncated == true,
  }
  local asked = opts.offset or opts.length
  -- As virtual machines do: what was asked for is somewhere in it.
  if asked and not window.offset and not window.total_size then
    return cut_window(content, opts.offset or 0, opts.length)
  end
  return content, window
end

return { methods = methods }
