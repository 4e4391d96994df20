-- What many tasks cost in memory: 100,000 that sleep at once, and a million that
-- are spawned and joined one after the other; beside Python's asyncio, each in a
-- process of its own.

local host = require("sbx.core.host")
local process = require("sbx.process")

-- Each program prints its resident memory in MB at points, and its seconds.
local OURS_SLEEPING = [[
  local task = require("sbx.task")
  local function resident()
    local file <close> = io.open("/proc/self/status")
    return tonumber(file:read("a"):match("VmRSS:%s*(%d+)")) / 1024
  end
  local start = task.now()
  task.scope(function(scope)
    for _ = 1, 100000 do scope:spawn(task.sleep, 3600) end
    task.sleep(0)
    task.sleep(0.1)
    collectgarbage()
    print(resident(), task.now() - start)
    scope:cancel()
  end)
]]

local THEIRS_SLEEPING = [[
import asyncio, time
def resident():
    for line in open('/proc/self/status'):
        if line.startswith('VmRSS'): return int(line.split()[1]) / 1024
async def main():
    start = time.monotonic()
    tasks = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(100000)]
    await asyncio.sleep(0)
    await asyncio.sleep(0.1)
    print(resident(), time.monotonic() - start)
    for task in tasks: task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
asyncio.run(main())
]]

local OURS_SEQUENCE = [[
  local task = require("sbx.task")
  local function resident()
    local file <close> = io.open("/proc/self/status")
    return tonumber(file:read("a"):match("VmRSS:%s*(%d+)")) / 1024
  end
  local function nothing() end
  for _ = 1, 100000 do task.spawn(nothing):join() end
  local first, start = resident(), task.now()
  for _ = 1, 1000000 do task.spawn(nothing):join() end
  print(first, resident(), task.now() - start)
]]

local THEIRS_SEQUENCE = [[
import asyncio, time
def resident():
    for line in open('/proc/self/status'):
        if line.startswith('VmRSS'): return int(line.split()[1]) / 1024
async def nothing(): pass
async def main():
    for _ in range(100000): await asyncio.create_task(nothing())
    first, start = resident(), time.monotonic()
    for _ in range(1000000): await asyncio.create_task(nothing())
    print(first, resident(), time.monotonic() - start)
asyncio.run(main())
]]

local function numbers(argv)
  local text = process.run(argv, { check = true, timeout = 300 }).stdout
  local result = {}
  for number in text:gmatch("%S+") do
    result[#result + 1] = tonumber(number)
  end
  return result
end

local function both(ours, theirs)
  return numbers({ host.executable(), "-e", ours }), numbers({ "python3", "-c", theirs })
end

local mine, other = both(OURS_SLEEPING, THEIRS_SLEEPING)
local sleeping = "100,000 sleeping at once     sbxlua %6.0f MB %6.2f s   "
  .. "asyncio %6.0f MB %6.2f s   ratio %.2f of the memory"
print(sleeping
  :format(mine[1], mine[2], other[1], other[2], mine[1] / other[1]))
assert(mine[1] < 250, "100,000 sleeping tasks take more than 250 MB")

mine, other = both(OURS_SEQUENCE, THEIRS_SEQUENCE)
local joined = "1,000,000 spawned and joined sbxlua %6.2f us each        "
  .. "asyncio %6.2f us each        ratio %.2f of the time"
print(joined
  :format(mine[3], other[3], mine[3] / other[3]))
print(("  memory before and after    sbxlua %6.1f %6.1f MB       asyncio %6.1f %6.1f MB")
  :format(mine[1], mine[2], other[1], other[2]))
assert(mine[2] < mine[1] * 1.2 + 2, "memory grows with tasks spawned and joined in sequence")
