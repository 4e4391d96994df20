-- The network of sandboxes that may have one, on which they do not reach each other, as
-- they would on the engine's usual one: with Docker a bridge that keeps them apart, with
-- Podman, which has no such bridge, a network stack in a process for each.
--
-- An engine lets two servers that ask at the same moment make two bridges of one name, and
-- from then on refuses the name, even where a container is given the id. So each bridge has
-- a name of its own and is known by a label: the oldest is everybody's, and who has made a
-- younger one takes it away.

local errors = require("sbx.errors")
local hash = require("sbx.hash")
local json = require("sbx.json")

---@class sbx.server.driver.docker.network
local network = {}

---The label of our bridges.
network.LABEL = "sbxlua.network"

local NO_NEIGHBOURS = "com.docker.network.bridge.enable_icc"

local function refuse(name)
  errors.raise {
    kind = "process", op = "engine",
    message = ("the engine's network '%s' does not keep its containers apart: remove it (docker "
      .. "network rm %s), it is made anew"):format(name, name),
  }
end

local function keeps_apart(found)
  local options = type(found.Options) == "table" and found.Options or {}
  return options[NO_NEIGHBOURS] == "false"
end

local function is_older(a, b)
  local made_a, made_b = tostring(a.Created), tostring(b.Created)
  if made_a ~= made_b then return made_a < made_b end
  return a.Id < b.Id
end

-- All bridges of ours, the oldest first.
local function list(engine)
  local found = engine:get("/networks", "look for the sandboxes' network", {
    filters = json.encode { label = { network.LABEL } },
  }) or {}
  table.sort(found, is_older)
  return found
end

local function remove(engine, name)
  pcall(engine.call, engine, "DELETE", "/networks/" .. name, {
    what = "remove the network " .. name, timeout = 10,
  })
end

-- Returns its name.
local function make(engine)
  local name = "sbxlua-" .. hash.random_hex(6)
  engine:call("POST", "/networks/create", {
    what = "make the network " .. name,
    json = {
      Name = name, Driver = "bridge", EnableIPv6 = false, Options = { [NO_NEIGHBOURS] = "false" },
      Labels = { [network.LABEL] = "1" },
    },
  })
  return name
end

-- The oldest bridge; it is refused when it does not keep its containers apart.
local function pick(engine)
  local found = list(engine)[1]
  if not found then return nil end
  if not keeps_apart(found) then refuse(found.Name) end
  return found.Name
end

-- pasta is the younger one of the two that Podman knows.
local function stack_of_podman(version)
  return (tonumber(version:match("^%d+")) or 0) >= 5 and "pasta" or "slirp4netns"
end

---The network mode of a container, after the bridge was made where it is missing: the
---bridge's name, or a mode of Podman's.
---@async
---@param engine sbx.server.driver.docker.Engine
---@return string
function network.ensure(engine)
  if engine:is_podman() then return stack_of_podman(engine.podman) end
  local name = pick(engine)
  if name then return name end
  local made = make(engine)
  name = pick(engine)
  if name and made ~= name then remove(engine, made) end
  return name or made
end

---Removes the bridges that no sandbox is on.
---@async
---@param engine sbx.server.driver.docker.Engine
function network.drop(engine)
  local ok, bridges = pcall(list, engine)
  for _, found in ipairs(ok and bridges or {}) do
    remove(engine, found.Name)
  end
end

return network
