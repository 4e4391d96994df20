-- A scripted API (api.lua) whose sandboxes take their time to boot, for counting what
-- whole lives of sandboxes cost in requests. Loaded with dofile.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "api.lua")
local json = require("sbx.json")
local task = require("sbx.task")
local time = require("sbx.core.time")

local boots = {}

-- What counts: requests to the control plane, in the order of a sandbox's life.
local counted = {
  { "create", "POST /sandbox" }, { "get", "GET /sandbox/ID" }, { "list", "GET /sandbox" },
  { "batch", "POST /sandbox/status:batchGet" }, { "auth", "POST /sandbox/ID/auth" },
  { "context", "GET /sandbox/ID/error-context" }, { "delete", "DELETE /sandbox/ID" },
  { "bulk_delete", "DELETE /sandbox" },
}

-- Most boot in a few seconds, some take long: the same times for everyone.
local function boot_seconds(n, options)
  local share = (n * 7919 % 1000) / 1000
  local spread = options.slowest - options.fastest
  return options.fastest + spread * share ^ 3
end

local function state(object)
  return object and (time.now() >= object.ready and "RUNNING" or "PENDING") or "TERMINATED"
end

---Starts the API. `latency` is what each answer of the control plane takes on average,
---`fastest` and `slowest` bound the boot times, `exec` is what a command takes: seconds.
---@async
---@param options { latency: number, fastest: number, slowest: number, exec: number }
function boots.start(options)
  local ready = {}
  local function object(server, id)
    local found = server.sandboxes[id]
    return found and { ready = ready[id] }
  end
  local handlers = {}
  function handlers.get(call, server)
    local found = server.sandboxes[call.id]
    if not found then return 404, { detail = "Sandbox not found" } end
    found.status = state(object(server, call.id))
    return 200, found
  end
  function handlers.batch(call, server)
    local statuses = {}
    for i, id in ipairs(call.body.sandbox_ids) do
      statuses[i] = {
        sandbox_id = id, status = state(object(server, id)), error_type = json.null,
        error_message = json.null, pending_image_build_id = json.null,
      }
    end
    return 200, { statuses = json.array(statuses), errors = json.array({}) }
  end
  function handlers.exec(call, server)
    task.sleep(options.exec)
    if state(object(server, call.id)) == "RUNNING" then return nil end
    return 409, { error = "sandbox_not_running", message = "not yet", code = 409 }
  end
  function handlers.create(_, server)
    ready["sbx-" .. server.created + 1] = time.now() + boot_seconds(server.created, options)
  end
  for _, item in ipairs(counted) do
    local usual = handlers[item[1]]
    handlers[item[1]] = function(...)
      task.sleep(options.latency * (0.5 + math.random()))
      if usual then return usual(...) end
    end
  end
  return api.start(handlers)
end

---A sandbox's life as a script writes it, `count` times, 200 at once.
---@async
function boots.live(client, count)
  local numbers = {}
  for i = 1, count do
    numbers[i] = i
  end
  task.map(numbers, function(i)
    local box <close> = client:create({ name = "life-" .. i, docker_image = "python:3.11-slim" })
    box:wait()
    assert(box:exec("true").exit_code == 0)
  end, { limit = 200 })
end

---Requests to the control plane so far, in all.
function boots.total(server)
  local total = 0
  for _, item in ipairs(counted) do
    total = total + server:count(item[1])
  end
  return total
end

---The table of requests, for all `servers`: { { name, server } … }.
---@return string
function boots.table(servers, count)
  local head = ("%-36s"):format("requests for " .. count .. " sandboxes")
  for _, entry in ipairs(servers) do
    head = head .. ("%16s %9s"):format(entry[1], "each")
  end
  local lines = { head }
  local function add(name, count_of)
    local line = ("%-36s"):format(name)
    for _, entry in ipairs(servers) do
      local requests = count_of(entry[2])
      line = line .. ("%16d %9.3f"):format(requests, requests / count)
    end
    lines[#lines + 1] = line
  end
  for _, item in ipairs(counted) do
    add(item[2], function(server) return server:count(item[1]) end)
  end
  add("control plane, in all", boots.total)
  add("gateway: commands and probes", function(server) return server:count("exec") end)
  return table.concat(lines, "\n")
end

return boots
