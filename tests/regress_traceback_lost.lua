-- What failed in retry.call, in a place of an adaptive limit, in imap or in a task
-- that was joined was reported as if the library, or who joined, had raised it.

local limit = require("sbx.limit")
local retry = require("sbx.retry")
local task = require("sbx.task")

local function fail()
  error("broken", 0)
end

-- The first frame of a script in what is known of the error of `fn(...)`.
local function place_of(fn, ...)
  local ok, err = pcall(task.scope, {}, fn, ...)
  assert(not ok and err == "broken", tostring(err))
  local known = task.note_of(err)
  return tonumber(known.traceback:match("regress_traceback_lost.lua:(%d+):")), known.chain
end

test("errors: a report shows where it was raised, whatever passed it on", function()
  local here = debug.getinfo(fail, "S").linedefined + 1
  for name, fn in pairs({
    retry = function() retry.call(fail, 1) end,
    limit = function() limit.adaptive():run(fail) end,
    map = function() task.map({ 1 }, fail, { retry = 2 }) end,
    imap = function()
      local results <close> = task.imap({ 1 }, fail)
      results()
    end,
    join = function() task.pspawn(fail):join() end,
  }) do
    local line = place_of(fn)
    assert(line == here, name .. ": line " .. tostring(line))
  end
end)

test("errors: and the task that was joined, once", function()
  local _, chain = place_of(function(scope) scope:spawn(fail):join() end)
  assert(#chain == 1 and chain[1]:find("spawned at", 1, true), table.concat(chain, "\n"))
end)
