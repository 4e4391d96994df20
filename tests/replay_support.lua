-- What the tests of recordings share: a server that can go away, runs that are recorded and
-- runs that are replayed.

local fs = require("sbx.fs")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local http_server = require("sbx.core.server")
local json = require("sbx.json")
local run = dofile(here .. "run_support.lua")
local task = require("sbx.task")

local support = {}

---@class tests.Replay
---@field folder string
---@field file string   the recording
---@field script string
---@field url string
local Replay = {}
Replay.__index = Replay

local function serve(listener, handler, hits)
  while true do
    local ok, request = pcall(listener.accept, listener)
    if not ok or not request then return end
    task.daemon(function()
      hits.n = hits.n + 1
      pcall(handler, request, hits)
    end)
  end
end

---Calls `fn(replay)` with a server on which `handler(request, hits)` answers.
---@async
function support.with(code, handler, fn)
  local folder <close> = fs.tmpdir({ prefix = "replay-" })
  local listener = http_server.listen({ host = "127.0.0.1", port = 0 })
  local self = setmetatable({
    folder = folder.path, file = folder.path .. "/run.jsonl", script = folder.path .. "/s.lua",
    url = "http://127.0.0.1:" .. listener.port, hits = { n = 0 }, listener = listener,
  }, Replay)
  fs.write(self.script, code)
  local acceptor = task.daemon(serve, listener, handler or function() end, self.hits)
  local ok, err = pcall(fn, self)
  self:shut()
  acceptor:cancel()
  acceptor:pjoin()
  if not ok then error(err, 0) end
end

---From now on there is no server.
function Replay:shut()
  if self.listener then self.listener:close() end
  self.listener = nil
end

---@async
function Replay:run(words, env)
  local all = { URL = self.url, FOLDER = self.folder }
  for name, value in pairs(env or {}) do
    all[name] = value
  end
  words = table.move(words, 1, #words, 1, {})
  words[#words + 1] = self.script
  return run.run(words, { env = all })
end

---Records a run; its result.
---@async
function Replay:record(env)
  return self:run({ "--record", self.file }, env)
end

---The lines of the recording.
---@async
function Replay:lines()
  local lines = {}
  for line in fs.read(self.file):gmatch("[^\n]+") do
    lines[#lines + 1] = json.decode(line)
  end
  return lines
end

---Replays it without a server; its result.
---@async
function Replay:play(env)
  self:shut()
  return self:run({ "--replay", self.file }, env)
end

---Records and replays: both results have to be the same. Returns that of the replay.
---@async
function Replay:both(env)
  local first = self:record(env)
  local second = self:play(env)
  local function show(result)
    return ("%d %q %s"):format(result.code, result.stdout, result.stderr)
  end
  if first.stdout ~= second.stdout or first.code ~= second.code then
    error(("recorded: %s\nreplayed: %s"):format(show(first), show(second)), 2)
  end
  return second, first
end

support.run = run

return support
