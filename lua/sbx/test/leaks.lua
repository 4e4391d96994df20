-- What a test leaves behind: tasks, waits, handles of the loop, descriptors,
-- child processes, sandboxes, globals.

local core = require("sbx.core.task")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local task = require("sbx.task")

local leaks = {}

local SETTLE = 2 -- seconds for handles and children to finish closing

local function read_line(path, pattern)
  local file = io.open(path)
  if not file then return nil end
  local found
  for line in file:lines() do
    found = found or line:match(pattern)
  end
  file:close()
  return found
end

-- The names of all open descriptors. A descriptor has an entry in fdinfo only
-- once it is open, so the look-up does not count itself.
local function open_descriptors()
  local set = {}
  local limit = tonumber(read_line("/proc/self/status", "^FDSize:%s*(%d+)")) or 0
  for fd = 0, limit - 1 do
    local file = io.open("/proc/self/fdinfo/" .. fd)
    if file then
      file:close()
      set[tostring(fd)] = true
    end
  end
  return set
end

-- libuv starts every child from the thread that runs Lua.
local function child_processes()
  local set = {}
  for pid in (read_line("/proc/thread-self/children", ".*") or ""):gmatch("%d+") do
    set[pid] = true
  end
  return set
end

local function copy(source)
  local result = {}
  for key, value in next, source do
    result[key] = value
  end
  return result
end

-- Counts of what lives; sandboxes are those that the run would have to delete.
local function count_live()
  local counts = core.stats()
  local ownership = package.loaded["sbx.sandbox.ownership"]
  counts.sandboxes = ownership and ownership.left() or 0
  return counts
end

---@return table<any, any>
function leaks.globals()
  return copy(_G)
end

---What is there now.
---@return table
function leaks.snapshot()
  return {
    counts = count_live(),
    descriptors = open_descriptors(),
    children = child_processes(),
    globals = leaks.globals(),
  }
end

---Names in `now` that were not in `before`, or were something else.
---@param before table
---@param now table
---@return string[]
function leaks.new_names(before, now)
  local names = {}
  for name, value in next, now do
    if not rawequal(before[name], value) then names[#names + 1] = tostring(name) end
  end
  table.sort(names)
  return names
end

-- What `now` has beyond `before`: { kind, what, ... } each; none when all is clean.
local function leftovers(before, now)
  local found = {}
  for _, kind in ipairs({ "tasks", "waits", "handles", "sandboxes" }) do
    local more = now.counts[kind] - before.counts[kind]
    if more > 0 then found[#found + 1] = { kind, tostring(more) } end
  end
  for _, kind in ipairs({ "descriptors", "children", "globals" }) do
    local names = leaks.new_names(before[kind], now[kind])
    if #names > 0 then found[#found + 1] = { kind, table.unpack(names) } end
  end
  return found
end

-- What people know a leftover by, beside its number.
local describe = {
  descriptors = function(fd) return fs.readlink("/proc/self/fd/" .. fd) end,
  children = function(pid)
    return (read_line("/proc/" .. pid .. "/cmdline", ".*") or ""):gsub("%z", " "):gsub(" $", "")
  end,
}

---@async
local function line_of(found)
  local about = describe[found[1]]
  for i = 2, about and #found or 0 do
    local text = errors.try(about, found[i])
    if text and text ~= "" then found[i] = ("%s (%s)"):format(found[i], text) end
  end
  return ("%s left behind: %s"):format(found[1], table.concat(found, ", ", 2))
end

---Collects garbage and lets the loop turn until nothing is left behind or two
---seconds have passed. The HTTP client may keep idle connections between tests, and
---the sandbox client an empty ledger.
---@async
---@param before table
---@return string[] lines  what is left behind
---@return table now       the snapshot that says so
function leaks.settle(before)
  local http = package.loaded["sbx.core.http"]
  local ledger = package.loaded["sbx.sandbox.ledger"]
  if ledger then ledger.rest() end
  local give_up = task.now() + SETTLE
  local pause = 0.001
  while true do
    if http and http.close_idle then http.close_idle() end
    collectgarbage()
    collectgarbage()
    task.sleep(pause)
    pause = pause * 2
    local now = leaks.snapshot()
    local found = leftovers(before, now)
    if #found == 0 or task.now() > give_up then
      for i, each in ipairs(found) do
        found[i] = line_of(each)
      end
      return found, now
    end
  end
end

return leaks
