-- Releases of the vendor's Python SDK. SBXLUA_SDKS names folders, one for each, that
-- `./dev test` makes: Python environments with the package `prime-sandboxes` in them,
-- the oldest first.

local fs = require("sbx.fs")
local process = require("sbx.process")

local sdks = {}

---The exit status of a script whose SDK knows no such sandboxes.
sdks.NOT_ITS_KIND = 3

---The Python programs of all that are installed, or of those whose `code` runs. Skips
---the test when there are none.
---@async
---@param code? string
---@return string[]
function sdks.pythons(code)
  local found = {}
  for folder in (os.getenv("SBXLUA_SDKS") or ""):gmatch("[^:]+") do
    local python = folder .. "/bin/python"
    if fs.exists(folder .. "/ready")
      and (not code or process.run({ python, "-c", code }).code == 0) then
      found[#found + 1] = python
    end
  end
  if #found == 0 then skip("no SDK in SBXLUA_SDKS: ./dev test installs it where it can") end
  return found
end

---The Python program of the newest whose `code` runs. Skips the test without one.
---@async
---@param code string
---@return string
function sdks.newest(code)
  local found = sdks.pythons(code)
  return found[#found]
end

---What an SDK with a command session can run.
sdks.COMMAND_SESSION =
  "from prime_sandboxes._proto.command_session import command_session_pb2"

return sdks
