-- What goes on around a run when the command line asks for it: a trace, a recording of its
-- requests, or answers from such a recording in place of a network.

local errors = require("sbx.errors")
local host = require("sbx.core.host")
local log = require("sbx.log")

local around = {}

---Options with a file → the module that has `start(path)` and `stop()`.
around.modules = {
  ["--trace"] = "sbx.trace", ["--record"] = "sbx.replay.record", ["--replay"] = "sbx.replay.play",
}

-- A trace is around the rest, so that it sees what the script does.
local ORDER = { "--record", "--replay", "--trace" }

local function say(option, err)
  local text = errors.is_error(err) and err.message or tostring(err)
  pcall(host.write, 2, ("sbxlua: %s: %s\n"):format(option, log.clean(text, 1000)))
end

---Runs `fn()` and returns its exit status. What cannot begin ends it with a status of its
---own; a file that could not be written whole makes of success a failure.
---@async
---@param given table<string, string>  option → file
---@param fn async fun(): integer
---@return integer
function around.run(given, fn)
  local running = {}
  local function stop()
    local whole = true
    for i = #running, 1, -1 do
      local ok, err = pcall(require(around.modules[running[i]]).stop)
      if not ok then say(running[i], err) end
      whole = whole and ok
    end
    return whole
  end
  for _, option in ipairs(ORDER) do
    if given[option] then
      local ok, err = pcall(require(around.modules[option]).start, given[option])
      if not ok then
        say(option, err)
        stop()
        return errors.is_error(err) and err.kind == "usage" and 2 or 1
      end
      running[#running + 1] = option
    end
  end
  local ok, status = pcall(fn)
  local whole = stop()
  if not ok then error(status, 0) end
  return (status == 0 and not whole) and 1 or status
end

return around
