-- Starts hostile_peer.py and hostile_h2_peer.py, and asks them for trouble in
-- every way there is. Loaded with dofile by the tests that need it.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local http = require("sbx.http")
local process = require("sbx.process")
local task = require("sbx.task")

local hostile = {}

-- The packaged modules belong to the system's own Python, which need not be the
-- first in the path.
local function find_python(modules)
  for _, python in ipairs({ "/usr/bin/python3", "python3" }) do
    local ok, found = pcall(process.run, { python, "-c", "import " .. modules })
    if ok and found.code == 0 then return python end
  end
  skip("Python has not all of the modules " .. modules)
end

---@async
---@param script string   in tests/peers
---@param modules string  that it needs
---@param ... string      its arguments
---@return table peer  closable; `port`, and `url` without a trailing slash
function hostile.start(script, modules, ...)
  local child = process.spawn(
    { find_python(modules), "tests/peers/" .. script, ... },
    { stdin = "pipe", stdout = "pipe", stderr = "null", grace = 0 }
  )
  local line = ""
  while not line:find("\n") do
    local bytes = child.stdout:read()
    if not bytes then error(script .. " did not start") end
    line = line .. bytes
  end
  local port = line:match("%d+")
  local scheme = (...) and "https" or "http"
  return setmetatable({ port = port, url = scheme .. "://127.0.0.1:" .. port }, {
    __close = function() child:close() end,
  })
end

-- The ways to ask. Each returns the status and the whole body.
local WAYS = {
  {
    name = "GET", method = "GET",
    ask = function(url, options)
      local res = http.get(url, options)
      return res.status, res.body
    end,
  },
  {
    name = "GET as a stream", method = "GET", streams = true,
    ask = function(url, options)
      local res <close> = http.stream("GET", url, options)
      return res.status, res:all()
    end,
  },
  {
    name = "POST", method = "POST",
    ask = function(url, options)
      local res = http.post(url, options)
      return res.status, res.body
    end,
  },
}

local function copy(options, more)
  local merged = {}
  for _, source in ipairs({ options, more or {} }) do
    for name, value in pairs(source) do merged[name] = value end
  end
  return merged
end

---@class hostile.Case
---@field [1] string          the path
---@field kind string
---@field code? string
---@field code_of_post? string
---@field phase? string
---@field again? boolean      another try may help
---@field timeout? number     seconds (default 60: only shows that it does not hang)
---@field options? table

-- What an error says of itself, and what it should say.
local function compare(case, way, err, sent)
  local again = (case.again or false) and (way.method == "GET" or not sent)
  local wanted = {
    kind = case.kind, code = case.code, phase = case.phase, sent = sent, retryable = again,
  }
  if way.method == "POST" and case.code_of_post then wanted.code = case.code_of_post end
  -- What a stream has read too much of is the reader's to refuse.
  if way.streams and case.code == "EFBIG" then wanted = { kind = "limit" } end
  for name, value in pairs(wanted) do
    if err[name] ~= value then
      error(("%s of %s: %s is %s, not %s: %s"):format(
        way.name, case[1], name, err[name], value, err), 0)
    end
  end
end

---Asks for `case` in every way, and after each for something good.
---@async
---@param url string     of the peer, without a trailing slash
---@param case hostile.Case
---@param options table  of every request
---@param sent? boolean  whether the request goes out (default true)
function hostile.expect(url, case, options, sent)
  for _, way in ipairs(WAYS) do
    local given = copy(copy({ timeout = case.timeout or 60 }, options), case.options)
    local ok, err = pcall(way.ask, url .. "/" .. case[1], given)
    assert(not ok, ("%s of %s: no failure"):format(way.name, case[1]))
    assert(errors.is_error(err), tostring(err))
    compare(case, way, err, sent ~= false)
    hostile.works(url, options, way.name .. " of " .. case[1])
  end
end

---Asks for what is an answer after all, in every way.
function hostile.answers(url, path, status, body, options)
  for _, way in ipairs(WAYS) do
    local got_status, got = way.ask(url .. "/" .. path, copy({ timeout = 60 }, options))
    assert(got_status == status and got == body,
      ("%s of %s: %d %q"):format(way.name, path, got_status, got:sub(1, 60)))
    hostile.works(url, options, way.name .. " of " .. path)
  end
end

---The client still works.
function hostile.works(url, options, after)
  local ok, res = pcall(http.get, url .. "/ok", copy({ timeout = 60 }, options))
  assert(ok and res.body == "ok", ("after %s: %s"):format(after, ok and res.body or res))
end

---Saving it leaves nothing behind.
---@async
function hostile.saves_nothing(url, paths, options)
  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/kept", "as it was")
  for _, path in ipairs(paths) do
    for _, name in ipairs({ "new", "kept" }) do
      local more = { save = dir.path .. "/" .. name, timeout = 60 }
      local ok = pcall(http.get, url .. "/" .. path, copy(options, more))
      assert(not ok, path)
      local names = fs.list(dir.path)
      assert(#names == 1 and names[1] == "kept", path .. ": " .. table.concat(names, " "))
      assert(fs.read(dir.path .. "/kept") == "as it was", path)
    end
  end
end

---Runs `fn` and fails if the loop stood still meanwhile.
---@async
---@param most number  seconds
function hostile.keeps_turning(most, fn)
  local last, worst = task.now(), 0
  task.scope(function(scope)
    scope:daemon(function()
      while true do
        task.sleep(0.01)
        worst = math.max(worst, task.now() - last)
        last = task.now()
      end
    end)
    fn()
  end)
  assert(worst < most, ("the loop stood still for %.1f s"):format(worst))
end

return hostile
