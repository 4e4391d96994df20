-- The commands that moving files needs inside a sandbox: short scripts for any
-- POSIX shell, which have to do with whatever the image has.

local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local task = require("sbx.task")

local remote = {}

local CLEANUP_SECONDS = 10

---Bytes that take long to copy or to add up, where the disk is slow.
remote.LARGE = 1024 * 1024 * 1024

-- Statuses that a script ends with on purpose.
remote.NO_TOOL = 64
remote.WRONG_SIZE = 65
remote.WRONG_SUM = 66
remote.IS_FOLDER = 67
remote.MISSING = 68
remote.FAILED = 70

-- A function `sum` that turns its input into "DIGEST …".
remote.SUM = [[
if command -v sha256sum >/dev/null 2>&1; then sum() { sha256sum; }
elif command -v python3 >/dev/null 2>&1; then sum() { python3 -c '
import hashlib, sys
h = hashlib.sha256()
for piece in iter(lambda: sys.stdin.buffer.read(1 << 20), b""): h.update(piece)
print(h.hexdigest())'; }
elif command -v openssl >/dev/null 2>&1; then sum() { openssl dgst -sha256 -r; }
else echo "there is no sha256sum, python3 or openssl" >&2; exit 64; fi
]]

local function octal(char)
  return ("\\%03o"):format(char:byte())
end

---`bytes` as one word for a shell. Commands travel as JSON, which carries UTF-8
---only; other names are spelt out.
---@param bytes string  without NUL
---@return string
function remote.word(bytes)
  if encoding.utf8_valid(bytes) then return encoding.quote_shell(bytes) end
  -- A substitution would lose line feeds at the end.
  local text, ends = bytes:match("^(.-)(\n*)$")
  local spelt = text:gsub("[^%w/._]", octal) -- a "-" would begin an option
  return ("\"$(printf '%s')\"'%s'"):format(spelt, ends)
end

local function message(call, what, detail)
  return ("%s %s: %s: %s"):format(call.op, failure.clean(call.sandbox_id, nil, 100), what, detail)
end

local function refuse(call, what, result)
  local missing_tool = result.exit_code == remote.NO_TOOL
  local detail = failure.clean((result.stderr:gsub("%s+$", "")))
  if detail == "" then detail = ("its command ended with status %d"):format(result.exit_code) end
  errors.raise({
    kind = missing_tool and "unsupported" or "api",
    code = missing_tool and "NO_TOOL" or "COMMAND_FAILED",
    op = call.op,
    sandbox_id = call.sandbox_id,
    exit_code = result.exit_code,
    detail = detail,
    message = message(call, what, detail),
  })
end

---Runs a script. A status other than 0 raises kind `api`, code COMMAND_FAILED, or
---`unsupported`, code NO_TOOL; those in `expected` are returned.
---With `long` no proxy can cut it, which takes a few requests more.
---@async
---@param client sbx.sandbox.Client
---@param call { op: string, sandbox_id: string, timeout: number, long?: boolean }
---@param what string  what could not be done, for messages
---@param script string
---@param expected? table<integer, boolean>
---@return sbx.sandbox.Result
function remote.run(client, call, what, script, expected)
  local options = { timeout = call.timeout, spool = false }
  if call.long then options.spool = nil end
  local result = client:execute_command(call.sandbox_id, script, options)
  local status = result.exit_code
  if status ~= 0 and not (expected and expected[status]) then refuse(call, what, result) end
  return result
end

-- Files in the sandbox that nobody needs any more, removed at the end of the block.
local Leftovers = {}

function Leftovers:__close(err)
  if self.gone or not self.call.begun then return end
  -- A sandbox that is gone has taken them with it.
  if errors.is_error(err) and err:is("not_running") then return end
  local call = { op = self.call.op, sandbox_id = self.call.sandbox_id, timeout = CLEANUP_SECONDS }
  -- A request that was given up may still arrive: once more a little later.
  local script = ("rm -f %s\n(sleep 2; rm -f %s) >/dev/null 2>&1 </dev/null &\n"):format(
    self.words, self.words)
  pcall(task.shield, CLEANUP_SECONDS, remote.run, self.client, call,
    "cannot remove what is left", script)
end

---@class sbx.sandbox.Leftovers
---@field gone boolean  set it once there is nothing to remove

---Removes files at the end of the block, also when it fails or is cancelled, if by then
---`call.begun` says that there may be any.
---@param client sbx.sandbox.Client
---@param call { op: string, sandbox_id: string, begun?: boolean }
---@param words string  for the shell
---@return sbx.sandbox.Leftovers  a `<close>` value
function remote.leftovers(client, call, words)
  return setmetatable({ client = client, call = call, words = words, gone = false }, Leftovers)
end

---Raises `file_not_found` for a path in the sandbox.
---@param call { op: string, sandbox_id: string }
---@param path string
---@param what? string  "file" or "folder"
function remote.not_found(call, path, what)
  errors.raise({
    kind = "file_not_found",
    code = "ENOENT",
    op = call.op,
    sandbox_id = call.sandbox_id,
    path = path,
    message = message(call, ("no such %s in the sandbox"):format(what or "file"),
      failure.clean(path)),
  })
end

---Raises `checksum_mismatch`: of what was sent, `expected`, something else arrived.
---@param call { op: string, sandbox_id: string }
---@param path string
---@param expected string
---@param actual string
function remote.mismatch(call, path, expected, actual)
  errors.raise({
    kind = "checksum_mismatch",
    op = call.op,
    sandbox_id = call.sandbox_id,
    path = path,
    expected = expected,
    actual = actual,
    message = message(call, failure.clean(path) .. " did not arrive as it was sent",
      ("%s were sent, %s arrived"):format(expected, actual)),
  })
end

---The size of a file in the sandbox, and the SHA-256 of it or of its first bytes.
---@async
---@param client sbx.sandbox.Client
---@param call { op: string, sandbox_id: string, timeout: number, long?: boolean }
---@param path string
---@param count? integer  bytes (default: all)
---@return integer size, string digest
function remote.digest(client, call, path, count)
  local word = remote.word(path)
  local input = count and ("head -c %d < %s | sum"):format(count, word) or "sum < " .. word
  local script = ("%s[ -f %s ] || exit %d\nwc -c < %s || exit %d\n%s || exit %d\n"):format(
    remote.SUM, word, remote.MISSING, word, remote.FAILED, input, remote.FAILED)
  local what = "cannot take its checksum in the sandbox"
  local result = remote.run(client, call, what, script, { [remote.MISSING] = true })
  if result.exit_code == remote.MISSING then remote.not_found(call, path) end
  local size, digest = result.stdout:match("^%s*(%d+)%s+(%x+)")
  if not digest or #digest ~= 64 then
    refuse(call, what, { exit_code = 0, stderr = result.stdout })
  end
  return math.tointeger(tonumber(size)) or -1, digest:lower()
end

return remote
