-- What the kernel says of this process, for those who watch it.

local core = require("sbx.core.task")
local errors = require("sbx.errors")
local fs = require("sbx.fs")

local metrics_process = {}

-- Clock ticks of /proc, which are 100 for programs on every machine that Linux runs on.
local TICKS = 100

local function read(path)
  return errors.try(fs.read, path, { max = 65536 }) or ""
end

local function kilobytes(status, name)
  local digits = status:match(name .. ":%s*(%d+) kB")
  return digits and math.tointeger(tonumber(digits)) * 1024
end

-- Seconds since 1970 at which the machine, and then this process, began.
local function times(stat)
  local fields = {}
  -- Behind the name, which may hold anything.
  for field in (stat:match("^.*%)%s(.*)$") or ""):gmatch("%S+") do
    fields[#fields + 1] = tonumber(field)
      or 0
  end
  local boot = tonumber(read("/proc/stat"):match("btime (%d+)"))
  local used = fields[12] and (fields[12] + fields[13]) / TICKS
  return used, boot and fields[20] and boot + fields[20] / TICKS
end

---What can be found out about this process.
---@async
---@return {resident?: integer, virtual?: integer, cpu?: number, started?: number,
---  fds?: integer, max_fds?: integer, tasks: integer, lua_memory: integer}
function metrics_process.look()
  local status = read("/proc/self/status")
  local cpu, started = times(read("/proc/self/stat"))
  local fds = errors.try(fs.list, "/proc/self/fd")
  local limit = read("/proc/self/limits"):match("Max open files%s+(%d+)")
  return {
    resident = kilobytes(status, "VmRSS"),
    virtual = kilobytes(status, "VmSize"),
    cpu = cpu,
    started = started,
    fds = fds and #fds - 1, -- without the one that looks
    max_fds = limit and math.tointeger(tonumber(limit)),
    tasks = core.stats().tasks,
    lua_memory = collectgarbage("count") * 1024 // 1,
  }
end

return metrics_process
