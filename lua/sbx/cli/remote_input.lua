-- Our standard input for a command in a sandbox, live: while the command runs, what arrives
-- here goes there in pieces, each a file of a folder there, and a shell beside the command
-- writes them into its pipe one after the other. So an endless input ends with the command,
-- in containers as in virtual machines.
--
-- The one thing to keep in mind: only a piece that is named the last ends the input. What
-- fails on the way ends the command instead, which never takes half of its input for all.

local channel = require("sbx.channel")
local core = require("sbx.core.task")
local errors = require("sbx.errors")
local exec = require("sbx.sandbox.exec")
local hash = require("sbx.hash")
local log = require("sbx.log")
local spool = require("sbx.sandbox.spool")
local sync = require("sbx.sync")
local task = require("sbx.task")

local remote_input = {}

local MOST_PIECE = 4 * 1024 * 1024 -- bytes
local MOST_AHEAD = 8 -- pieces there that the command has not begun to read
local HELD = 64 -- reads of our input that wait for their piece
local GATHER = 0.005 -- seconds for more of a small piece to arrive, or the end
local LOOK = 20 -- seconds that one look waits in the sandbox
local SLACK = 20 -- seconds that a script may take besides
local PATIENCE = 60 -- seconds without any request that works
local PIECE_SECONDS = 300 -- for one upload
local LAST_UPLOAD = 5 -- seconds that one under way gets when the command has ended

-- A piece is called NUMBER.SIZE, the last one NUMBER.SIZE.last: it is read once it has that
-- size. `at` has the number of the piece that is read, or `closed`: nobody reads any more.
-- In the background the writer holds up nobody who waits for the command. A command that has
-- died of a signal ends it by `done`; the signals themselves are for the command. What the
-- shells have to say of such a death is for nobody.
local WRITER = [[
D=%s
feed() {
  trap '' HUP INT TERM
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  n=1 i=0
  while [ -d "$D" ] && [ ! -e "$D/done" ]; do
    for f in "$D/$n".*; do :; done
    s=${f#"$D/$n."} k=${f#"$D/$n."}; k=${k%%.last}
    if [ "$k" = '*' ] || [ "$(($(wc -c < "$f")))" != "$k" ]; then
      i=$((i+1))
      if [ $i -lt 20 ]; then sleep 0.02 || sleep 1; else sleep 0.2 || sleep 1; fi
      continue
    fi
    [ "$k" = 0 ] || cat "$f" || { echo closed > "$D/at"; exit; }
    rm -f "$f"
    [ "$s" = "$k" ] || { echo closed > "$D/at"; exit; }
    n=$((n+1)) i=0
    echo $n > "$D/at"
  done
}
trap : HUP INT TERM
exec 4>&2 2>/dev/null
{ feed 4>&- & } 4>&- | {
  trap : HUP INT TERM
  (exec 2>&4 4>&-; exec "$@")
  c=$?
  { : > "$D/done"; } 2>/dev/null
  exit $c
}
]]

-- Says which piece is read, once that is one wanted or later, or the time is up.
local LOOK_AT = [[
D=%s; i=0; a=
until [ -e "$D/done" ] || [ $i -ge %d ]; do
  a=; { read -r a < "$D/at"; } 2>/dev/null
  case $a in closed) break;; ''|*[!0-9]*) ;; *) [ $a -lt %d ] || break;; esac
  i=$((i+1)); sleep 0.1 2>/dev/null || { i=$((i+9)); sleep 1; }
done
[ ! -e "$D/done" ] || a=closed
echo "at $a"
]]

---@class sbx.cli.RemoteInput
---@field private client sbx.sandbox.Client
---@field private box sbx.sandbox.Box
---@field private user string|nil
---@field private folder string
---@field private uploading boolean  an upload may still be under way
---@field private turn sbx.sync.Mutex  held while one is
local RemoteInput = {}
RemoteInput.__index = RemoteInput

-- Runs a script that may run twice without harm, until it works.
---@async
local function script(self, text, seconds)
  local give_up, pause = task.now() + PATIENCE, 0.25
  while true do
    local ok, answer = pcall(exec.run, self.client, self.box.id, {
      op = "exec", command = text, user = self.user, timeout = math.ceil(seconds + SLACK),
      repeatable = true,
    })
    if ok then return answer end
    if not spool.may_pass(answer) or task.now() + pause > give_up then error(answer, 0) end
    task.sleep(pause)
    pause = math.min(pause * 2, 10)
  end
