-- Sets what the virtual machines of a fleet may reach, and tries it from inside.
--
--   sbxlua scripts/lockdown.lua --label team-research --allow packages.example \
--     --open packages.example:443 --closed 1.1.1.1:443
--   sbxlua scripts/lockdown.lua --label team-research --deny '*'
--   sbxlua scripts/lockdown.lua --label team-research            only shows how it is
--
-- stdout has a row of CSV for each sandbox and check. The status is 1 if a policy could
-- not be set, or a check came out otherwise. Containers have all of the network or
-- none, for good: `check_isolation.lua` is about these.

local cli = require("sbx.cli")
local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local log = require("sbx.log")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local given = cli.parse(arg, {
  name = "lockdown",
  summary = "Sets what virtual machines may reach, and tries it from inside.",
  example = "sbxlua scripts/lockdown.lua --label team-research --allow packages.example"
    .. " --open packages.example:443 --closed 1.1.1.1:443",
  options = {
    { name = "label", short = "l", type = "list",
      help = "those that run and carry this label; all labels, if several" },
    { name = "allow", type = "list", metavar = "PLACE",
      help = "only there: an address, 10.0.0.0/8, a name, *.name, or *" },
    { name = "deny", type = "list", metavar = "PLACE", help = "everywhere but there; * is all" },
    { name = "open", type = "list", metavar = "HOST:PORT", help = "must be in reach then" },
    { name = "closed", type = "list", metavar = "HOST:PORT", help = "must not be" },
    { name = "timeout", type = "duration", default = "60s", help = "until a policy is applied" },
  },
  arguments = {
    { name = "ids", metavar = "ID", optional = true, many = true, help = "sandboxes" },
  },
})

local function refuse(message)
  io.stderr:write("lockdown: ", message, "\n")
  os.exit(2)
end

if #given.allow > 0 and #given.deny > 0 then refuse("either --allow or --deny") end
if #given.ids == 0 and #given.label == 0 then refuse("which sandboxes? Give an ID or --label") end

-- "*" is all of it, and not a list.
local function places(list) return list[1] == "*" and #list == 1 and "*" or list end

local rules
if #given.allow > 0 then rules = { allow = places(given.allow) } end
if #given.deny > 0 then rules = { deny = places(given.deny) } end

local checks = {}
for _, wanted in ipairs({ "open", "closed" }) do
  for _, target in ipairs(given[wanted]) do
    local host, port = target:match("^%[?([%w.:_-]+)%]?:(%d+)$")
    if not host then refuse(target .. " is no HOST:PORT") end
    table.insert(checks, { target = target, host = host, port = port, wanted = wanted })
  end
end

-- Whether a connection comes about from inside: "open" or "closed".
---@async
local function try_from(box, check)
  local result = box:exec({
    "timeout", "5", "bash", "-c", 'exec 3<> "/dev/tcp/$0/$1"', check.host, check.port,
  }, { timeout = 20 })
  -- 126 and 127 would be no answer at all.
  if result.exit_code == 0 then return "open" end
  if result.exit_code == 1 or result.exit_code == 124 then return "closed" end
  errors.raise({ kind = "process", message = "cannot try it: " .. log.clean(result.stderr) })
end

---@async
local function lock_down(box)
  local network = rules and box:set_network(rules, { timeout = given.timeout })
    or box:get_network()
  return network, task.map(checks, function(check) return try_from(box, check) end)
end

local function describe(network)
  for _, kind in ipairs({ "allow", "deny" }) do
    local list = network[kind .. "list"]
    if list then return kind .. (#list > 0 and " " .. table.concat(list, " ") or " nothing") end
  end
  return ""
end

local client <close> = sandbox.client()
local boxes = task.map(given.ids, function(id) return client:get(id) end)
for _, box in ipairs(#given.label > 0
    and client:list({ labels = given.label, status = "RUNNING" }) or {}) do
  table.insert(boxes, box)
end

local failed = 0
print(encoding.csv_row({ "id", "name", "policy", "applied", "target", "is", "result" }))
for i, found, err in task.imap(boxes, function(box)
  return { lock_down(box) }
end, { on_error = "collect", progress = "sandboxes" }) do
  local id, name = boxes[i].id, boxes[i].name
  if err then
    if not errors.is_error(err) then error(err, 0) end
    failed = failed + 1
    print(encoding.csv_row({ id, name, "", "", "", "", tostring(err) }))
  else
    local network, reached = found[1], found[2]
    local policy, applied = describe(network), tostring(network.applied)
    if #checks == 0 then print(encoding.csv_row({ id, name, policy, applied, "", "", "" })) end
    for j, check in ipairs(checks) do
      local fine = reached[j] == check.wanted
      if not fine then failed = failed + 1 end
      print(encoding.csv_row({
        id, name, policy, applied, check.target, reached[j], fine and "PASS" or "FAIL",
      }))
    end
  end
end
if failed > 0 then os.exit(1) end
