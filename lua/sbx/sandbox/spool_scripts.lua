-- What a spooled command is made of inside the sandbox: scripts for any POSIX shell.
--
-- A folder `lock`, made by one mkdir, is the right to start: whoever makes it first
-- wins, so that a start that comes twice runs once, and one that comes after we
-- made the folder ourselves never runs. Files begin with `prefix`: stdout.log,
-- stderr.log, pid (of the command, which leads a session of its own), wrapper (the
-- pid of what waits for it), exit (its status, by rename), stop (it is to be ended),
-- expired (it is being ended at its deadline), never (it could not be started), cmd
-- (the command, where it is long).

local remote = require("sbx.sandbox.remote")
local tree = require("sbx.sandbox.spool_tree")

local scripts = {}

scripts.NO_TOOL = 74
scripts.NO_LOCK = 75
scripts.DUPLICATE = 76

---@class sbx.sandbox.SpoolPlace
---@field lock string
---@field prefix string
---@field mark string  in the environment of all that the command starts
---@field input string|nil  a file with its standard input
---@field script string|nil  a file with the command itself
---@field foreign boolean|nil  another client may have started it, without a lock

-- What the scripts need besides the shell's own. Without them nothing would ever be
-- seen of a command.
local TOOLS = [[
x=; for t in mkdir mv rm sleep wc tail head; do
  command -v $t >/dev/null 2>&1 || x="$x $t"
done
command -v base64 >/dev/null 2>&1 || command -v od >/dev/null 2>&1 || x="$x base64"
[ -z "$x" ] || { echo "there is no$x" >&2; exit 74; }
]]

