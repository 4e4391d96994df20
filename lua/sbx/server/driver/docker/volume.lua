-- The volume that holds the agent: filled once, mounted read-only into every container.
-- A file put into each container instead takes longer, and not all storage drivers keep
-- what is written before the start (fuse-overlayfs loses it when several start at once).

local container = require("sbx.server.driver.docker.container")
local errors = require("sbx.errors")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local tar = require("sbx.sandbox.tar")
local task = require("sbx.task")

---@class sbx.server.driver.docker.volume
local volume = {}

local CLEAN_UP_SECONDS = 30
-- A busy engine with fuse-overlayfs may lay a container's root over its volumes.
local TRIES, PAUSE_SECONDS = 5, 0.05

---The name of the volume with this program's agent.
---@return string
function volume.name()
  return "sbxlua-agent-" .. hash.sha256(host.agent()):sub(1, 12)
end

local function archive()
  local program = host.agent()
  return tar.header {
    type = "file", path = "agent", mode = 365, mtime = 0, size = #program, -- 0555
  } .. program .. tar.padding(#program) .. tar.ending
end

-- Whether the agent is there, as a download tells.
local function is_filled(engine, id)
  local res = engine:call("GET", "/containers/" .. id .. "/archive", {
    what = "look for the agent", query = { path = container.AGENT }, accept = { [404] = true },
  })
  return res.status == 200 and res.body:find(host.agent(), 1, true) ~= nil
end

local function fill(engine, id)
  for attempt = 1, TRIES do
    if is_filled(engine, id) then return end
    if attempt > 1 then task.sleep(attempt * PAUSE_SECONDS) end
    engine:call("PUT", "/containers/" .. id .. "/archive", {
      what = "put the agent into its volume", query = { path = container.AGENT_FOLDER },
      headers = { ["Content-Type"] = "application/x-tar" }, body = archive(),
    })
  end
  if is_filled(engine, id) then return end
  local words = "the engine does not keep what is put into the volume " .. volume.name()
  -- As if it had said so itself: with another container it may.
  errors.raise { kind = "process", op = "engine", status = 500, detail = words, message = words }
end

-- Only in a container can a volume be filled. It is never started.
local function make(engine, image, server)
  local res = engine:call("POST", "/containers/create", {
    what = "create a container of " .. image,
    json = container.filler(image, volume.name(), server),
  })
  local id = res:json().Id
  local ok, failure = pcall(fill, engine, id)
  container.remove(engine, id)
  if not ok then error(failure, 0) end
end

---Sees to it that the volume is there and has the agent. Completed once begun.
---@async
---@param engine sbx.server.driver.docker.Engine
---@param image string   any that the engine has
---@param server string  id, for the label of the container in between
function volume.ensure(engine, image, server)
  task.shield(CLEAN_UP_SECONDS, make, engine, image, server)
end

---Removes the volume when no container uses it; else leaves it.
---@async
---@param engine sbx.server.driver.docker.Engine
function volume.drop(engine)
  pcall(engine.call, engine, "DELETE", "/volumes/" .. volume.name(), {
    what = "remove the agent's volume", timeout = 10,
  })
end

return volume