end

---Prepares the sandbox. The value is to be closed once the command has ended.
---@async
---@param client sbx.sandbox.Client
---@param box sbx.sandbox.Box
---@param user string|nil  whom the command runs as
---@return sbx.cli.RemoteInput  a `<close>` value
function remote_input.open(client, box, user)
  local self = setmetatable({
    client = client, box = box, user = user, folder = "/tmp/.sbx-in-" .. hash.random_hex(16),
    uploading = false, turn = sync.mutex("stdin"),
  }, RemoteInput)
  local answer = script(self, ("mkdir -m 700 %s 2>/dev/null || [ -d %s ]"):format(self.folder,
    self.folder), 0)
  if answer.exit_code ~= 0 then
    errors.raise({
      kind = "unsupported", op = "exec", sandbox_id = box.id,
      message = "-i: cannot make a folder in /tmp of the sandbox, through which stdin goes",
    })
  end
  return self
end

---The script that runs the command which the shell has as its arguments.
---@return string
function RemoteInput:script()
  return WRITER:format(self.folder)
end

-- ------------------------------------------------------------------------ pieces

---@async
local function read_all(source, pieces)
  for bytes in source do
    pieces:send(bytes)
  end
  pieces:close()
end

-- All that has arrived, once there is anything; and whether it is the last of it.
---@async
local function gather(pieces)
  local open, bytes = pieces:receive()
  if not open then return "", true end
  local parts, size = { bytes }, #bytes
  task.sleep(GATHER)
  while size < MOST_PIECE do
    open, bytes = pieces:try_receive()
    if not open then break end
    parts[#parts + 1], size = bytes, size + #bytes
  end
  return table.concat(parts), pieces.closed and #pieces == 0
end

---@async
local function upload(self, name, bytes)
  local _ <close> = self.turn:lock()
  self.uploading = true
  self.client:upload_bytes(self.box, self.folder .. "/" .. name, bytes,
    { timeout = PIECE_SECONDS })
  self.uploading = false
end

-- Waits until the command has begun piece `number`. Returns which it is; nil when it reads
-- no more.
---@async
local function await_reading(self, number)
  while true do
    local answer = script(self, LOOK_AT:format(self.folder, LOOK * 10, number), LOOK)
    local at = answer.stdout:match("^at (%w*)\n$")
    if at == "closed" then return nil end
    local reached = at and math.tointeger(tonumber(at)) or 0
    if reached >= number then return reached end
  end
end

---@async
local function send_all(self, pieces)
  local reached = 0 -- the command has begun this piece, as far as we know
  for number = 1, math.maxinteger do
    local bytes, last = gather(pieces)
    upload(self, ("%d.%d%s"):format(number, #bytes, last and ".last" or ""), bytes)
    if last then return end
    if number - reached >= MOST_AHEAD then
      reached = await_reading(self, number - MOST_AHEAD // 2)
      if not reached then return end
    end
  end
end

---Hands over all that `source` gives, or as much as the command reads. To be cancelled when
---that has ended.
---@async
---@param source async fun(): string|nil
function RemoteInput:send(source)
  task.scope(function(scope)
    local pieces = channel.new(HELD)
    local reading = scope:spawn(read_all, source, pieces)
    send_all(self, pieces)
    reading:cancel()
  end)
end

---Sends no more, and lets what is under way come to its end: an upload that is cut off would
---make the folder again when that is gone.
---@async
function RemoteInput:finish()
  -- Whoever has the turn sends, and we keep it.
  task.move_on(LAST_UPLOAD, self.turn.lock, self.turn)
end

---Removes what is left of it in the sandbox.
---@async
function RemoteInput:close()
  local text = "rm -rf " .. self.folder
  -- A file in its place refuses what is still on its way.
  if self.uploading then text = ("%s; : > %s"):format(text, self.folder) end
  local budget = math.min(core.cleanup_seconds(), LAST_UPLOAD)
  local ok, err = pcall(task.shield, budget, script, self, text, 0)
  if not ok and not (errors.is_error(err) and err:is("not_running")) then
    log.debug("exec: stdin's folder stays in the sandbox: " .. tostring(err))
  end
end

RemoteInput.__close = RemoteInput.close

return remote_input
