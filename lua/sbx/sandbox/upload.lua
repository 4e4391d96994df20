-- Sends a source of bytes into a sandbox: as one request where that is all there
-- is to it; else as parts under names of their own beside the target, which a
-- command there puts together, checks and renames, so that the target is the old
-- file or the new one and nothing between.

local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local gateway = require("sbx.sandbox.gateway")
local hash = require("sbx.hash")
local remote = require("sbx.sandbox.remote")
local task = require("sbx.task")
local wire = require("sbx.sandbox.wire")

local upload = {}

local MAX_FILE = 200 * 1024 * 1024 -- bytes of one request's file, as the API documents it
local USUAL_PART = 64 * 1024 * 1024 -- bytes; a part that fails is sent again as a whole

upload.max_file = MAX_FILE

---@class sbx.sandbox.UploadPlan
---@field op string
---@field sandbox_id string
---@field path string  in the sandbox
---@field filename string
---@field timeout number  seconds for each request
---@field progress? fun(done: integer, total: integer|nil)
---@field checksum? boolean
---@field mode? integer
---@field split? true|integer  bytes of a part
---@field parallel integer  parts on their way at once
---@field long? boolean  its commands may take long
---@field begun? boolean  something was sent

---@class sbx.sandbox.Upload
---@field success boolean
---@field path string  in the sandbox, as asked for
---@field size integer  bytes
---@field timestamp string|nil
---@field sha256 string|nil  with `checksum`: what both sides have

-- -------------------------------------------------------------------- progress

-- Adds up what the parts have handed over; a part that starts again is taken back.
local Meter = {}
Meter.__index = Meter

local function new_meter(fn, total)
  return fn and setmetatable({ fn = fn, total = total, done = 0, of_part = {} }, Meter)
end

-- What `fn` raises goes into `failed`, for it is no failure of the network.
function Meter:attempt(index, failed)
  self.done = self.done - (self.of_part[index] or 0)
  self.of_part[index] = 0
  return function(count)
    self.done = self.done + count
    self.of_part[index] = self.of_part[index] + count
    local ok, err = pcall(self.fn, self.done, self.total)
    if ok then return end
    if errors.is_error(err) and err.kind == "cancelled" then error(err, 0) end
    failed.by = { err }
    error("progress: it raised", 0)
  end
end

-- -------------------------------------------------------------------- requests

local function too_large(plan, size, what)
  errors.raise({
    kind = "file_too_large",
    code = "EFBIG",
    op = plan.op,
    sandbox_id = plan.sandbox_id,
    size = size,
    message = ("%s %s: %s; the limit for one file is %d, split = true sends it in parts"):format(
      plan.op, failure.clean(plan.sandbox_id, nil, 100), what, MAX_FILE),
  })
end

---@async
local function send(client, plan, part, path, meter)
  local _ <close> = part
  plan.begun = true
  local failed = {}
  local call = {
    op = plan.op,
    operation = "upload",
    method = "POST",
    sandbox_id = plan.sandbox_id,
    query = wire.query({ { "path", path }, { "sandbox_id", plan.sandbox_id } }),
    request = function()
      local body = part:body(meter and meter:attempt(part.index, failed))
      body.name, body.filename = "file", plan.filename
      body.type = "application/octet-stream"
      return { multipart = { body } }
    end,
    timeout = plan.timeout,
    limit = plan.timeout,
    timeout_kind = "upload_timeout",
    repeatable = true, -- it overwrites: twice is the same as once
    repeat_408 = true,
  }
  local ok, response = pcall(gateway.call, client, call)
  if not ok then error(failed.by and failed.by[1] or response, 0) end
  part:check()
  local answer = failure.object(response.body)
  if not answer or answer.success ~= true then
    local what = answer and "it does not say success" or "expected a JSON object"
    error(failure.bad_answer(call, response, what), 0)
  end
  local size = failure.field(call, answer, "size", "integer")
  if size ~= part.size then
    remote.mismatch(plan, path, part.size .. " bytes", size .. " bytes")
  end
  return {
    success = true,
    path = failure.field(call, answer, "path", "string"),
    size = size,
    timestamp = type(answer.timestamp) == "string" and answer.timestamp or nil,
  }
end

-- ---------------------------------------------------------------------- stages

