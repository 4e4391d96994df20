-- The vendor's Python SDK against the local server. SBXLUA_SDKS names folders, one
-- for each release, that `./dev test` makes: Python environments with the package
-- `prime-sandboxes` in them.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")

local fs = require("sbx.fs")
local process = require("sbx.process")

local function live(python, mode)
  support.with_server(function(api)
    local home <close> = fs.tmpdir()
    local result = process.run({ python, here .. "peers/sdk_life.py", mode }, {
      timeout = 50,
      env = {
        HOME = home.path, PRIME_API_KEY = api.server.api_key,
        PRIME_API_BASE_URL = api.server.url, NO_PROXY = "127.0.0.1",
      },
    })
    assert(result.code == 0, result.stderr)
  end)
end

test("server: the vendor's SDK leads a whole life, sync and async", { timeout = 200 }, function()
  local tried = 0
  for folder in (os.getenv("SBXLUA_SDKS") or ""):gmatch("[^:]+") do
    if fs.exists(folder .. "/ready") then
      live(folder .. "/bin/python", "sync")
      live(folder .. "/bin/python", "async")
      tried = tried + 1
    end
  end
  if tried == 0 then skip("no SDK in SBXLUA_SDKS: ./dev test installs it where it can") end
end)
