-- Runs of sbxlua --local that are watched: when one has ended, no process and no
-- file of it may be left. Its processes are those below it, by their numbers, and
-- those that carry the run's own value in their environment.

local fs = require("sbx.fs")
local hash = require("sbx.hash")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "run_support.lua")
local task = require("sbx.task")

local watch = {}

---The bytes of a file of /proc; "" where there is none any more.
function watch.read(path)
  local file = io.open(path, "rb")
  if not file then return "" end
  local text = file:read("a")
  file:close()
  return text or ""
end

-- The processes below `pid`, itself included.
local function family(pid)
  local found = {}
  local function add(number)
    found[#found + 1] = number
    for _, thread in ipairs(select(2, pcall(fs.list, "/proc/" .. number .. "/task")) or {}) do
      local children = watch.read(("/proc/%s/task/%s/children"):format(number, thread))
      for child in children:gmatch("%d+") do
        add(child)
      end
    end
  end
  add(tostring(pid))
  return found
end

local function is_alive(pid)
  local state = watch.read("/proc/" .. pid .. "/stat"):match("^%d+ %(.*%) (%a)")
  return state ~= nil and state ~= "Z" and state ~= "X"
end

local function marked(mark)
  local found = {}
  for _, name in ipairs(fs.list("/proc")) do
    if name:find("^%d+$") and watch.read("/proc/" .. name .. "/environ"):find(mark, 1, true) then
      found[#found + 1] = name
    end
  end
  return found
end

---A run with folders and a mark of its own. Calls `fn(start, look)`:
---`start(words)` starts sbxlua --local, `look()` notes what runs now.
---@async
function watch.run(fn)
  local folder <close> = fs.tmpdir({ prefix = "local-end-" })
  local mark = "SBX_TEST_MARK=" .. hash.random_hex(8)
  local env = {
    SBX_TEST_MARK = mark:match("=(.*)"), TMPDIR = folder.path, HOME = folder.path,
    XDG_STATE_HOME = folder.path, XDG_CACHE_HOME = folder.path, XDG_CONFIG_HOME = folder.path,
    XDG_DATA_HOME = folder.path, XDG_RUNTIME_DIR = folder.path,
  }
  local seen = {}
  local function start(words)
    return support.start({ "--local", table.unpack(words) }, env)
  end
  local function look(pid)
    for _, number in ipairs(family(pid)) do
      seen[#seen + 1] = number
    end
    return #seen
  end
  fn(start, look, env)
  task.timeout(60, function()
    while #marked(mark) > 0 do
      task.sleep(0.01)
    end
    for _, pid in ipairs(seen) do
      while is_alive(pid) do
        task.sleep(0.01)
      end
    end
  end)
  local left = fs.list(folder.path)
  for _, name in ipairs(fs.list("/var/tmp")) do
    local owner = name:match("^sbxlua%-disks%-(%d+)%-")
    for _, pid in ipairs(seen) do
      if owner == pid then left[#left + 1] = "/var/tmp/" .. name end
    end
  end
  assert(#left == 0, "files left: " .. table.concat(left, " "))
end

return watch