-- Appended one after the other, so that the disk needs room for one part more. What
-- stands in the target's place keeps its mode, and a link leads to the target.
local JOIN = [[
t=%s; p=%s
if [ -L "$t" ]; then t=$(readlink -f "$t") || exit 70; fi
if [ -d "$t" ]; then echo "is a folder" >&2; exit 67; fi
i=2; while [ $i -le %d ]; do
cat "$p.$i" >> "$p.1" && rm -f "$p.$i" || exit 70; i=$((i+1)); done
[ "$(wc -c < "$p.1")" -eq %d ] || exit 65
]]

local function join_script(plan, prefix, count, size, digest)
  local lines = { JOIN:format(remote.word(plan.path), remote.word(prefix), count, size) }
  local function add(text, ...)
    lines[#lines + 1] = text:format(...)
  end
  if digest then
    lines[#lines + 1] = remote.SUM
    add('s=$(sum < "$p.1") || exit %d; s=${s%%%% *}', remote.FAILED)
    add('[ "$s" = %s ] || { echo "$s"; exit %d; }', digest, remote.WRONG_SUM)
  end
  if plan.mode then
    add('chmod %04o "$p.1" || exit %d', plan.mode, remote.FAILED)
  else
    add('m=$(stat -c %%a "$t" 2>/dev/null) && chmod "$m" "$p.1" 2>/dev/null')
  end
  add('mv -f "$p.1" "$t" || exit %d', remote.FAILED)
  return table.concat(lines, "\n") .. "\n"
end

-- Makes the target of the parts.
---@async
local function finish(client, plan, prefix, count, size, digest)
  local what = "cannot put " .. failure.clean(plan.path) .. " in its place"
  plan.long = plan.long or size >= remote.LARGE
  local result = remote.run(client, plan, what, join_script(plan, prefix, count, size, digest),
    { [remote.WRONG_SUM] = true, [remote.WRONG_SIZE] = true })
  if result.exit_code == remote.WRONG_SUM then
    remote.mismatch(plan, plan.path, digest, result.stdout:match("^%x+") or "nothing")
  elseif result.exit_code == remote.WRONG_SIZE then
    remote.mismatch(plan, plan.path, size .. " bytes", "another number")
  end
end

---@async
local function send_all(client, plan, source, first, limit, meter)
  local folder = plan.path:match("^(.*/)")
  local prefix = folder .. ".sbx-" .. hash.random_hex(8)
  local parts <close> = remote.leftovers(client, plan, remote.word(prefix) .. ".*")
  local size, last = 0, nil
  local function next_part()
    if last and last.last then return nil end
    last = last and source:next(limit) or first
    size = size + last.size
    return last
  end
  local answers = task.map(next_part, function(part)
    return send(client, plan, part, ("%s.%d"):format(prefix, part.index), meter)
  end, { limit = plan.parallel })
  local digest = plan.checksum and source:digest() or nil
  finish(client, plan, prefix, #answers, size, digest)
  parts.gone = true
  return {
    success = true, path = plan.path, size = size, timestamp = answers[#answers].timestamp,
    sha256 = digest,
  }
end

---Sends all of a source and closes it. Raises `file_too_large` before anything is
---sent, or before the first part of a stream is; `checksum_mismatch`, `unsupported`,
---`upload_timeout`, `not_running`, `api`.
---@async
---@param client sbx.sandbox.Client
---@param plan sbx.sandbox.UploadPlan
---@param source sbx.sandbox.Source
---@return sbx.sandbox.Upload
function upload.run(client, plan, source)
  local _ <close> = source
  local total = source.size
  local limit = math.tointeger(plan.split) or MAX_FILE
  if plan.split == true and not (total and total <= MAX_FILE) then limit = USUAL_PART end
  if total and total > limit and not plan.split then
    too_large(plan, total, ("the content has %d bytes"):format(total))
  end
  local first = source:next(limit)
  if not first.last and not plan.split then
    too_large(plan, nil, "the content has more bytes than may be")
  end
  local meter = new_meter(plan.progress, total or (first.last and first.size) or nil)
  if meter and first.last and first.size == 0 then plan.progress(0, 0) end
  if first.last and not plan.checksum and not plan.mode then
    return send(client, plan, first, plan.path, meter)
  end
  return send_all(client, plan, source, first, limit, meter)
end

return upload
