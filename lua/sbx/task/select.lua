-- Waits for the first of several things to happen, and only that one happens.

local check = require("sbx.check")
local core = require("sbx.core.task")
local scopes = require("sbx.task.scope")
local time = require("sbx.core.time")
local waiters = require("sbx.core.waiter")

-- What a type offers in `__select` of its metatable:
--   try(case) → done, ...    does it at once if that can be
--   queue(case)              the sbx.task.Queue to wait in
--   node(case)               a node for it
--   finish(case, ...) → ...  turns what woke the node into results (optional)
--   lost(case, ...)          a node left the queue unwoken (optional)
--   what(case)               for reports
local function protocol_of(case)
  local meta = getmetatable(case)
  return type(meta) == "table" and meta.__select or nil
end

local function is_task(case)
  return type(case) == "userdata" and getmetatable(case) == core.task_metatable
end

local ENDED = { done = true, failed = true, cancelled = true }

local function check_cases(cases)
  check.table(cases, "select", 3)
  if protocol_of(cases) then
    error("select: expected a list of cases: write select({ a, b })", 3)
  end
  if #cases == 0 then error("select: expected at least one case", 3) end
  for key in pairs(cases) do
    if math.type(key) ~= "integer" or key < 1 or key > #cases then
      error(("select: unknown case '%s': cases are a list; a time is a number in it")
        :format(tostring(key)), 3)
    end
  end
  for i, case in ipairs(cases) do
    local kind = type(case)
    if kind == "number" then
      check.number(case, ("select: case %d: seconds"):format(i), 0)
    elseif not is_task(case) and not protocol_of(case) then
      error(("select: case %d: expected a channel, a task, seconds or another thing to wait for, "
        .. "got a %s"):format(i, kind), 3)
    elseif case == core.current() then
      error(("select: case %d: a task cannot wait for its own end"):format(i), 3)
    end
  end
end

-- Packs a case that is done, or returns nil.
local function done(i, ok, ...)
  if ok then return table.pack(i, ...) end
end

-- The first case, in their order, that needs no waiting.
local function try_cases(cases)
  for i, case in ipairs(cases) do
    local result
    if type(case) == "number" then
      result = case == 0 and table.pack(i) or nil
    elseif is_task(case) then
      result = ENDED[case.status] and table.pack(i, case:wait()) or nil
    else
      result = done(i, protocol_of(case).try(case))
    end
    if result then return result end
  end
end

-- Enters the queues of all cases that have one. Returns the nodes by case.
local function enter(cases, waiter)
  local nodes = {}
  for i, case in ipairs(cases) do
    local protocol = protocol_of(case)
    if protocol and not is_task(case) then
      local node = protocol.node(case)
      node.case, node.waiter = i, waiter
      protocol.queue(case):push(node)
      nodes[i] = node
    end
  end
  return nodes
end

local function leave(cases, nodes)
  for i, node in pairs(nodes) do
    local protocol = protocol_of(cases[i])
    if protocol.queue(cases[i]):remove(node) and protocol.lost then protocol.lost(cases[i]) end
  end
end

local function describe(cases)
  local parts = {}
  for i, case in ipairs(cases) do
    local protocol = protocol_of(case)
    if type(case) == "number" then
      parts[i] = ("%g s"):format(case)
    elseif is_task(case) then
      parts[i] = "the end of task " .. case.id
    else
      parts[i] = protocol.what(case)
    end
    if i == 4 and #cases > 4 then
      parts[i] = "…"
      break
    end
  end
  return "the first of: " .. table.concat(parts, ", ")
end

-- Starts what tells of ended tasks and of the time.
local function spawn_watchers(scope, cases, waiter)
  for i, case in ipairs(cases) do
    if is_task(case) then
      scope:daemon(function()
        waiter:wake(i, case:wait())
      end)
    elseif type(case) == "number" and case < math.huge then
      scope:daemon(function()
        time.sleep(math.min(case, 1e9))
        waiter:wake(i)
      end)
    end
  end
end

local function needs_watchers(cases)
  for _, case in ipairs(cases) do
    if type(case) == "number" or is_task(case) then return true end
  end
  return false
end

local function suspend(cases, nodes, waiter)
  local result = table.pack(pcall(waiter.wait, waiter))
  leave(cases, nodes)
  if not result[1] then error(result[2], 0) end
  return table.pack(table.unpack(result, 2, result.n))
end

local function deliver(cases, result)
  local i = result[1]
  local protocol = not is_task(cases[i]) and protocol_of(cases[i])
  if protocol and protocol.finish then
    return i, protocol.finish(cases[i], table.unpack(result, 2, result.n))
  end
  return table.unpack(result, 1, result.n)
end

-- In a scope of its own, whose watchers end with it.
local function suspend_watched(cases, nodes, waiter)
  local scope = core.open(false, false, nil)
  spawn_watchers(scope, cases, waiter)
  local ok, result = xpcall(suspend, scopes.keep_traceback, cases, nodes, waiter)
  local outcome, err = scopes.close(scope, ok, result)
  if outcome == "failed" then error(err, 0) end
  return result
end

---@async
return function(cases)
  check_cases(cases)
  core.checkpoint("select")
  cases = table.move(cases, 1, #cases, 1, {}) -- the caller's may change meanwhile
  local result = try_cases(cases)
  if result then return table.unpack(result, 1, result.n) end
  local waiter = waiters.new(describe(cases))
  local nodes = enter(cases, waiter)
  local wait = needs_watchers(cases) and suspend_watched or suspend
  return deliver(cases, wait(cases, nodes, waiter))
end
