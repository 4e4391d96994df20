-- What the tests of a whole run share: start sbxlua on a piece of Lua and wait
-- for what it says.

local host = require("sbx.core.host")
local process = require("sbx.process")
local task = require("sbx.task")

local support = {}

local LONGEST = 60 -- seconds for one run: only shows that it does not hang

-- No key and no settings from whoever runs the tests; and no report of a step that
-- a busy machine made slow.
local CLEAN = {
  PRIME_API_KEY = false, PRIME_API_BASE_URL = false, PRIME_BASE_URL = false,
  PRIME_TEAM_ID = false, XDG_CONFIG_HOME = false, HOME = "/nonexistent", SBXLUA_SLOW_STEP = "0",
}

local function environment(changes)
  local result = {}
  for _, source in ipairs({ CLEAN, changes or {} }) do
    for name, value in pairs(source) do
      result[name] = value
    end
  end
  return result
end

---Runs sbxlua to its end with these words as its command line.
---@async
---@param words string[]
---@param options? table  of `process.run`
---@return sbx.process.Result
function support.run(words, options)
  local opts = { timeout = LONGEST }
  for name, value in pairs(options or {}) do
    opts[name] = value
  end
  opts.env = environment(opts.env)
  return process.run({ host.executable(), table.unpack(words) }, opts)
end

---Runs a piece of Lua to its end.
---@async
function support.run_code(code, options)
  return support.run({ "-e", code }, options)
end

---A run in progress; as a `<close>` variable it is stopped.
---@class support.Run
local Run = {}
Run.__index = Run

---@param words string[]
---@param env? table
---@return support.Run
function support.start(words, env)
  local child = process.spawn({ host.executable(), table.unpack(words) }, {
    stdout = "pipe", stderr = "pipe", env = environment(env), grace = 0,
  })
  return setmetatable({ child = child, pid = child.pid, text = { stdout = "", stderr = "" } }, Run)
end

---Reads on `name` ("stdout" or "stderr") until `pattern` matches all that came.
---@async
---@return string  the first capture
function Run:await(name, pattern)
  return task.timeout(LONGEST, function()
    while not self.text[name]:find(pattern) do
      local bytes = self.child[name]:read()
      if not bytes then
        error(("no %s in %q; stderr: %s"):format(pattern, self.text[name], self.text.stderr), 2)
      end
      self.text[name] = self.text[name] .. bytes
    end
    return self.text[name]:match(pattern)
  end)
end

function Run:kill(signal)
  self.child:kill(signal)
end

---Reads both streams to their ends.
---@async
---@return integer code, integer|nil signal
function Run:finish()
  return task.timeout(LONGEST, function()
    task.scope(function(scope)
      for name in pairs(self.text) do
        scope:spawn(function()
          for bytes in function() return self.child[name]:read() end do
            self.text[name] = self.text[name] .. bytes
          end
        end)
      end
    end)
    return self.child:wait()
  end)
end

Run.__close = function(self) self.child:close() end

return support