-- Arguments: prefix, setsid or nothing, mark, shell, command, deadline or nothing,
-- NAME=VALUE … Beside the command waits what ends it after its deadline, should
-- whoever started it be gone by then; it carries the mark only while it sleeps.
local WRAPPER = [[
P=$1 s=$2 m=SBX_RUN=$3 h=$4 c=$5 d=$6; shift 6
echo $$ > "${P}wrapper"
]] .. tree.FUNCTIONS .. [[
watch() {
  trap 'kill -9 $! 2>/dev/null; exit' TERM # a child that has just forked may lose a TERM
  i=0
  until [ $i -ge 5 ]; do
    SBX_RUN=${m#*=} sleep $d & wait $! && break
    [ -e "${P}wrapper" ] && [ ! -e "${P}stop" ] || exit
    i=$((i+1))
  done
  trap '' TERM
  [ -e "${P}wrapper" ] && [ ! -e "${P}exit" ] || exit
  : > "${P}expired"
  end_tree 20
}
code=143
if [ ! -e "${P}stop" ]; then
  [ $# -eq 0 ] || set -- env "$@"
  SBX_RUN=${m#*=} $s "$@" "$h" -c "$c" <&3 3<&- > "${P}stdout.log" 2> "${P}stderr.log" &
  p=$!
  echo $p > "${P}pid"
  exec 3<&-
  w=
  if [ -n "$d" ]; then watch & w=$!; fi
  wait $p
  code=$?
  if [ -e "${P}expired" ]; then wait $w; elif [ -n "$w" ]; then kill $w; fi
fi
[ ! -e "${P}cmd" ] || rm -f "${P}cmd"
echo $code > "${P}exit.new"; mv -f "${P}exit.new" "${P}exit" || echo $code > "${P}exit"
]]

-- A folder without a command in it would be taken for one that is about to begin:
-- where the shell cannot go on, `never` says so.
local START = [[
L=%s; P=%s
]] .. TOOLS .. [[
%s{ mkdir -m 700 "$L"; } 2>/dev/null || {
  [ -d "$L" ] && exit 76; echo "cannot make the folder $L" >&2; exit 75; }
trap '{ : > "${P}never"; } 2>/dev/null' EXIT
refuse() { echo "$1" >&2; exit 75; }
s=$(command -v setsid)
h=$(command -v %s) || refuse "there is no shell"
c=%s
[ -r %s ] || refuse "its input is gone"
exec 3< %s
%s
$s "$(command -v sh)" -c %s sbx-run "$P" "$s" %s "$h" "$c" %s%s > /dev/null 2>&1 &
exec 3<&-
trap - EXIT
]]

-- Says "STATE SIZE SIZE ENCODING", then new bytes of both outputs. STATE is run, an
-- exit status, late (it was ended at its deadline), gone (no folder) or lost (nobody
-- waits for the command any more).
local LOOK = [[
L=%s; P=%s; o=%d; e=%d; M=%d; stream=%d
]] .. TOOLS .. [[
ended() {
  s=; { read -r s < "${P}exit"; } 2>/dev/null
  case $s in ''|*[!0-9]*) return 1;; esac
  [ ! -e "${P}expired" ] || s=late
}
state() {
  ended && return
  [ -d "$L" ]%s || { s=gone; return; }
  [ ! -e "${P}never" ] || { s=lost; return; }
  s=run
  w=; { read -r w < "${P}wrapper"; } 2>/dev/null
  [ -n "$w" ] && [ -d /proc/self ] || return
  { read -r l < "/proc/$w/stat"; } 2>/dev/null && case ${l##*") "} in [ZX]*) ;; *) return;; esac
  ended || s=lost
}
size() { n=$( { wc -c < "$P$1.log"; } 2>/dev/null); n=$((${n:-0})); }
fresh() { size stdout; [ "$n" -gt $o ] || { size stderr; [ "$n" -gt $e ]; }; }
emit() {
  if [ "$n" -gt "$2" ] && [ $M -gt 0 ] && { [ $stream = 1 ] || [ "$s" != run ]; }; then
    { tail -c "+$(($2 + 1))" "$P$1.log" | head -c $M | $enc; } 2>/dev/null
  fi
  echo .
}
s=run
for t in %s; do
  state
  [ "$s" = run ] && [ ! -e "${P}stop" ] || break
  [ $stream = 1 ] && fresh && break
  sleep $t 2>/dev/null || sleep 1
done
state
enc=base64; command -v base64 >/dev/null 2>&1 || enc="od -An -v -tx1"
size stdout; a=$n; size stderr; b=$n
echo "$s $a $b ${enc%%%% *}"
n=$a; emit stdout $o; n=$b; emit stderr $e
]]

-- Says claimed (it never ran and never will), none, ended, nopid, killed or alive.
local KILL = [[
L=%s; P=%s; m=SBX_RUN=%s
if [ %d = 1 ] && { mkdir -m 700 "$L"; } 2>/dev/null; then echo claimed; exit 0; fi
[ -d "$L" ] && [ ! -e "${P}never" ] || { echo none; exit 0; }
]] .. tree.FUNCTIONS:gsub("%%", "%%%%") .. [[
if [ -f "${P}exit" ]; then echo ended; exit 0; fi
{ : > "${P}stop"; } 2>/dev/null
i=0; while [ $i -lt 20 ] && [ ! -s "${P}pid" ] && [ ! -f "${P}exit" ]; do nap 0.1; done
if [ -f "${P}exit" ]; then # stopped before it began, or done just now
  if [ -s "${P}pid" ]; then echo ended; else echo killed; fi
elif [ ! -s "${P}pid" ]; then echo nopid; else
  end_tree %d
  if [ -n "$T" ]; then echo alive; else echo killed; fi
  i=0; while [ $i -lt 10 ] && [ ! -f "${P}exit" ]; do nap 0.1; done
fi
]]

-- Says sent or none. The command leads a process group, where there is setsid.
local SIGNAL = [[
P=%s; i=0
while [ $i -lt 20 ] && [ ! -s "${P}pid" ] && [ ! -f "${P}exit" ]; do
  i=$((i+1)); sleep 0.1 2>/dev/null || sleep 1
done
p=; { read -r p < "${P}pid"; } 2>/dev/null
case $p in ''|*[!0-9]*) echo none; exit 0;; esac
[ ! -f "${P}exit" ] || { echo none; exit 0; }
if { kill -%d -$p || kill -%d $p; } 2>/dev/null; then echo sent; else echo none; fi
]]

-- Says claimed (it never ran and never will), exists or none.
local CLAIM = [[
L=%s; P=%s
if [ -e "${P}never" ] || { mkdir -m 700 "$L"; } 2>/dev/null; then echo claimed
elif [ -d "$L" ]; then echo exists; else echo none; fi
]]

-- What else shows that there is, or was, a command.
local FOREIGN = ' || [ -e "${P}stdout.log" ] || [ -e "${P}stderr.log" ]'

-- Pauses that grow, of at most `seconds` together.
local function naps(seconds)
  local list, pause = {}, 0.01
  while seconds > 0.005 do
    local nap = math.min(pause, seconds)
    list[#list + 1] = ("%.2f"):format(nap)
    seconds, pause = seconds - nap, math.min(pause * 1.6, 0.5)
  end
  return #list > 0 and table.concat(list, " ") or "0"
end

---@param place sbx.sandbox.SpoolPlace
---@param o { prefix: string, command: string, shell: string, words: string[],
---  deadline: number|nil }  seconds
---@return string
function scripts.start(place, o)
  local words = {}
  for i, word in ipairs(o.words) do
    words[i] = " " .. remote.word(word)
  end
  local input = place.input and remote.word(place.input) or "/dev/null"
  local command, files = remote.word(o.command), place.input and "rm -f " .. input or ""
  if place.script then
    command = '". ${P}cmd"' -- whose name has nothing that a shell looks into
    files = ('%s\n[ -e %s ] || refuse "the file with the command is gone"\nmv -f %s "${P}cmd" ||'
      .. ' { echo "mv does not work" >&2; exit 74; }'):format(
      files, remote.word(place.script), remote.word(place.script))
  end
  return START:format(remote.word(place.lock), remote.word(place.prefix), o.prefix, o.shell,
    command, input, input, files, remote.word(WRAPPER), place.mark,
    o.deadline and ("%d"):format(math.ceil(o.deadline)) or "''", table.concat(words))
end

---@param place sbx.sandbox.SpoolPlace
---@param o { stdout: integer, stderr: integer, most: integer, stream: boolean, wait: number }
---@return string
function scripts.look(place, o)
  return LOOK:format(remote.word(place.lock), remote.word(place.prefix), o.stdout, o.stderr,
    o.most, o.stream and 1 or 0, place.foreign and FOREIGN or "", naps(o.wait))
end

---@param place sbx.sandbox.SpoolPlace
---@param grace number  seconds between TERM and KILL
---@param claim boolean  make sure that a start under way finds itself too late
---@return string
function scripts.kill(place, grace, claim)
  return KILL:format(remote.word(place.lock), remote.word(place.prefix), place.mark,
    claim and 1 or 0, math.ceil(grace * 10))
end

---@param place sbx.sandbox.SpoolPlace
---@param number integer  of the signal
---@return string
function scripts.signal(place, number)
  return SIGNAL:format(remote.word(place.prefix), number, number)
end

---@param place sbx.sandbox.SpoolPlace
---@return string
function scripts.claim(place)
  return CLAIM:format(remote.word(place.lock), remote.word(place.prefix))
end

-- Removes an uploaded file, whose upload may still be under way.
local function remove_upload(path, bar)
  if not path then return "" end
  local file = remote.word(path)
  if not bar then return "rm -f " .. file .. "\n" end
  local swap = ("rm -f %s; mkdir -m 700 %s 2>/dev/null"):format(file, file)
  return ("%s || { %s; }\n"):format(swap, swap)
end

---Removes what was uploaded to a place.
---@param place sbx.sandbox.SpoolPlace
---@param bar boolean  an upload may still be under way: a folder in its place refuses it
---@return string
function scripts.clean_uploads(place, bar)
  return remove_upload(place.input, bar) .. remove_upload(place.script, bar)
end

---Removes the files of a place whose prefix is its lock folder.
---@param place sbx.sandbox.SpoolPlace
---@param keep_lock boolean  a start may still be under way
---@param bar boolean  so may an upload
---@return string
function scripts.clean(place, keep_lock, bar)
  local lock = remote.word(place.lock)
  -- What is about to begin in a folder that stays finds that it is to stop.
  local text = ("rm -rf %s\n"):format(lock)
  if keep_lock then
    text = ("rm -f %s/*; mkdir %s/stop 2>/dev/null\n"):format(lock, lock)
  end
  return text .. scripts.clean_uploads(place, bar)
end

return scripts
