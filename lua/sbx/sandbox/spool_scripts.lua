-- What a spooled command is made of inside the sandbox: scripts for any POSIX shell.
--
-- A folder `lock`, made by one mkdir, is the right to start: whoever makes it first
-- wins, so that a start that comes twice runs once, and one that comes after we
-- made the folder ourselves never runs. Files begin with `prefix`: stdout.log,
-- stderr.log, pid (of the command, which leads a session of its own), wrapper (the
-- pid of what waits for it), exit (its status, by rename), stop.

local remote = require("sbx.sandbox.remote")

local scripts = {}

scripts.DUPLICATE = 76
scripts.NO_LOCK = 75

---@class sbx.sandbox.SpoolPlace
---@field lock string
---@field prefix string
---@field mark string  in the environment of all that the command starts
---@field input string|nil  a file with its standard input

-- Arguments: prefix, setsid or nothing, mark, shell, command, NAME=VALUE …
local WRAPPER = [[
P=$1 s=$2 m=$3 h=$4 c=$5; shift 5
echo $$ > "${P}wrapper"
code=143
if [ ! -e "${P}stop" ]; then
  [ $# -eq 0 ] || set -- env "$@"
  SBX_RUN=$m $s "$@" "$h" -c "$c" <&3 3<&- > "${P}stdout.log" 2> "${P}stderr.log" &
  echo $! > "${P}pid"
  wait $!
  code=$?
fi
echo $code > "${P}exit.new"; mv -f "${P}exit.new" "${P}exit"
]]

local START = [[
L=%s; P=%s
%s{ mkdir -m 700 "$L"; } 2>/dev/null || {
  [ -d "$L" ] && exit 76; echo "cannot make the folder $L" >&2; exit 75; }
s=$(command -v setsid)
h=$(command -v %s) || { echo "there is no shell" >&2; exit 75; }
c=%s
exec 3< %s
%s
$s "$(command -v sh)" -c %s sbx-run "$P" "$s" %s "$h" "$c"%s > /dev/null 2>&1 &
exec 3<&-
]]

-- Says "STATE SIZE SIZE ENCODING", then new bytes of both outputs. STATE is run, an
-- exit status, gone (no folder) or lost (nobody waits for the command any more).
local LOOK = [[
L=%s; P=%s; o=%d; e=%d; M=%d; stream=%d
ended() {
  s=; { read -r s < "${P}exit"; } 2>/dev/null
  case $s in ''|*[!0-9]*) return 1;; esac
}
state() {
  ended && return
  [ -d "$L" ] || { s=gone; return; }
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
    { tail -c "+$(($2 + 1))" "$P$1.log" | head -c $M | $enc | tr -d ' \n'; } 2>/dev/null
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
-- What is to be killed: the session, the process that will lead it but has got no
-- further than its fork, and all that carry the mark.
local KILL = [[
L=%s; P=%s; m=SBX_RUN=%s
if [ %d = 1 ] && { mkdir -m 700 "$L"; } 2>/dev/null; then echo claimed; exit 0; fi
[ -d "$L" ] || { echo none; exit 0; }
targets() {
  for f in /proc/[0-9]*/stat; do
    { read -r l < "$f"; } 2>/dev/null || continue
    n=${l%%%%" "*}; l=${l##*") "}; set -- $l
    [ -n "$p" ] && { [ "$4" = "$p" ] || [ "$n" = "$p" ]; } || continue
    case $1 in [ZX]) ;; *) echo "$n";; esac
  done
  grep -lF "$m" /proc/[0-9]*/environ 2>/dev/null | tr -dc '0-9\n'
}
signal() {
  [ -z "$p" ] || kill -s $1 -- "-$p" 2>/dev/null
  for n in $(targets); do kill -s $1 "$n" 2>/dev/null; done
}
nap() { sleep $1 2>/dev/null || sleep 1; i=$((i+1)); }
if [ -f "${P}exit" ]; then echo ended; exit 0; fi
{ : > "${P}stop"; } 2>/dev/null
i=0; while [ $i -lt 20 ] && [ ! -s "${P}pid" ] && [ ! -f "${P}exit" ]; do nap 0.1; done
if [ -f "${P}exit" ]; then # stopped before it began, or done just now
  if [ -s "${P}pid" ]; then echo ended; else echo killed; fi
elif [ ! -s "${P}pid" ]; then echo nopid; else
  p=; { read -r p < "${P}pid"; } 2>/dev/null
  signal TERM
  i=0; while [ $i -lt %d ] && [ -n "$(targets)" ]; do nap 0.1; done
  i=0; while [ $i -lt 20 ] && [ -n "$(targets)" ]; do signal KILL; nap 0.05; done
  if [ -n "$(targets)" ]; then echo alive; else echo killed; fi
  i=0; while [ $i -lt 10 ] && [ ! -f "${P}exit" ]; do nap 0.1; done
fi
]]

local CLAIM = 'if { mkdir -m 700 %s; } 2>/dev/null; then echo claimed; '
  .. 'elif [ -d %s ]; then echo exists; else echo none; fi'

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
---@param o { prefix: string, command: string, shell: string, words: string[] }
---@return string
function scripts.start(place, o)
  local words = {}
  for i, word in ipairs(o.words) do
    words[i] = " " .. remote.word(word)
  end
  local input = place.input and remote.word(place.input)
  return START:format(remote.word(place.lock), remote.word(place.prefix), o.prefix, o.shell,
    remote.word(o.command), input or "/dev/null", input and "rm -f " .. input or "",
    remote.word(WRAPPER), place.mark, table.concat(words))
end

---@param place sbx.sandbox.SpoolPlace
---@param o { stdout: integer, stderr: integer, most: integer, stream: boolean, wait: number }
---@return string
function scripts.look(place, o)
  return LOOK:format(remote.word(place.lock), remote.word(place.prefix), o.stdout, o.stderr,
    o.most, o.stream and 1 or 0, naps(o.wait))
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
---@return string
function scripts.claim(place)
  local lock = remote.word(place.lock)
  return CLAIM:format(lock, lock)
end

---Removes the files of a place whose prefix is its lock folder.
---@param place sbx.sandbox.SpoolPlace
---@param keep_lock boolean  a start may still be under way
---@param bar_input boolean  so may an upload: a folder in its place refuses it
---@return string
function scripts.clean(place, keep_lock, bar_input)
  local lock = remote.word(place.lock)
  local text = keep_lock and ("rm -f %s/*\n"):format(lock) or ("rm -rf %s\n"):format(lock)
  if not place.input then return text end
  local input = remote.word(place.input)
  local bar = "rm -f %s; mkdir -m 700 %s 2>/dev/null"
  if not bar_input then return text .. "rm -f " .. input .. "\n" end
  bar = bar:format(input, input)
  return ("%s%s || { %s; }\n"):format(text, bar, bar)
end

return scripts
