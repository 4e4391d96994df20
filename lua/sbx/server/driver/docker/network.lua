-- The network of sandboxes that may have one, on which they do not reach each other, as
-- they would on the engine's usual one: with Docker a bridge that keeps them apart, with
-- Podman, which has no such bridge, a network stack in a process for each.

local errors = require("sbx.errors")

---@class sbx.server.driver.docker.network
local network = {}

network.NAME = "sbxlua"

local NO_NEIGHBOURS = "com.docker.network.bridge.enable_icc"

-- Whether our bridge is there. One of that name which does not keep its containers apart
-- is refused.
local function is_there(engine)
  local found = engine:get("/networks/" .. network.NAME, "look for the network " .. network.NAME)
  if not found then return false end
  local options = type(found.Options) == "table" and found.Options or {}
  if options[NO_NEIGHBOURS] == "false" then return true end
  errors.raise {
    kind = "process", op = "engine",
    message = ("the engine's network '%s' does not keep its containers apart: remove it (docker "
      .. "network rm %s), it is made anew"):format(network.NAME, network.NAME),
  }
end

-- pasta is the younger one of the two that Podman knows.
local function stack_of_podman(version)
  return (tonumber(version:match("^%d+")) or 0) >= 5 and "pasta" or "slirp4netns"
end

---The network mode of a container, after the bridge was made where it is missing.
---@async
---@param engine sbx.server.driver.docker.Engine
---@return string
function network.ensure(engine)
  if engine:is_podman() then return stack_of_podman(engine.podman) end
  if is_there(engine) then return network.NAME end
  engine:call("POST", "/networks/create", {
    what = "make the network " .. network.NAME,
    json = {
      Name = network.NAME, CheckDuplicate = true, Driver = "bridge",
      Options = { [NO_NEIGHBOURS] = "false" },
      Labels = { ["sbxlua.network"] = "1" },
    },
    accept = { [409] = true }, -- another server was quicker
  })
  return network.NAME
end

---Removes the bridge when no sandbox is on it; else leaves it.
---@async
---@param engine sbx.server.driver.docker.Engine
function network.drop(engine)
  pcall(engine.call, engine, "DELETE", "/networks/" .. network.NAME, {
    what = "remove the network " .. network.NAME, timeout = 10,
  })
end

return network
