-- The vendor's Python SDK against the local server, where SBXLUA_SDK_PYTHON (or
-- python3) has the package `prime-sandboxes`. Elsewhere there is nothing to test.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")

local fs = require("sbx.fs")
local process = require("sbx.process")
local task = require("sbx.task")

local python = os.getenv("SBXLUA_SDK_PYTHON") or "python3"

local function has_sdk()
  local ok, result = pcall(process.run, { python, "-c", "import prime_sandboxes" })
  return ok and result.code == 0
end

test("server: the vendor's SDK leads a whole life, sync and async", function()
  if not has_sdk() then return end
  for _, mode in ipairs({ "sync", "async" }) do
    support.with_server(function(api)
      local home <close> = fs.tmpdir()
      local result = task.timeout(50, process.run, { python, here .. "peers/sdk_life.py", mode }, {
        env = {
          HOME = home.path, PRIME_API_KEY = api.server.api_key,
          PRIME_API_BASE_URL = api.server.url, NO_PROXY = "127.0.0.1",
        },
      })
      assert(result.code == 0, result.stderr)
    end)
  end
end)
