-- What a sandbox costs in requests from create to delete: 1000 of them, 200 at once,
-- each ready after some seconds and used for one command. Beside the vendor's SDK, where
-- `./dev test` has installed it, with a server of the same kind.

local boots = dofile("tests/peers/boots.lua")
local fs = require("sbx.fs")
local process = require("sbx.process")
local task = require("sbx.task")

local COUNT = 1000
local MOST = 2.2 -- requests to the control plane for each
local SDK = "build/sdk-0.2.39"

local options = { latency = 0.08, fastest = 2, slowest = 20, exec = 0.1 }

local THEIRS = [[
import asyncio, sys
import prime_sandboxes as sdk

async def main(count):
    places = asyncio.Semaphore(200)
    async with sdk.AsyncSandboxClient() as client:
        async def life(number):
            async with places:
                request = sdk.CreateSandboxRequest(
                    name=f"life-{number}", docker_image="python:3.11-slim", vm=False)
                box = await client.create(request)
                try:
                    await client.wait_for_creation(box.id)
                    assert (await client.execute_command(box.id, "true")).exit_code == 0
                finally:
                    await client.delete(box.id)
        await asyncio.gather(*(life(number) for number in range(count)))

asyncio.run(main(int(sys.argv[1])))
]]

local function theirs(server)
  local home <close> = fs.tmpdir()
  local result = process.run({ SDK .. "/bin/python", "-c", THEIRS, tostring(COUNT) }, {
    timeout = 900,
    env = {
      HOME = home.path, PRIME_API_KEY = "key", PRIME_API_BASE_URL = server.url,
      NO_PROXY = "127.0.0.1",
    },
  })
  assert(result.code == 0, result.stderr)
end

local function timed(name, fn, ...)
  local start = task.now()
  fn(...)
  print(("%-44s %12.1f s"):format(name, task.now() - start))
end

local server <close> = boots.start(options)
local client <close> = server:client()
timed(("%d lives, sbxlua"):format(COUNT), boots.live, client, COUNT)
local servers = { { "sbxlua", server } }

if fs.exists(SDK .. "/ready") then
  local other = boots.start(options)
  timed(("%d lives, SDK 0.2.39"):format(COUNT), theirs, other)
  other.listener:close()
  table.insert(servers, { "SDK 0.2.39", other })
else
  print("no SDK to compare with: ./dev test installs it where it can")
end

print(boots.table(servers, COUNT))
local each = boots.total(server) / COUNT
assert(each <= MOST, ("%.3f requests for each sandbox, more than %g"):format(each, MOST))
