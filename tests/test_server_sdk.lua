-- The vendor's Python SDK, in several releases, against the local server.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local sdks = dofile(here .. "sdk_support.lua")
local support = dofile(here .. "server_support.lua")

local fs = require("sbx.fs")
local process = require("sbx.process")

-- Runs a script against a fresh server. Returns its exit status.
local function run(python, script, mode, options)
  return support.with_server(function(api)
    local home <close> = fs.tmpdir()
    local result = process.run({ python, here .. "peers/" .. script, mode }, {
      timeout = 60,
      env = {
        HOME = home.path, PRIME_API_KEY = api.server.api_key,
        PRIME_API_BASE_URL = api.server.url, NO_PROXY = "127.0.0.1",
      },
    })
    assert(result.code == 0 or result.code == sdks.NOT_ITS_KIND, result.stderr)
    return result.code
  end, options)
end

-- The life of both clients of each SDK that knows this kind of sandboxes.
local function lives(script, options)
  local lived = false
  for _, python in ipairs(sdks.pythons()) do
    if run(python, script, "sync", options) ~= sdks.NOT_ITS_KIND then
      assert(run(python, script, "async", options) == 0)
      lived = true
    end
  end
  if not lived then skip("none of the SDKs in SBXLUA_SDKS knows such sandboxes") end
end

test("server: the vendor's SDK leads a whole life, sync and async", { timeout = 200 }, function()
  lives("sdk_life.py")
end)

test("server: and that of a virtual machine", { timeout = 200 }, function()
  lives("sdk_vm.py", { profile = "vm" })
end)
