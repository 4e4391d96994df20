-- WebSocket echoes: our client beside Python's `websockets`, against a server of
-- the latter, in CPU time of the client per message. The clients take turns, and
-- only the ratios within a round count, because the speed of a machine drifts.

local host = require("sbx.core.host")
local process = require("sbx.process")

local ROUNDS = 3

local SERVER = [[
import asyncio, os, sys, threading
from websockets.legacy.server import serve
async def echo(socket):
    async for message in socket:
        await socket.send(message)
async def main():
    async with serve(echo, "127.0.0.1", 0, compression=None, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()
def end_with_input():
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=end_with_input, daemon=True).start()
asyncio.run(main())
]]

local OURS = [[
local http = require("sbx.http")
local url, count, size = arg[1], tonumber(arg[2]), tonumber(arg[3])
local ws <close> = http.websocket(url)
local text = ("x"):rep(size)
for _ = 1, count do
  ws:send(text)
  assert(#ws:receive() == size)
end
]]

local PYTHON = [[
import asyncio, sys
from websockets.legacy.client import connect
async def main(url, count, size):
    async with connect(url, compression=None, max_size=None) as socket:
        text = "x" * size
        for _ in range(count):
            await socket.send(text)
            assert len(await socket.recv()) == size
asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
]]

local function find_python()
  for _, python in ipairs({ "/usr/bin/python3", "python3" }) do
    local ok, found = pcall(process.run, { python, "-c", "import websockets.legacy" })
    if ok and found.code == 0 then return python end
  end
end

-- Runs a client; its seconds of CPU and of the clock, as the shell counts them.
local function seconds_of(argv)
  local script = "TIMEFORMAT='times %U %S %R'; time \"$@\" >/dev/null"
  local words = { "bash", "-c", script, "bash", table.unpack(argv) }
  local result = process.run(words, { check = true, timeout = 120 })
  local user, system, real = result.stderr:match("times ([%d.]+) ([%d.]+) ([%d.]+)")
  return tonumber(user) + tonumber(system), tonumber(real)
end

local function median(values)
  table.sort(values)
  return values[(#values + 1) // 2]
end

local function compare(url, python, count, size)
  local clients = {
    { name = "sbxlua", argv = { host.executable(), "-e", OURS } },
    { name = "Python's websockets", argv = { python, "-c", PYTHON } },
  }
  local ratios, waits = {}, {}
  for _ = 1, ROUNDS do
    for _, one in ipairs(clients) do
      local argv = { table.unpack(one.argv) }
      for _, word in ipairs({ url, count, size }) do argv[#argv + 1] = tostring(word) end
      -- What starting costs is measured with no message and taken off.
      argv[#argv - 1] = "0"
      local start_cpu, start_real = seconds_of(argv)
      argv[#argv - 1] = tostring(count)
      local cpu, real = seconds_of(argv)
      one.cpu = (cpu - start_cpu) / count * 1e6
      one.real = (real - start_real) / count * 1e6
    end
    ratios[#ratios + 1] = clients[2].cpu / clients[1].cpu
    waits[#waits + 1] = clients[2].real / clients[1].real
  end
  for _, one in ipairs(clients) do
    print(("%-20s %8d bytes %9.1f us of CPU, %9.1f us an echo"):format(
      one.name, size, one.cpu, one.real))
  end
  print(("Python takes %.1f times the CPU and %.2f times as long"):format(
    median(ratios), median(waits)))
end

local python = find_python()
if not python then
  print("skipped: Python has no module websockets")
else
  local server <close> = process.spawn({ python, "-c", SERVER }, {
    stdin = "pipe", stdout = "pipe", grace = 0,
  })
  local port = server.stdout:read():match("%d+")
  local url = "ws://127.0.0.1:" .. port .. "/"
  compare(url, python, 10000, 32)
  compare(url, python, 4000, 16 * 1024)
  compare(url, python, 200, 1024 * 1024)
end
