-- Attempts to take all that the machine has, in the form of `attempts.lua`: each in a sandbox
-- with short rations. Their neighbours must not notice.

local list = {}

local function attempt(name, fn)
  list[#list + 1] = { name = name, attempt = fn }
end

attempt("a bomb of processes", function(stage)
  local _, gateway = stage:bomb()
  local status, result = gateway:exec("f() { f | f & }; f; sleep 60", { timeout = 1 })
  -- The shell may be the one that cannot fork, and end at once.
  local starved = status == 200 and result.exit_code ~= 0
  assert(starved or status == 408 or status == 422 or status == 409 or status == 502, status)
end)

attempt("a disk filled", function(stage)
  local object, gateway = stage:bomb()
  if object.limitsEnforced.disk == "none" then return end
  gateway:exec("for d in /tmp /root /var/tmp /dev/shm /run /home; do\n"
    .. "head -c 150000000 /dev/zero > $d/fill; done 2>/dev/null; wc -c < /tmp/fill")
  local size = select(2, gateway:exec("wc -c < /tmp/fill")).stdout
  assert(size == nil or tonumber(size) < 120000000, size)
end)

attempt("as many files as there can be", function(stage)
  local _, gateway = stage:bomb()
  gateway:exec("mkdir /tmp/many; cd /tmp/many; i=0; while [ $i -lt 5000 ]; do\n"
    .. ": > f$i || break; i=$((i+1)); done 2>/dev/null; d=/tmp; i=0; while [ $i -lt 500 ]; do\n"
    .. "mkdir d && cd d || break; i=$((i+1)); done 2>/dev/null; :", { timeout = 2 })
end)

attempt("as many open files as there can be", function(stage)
  local _, gateway = stage:bomb()
  local _, result = gateway:exec("/tmp/escape descriptors", { timeout = 5 })
  assert(not tostring(result.stdout):find("after 2000000", 1, true))
end)

attempt("a processor of its own", function(stage)
  local _, gateway = stage:bomb()
  gateway:exec("for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; sleep 0.3",
    { timeout = 0.5 })
end)

attempt("a bomb of memory", function(stage)
  local object, gateway = stage:bomb()
  if object.limitsEnforced.memory == "none" then return end
  local _, result = gateway:exec("/tmp/escape hog 2048; sleep 1")
  assert(not tostring(result.stdout):find("ESCAPED", 1, true))
end)

return list
