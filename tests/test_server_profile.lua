-- Containers and virtual machines side by side, and the network of the latter.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")
local ruled = dofile(here .. "peers/ruled_driver.lua")

local json = require("sbx.json")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local function try(api, fields)
  local body = { name = "x", docker_image = "i" }
  for name, value in pairs(fields) do
    body[name] = value
  end
  return api:call("POST", "/sandbox", body)
end

local function named(body, param)
  for _, fault in ipairs(body.errors or {}) do
    if fault.param == param then return fault.details end
  end
  return nil
end

-- What becomes of vm = true, false and nothing: true, false, or the refusal.
local function outcomes(profile)
  return support.with_server(function(api)
    local list = {}
    for index, wanted in ipairs { true, false, json.null } do
      local status, body = try(api, { vm = wanted })
      assert(status == 201 or status == 422, json.encode(body))
      if status == 201 then
        local _, auth = api:call("POST", "/sandbox/" .. body.id .. "/auth", nil, { body = "" })
        assert(auth.is_vm == body.vm, "auth and the object disagree")
        list[index] = body.vm
      else
        list[index] = assert(named(body, "vm"))
      end
    end
    return list
  end, { profile = profile })
end

test("profile: each sandbox is what was asked for, or refused with the reason", function()
  local only = outcomes("container")
  assert(only[1]:find("--profile", 1, true) and only[2] == false and only[3] == false)
  local vm = outcomes("vm")
  assert(vm[1] == true and vm[2]:find("--profile both", 1, true) and vm[3] == true)
  local both = outcomes("both")
  assert(both[1] == true and both[2] == false and both[3] == false)
end)

test("profile: a virtual machine has no string to start, no credentials and no guarantee",
  function()
    support.with_server(function(api)
      for param, value in pairs {
        start_command = "echo hi", registry_credentials_id = "c1", guaranteed = true,
        gpu_count = 1,
      } do
        local status, body = try(api, { [param] = value })
        assert(status == 422 and (named(body, param) or named(body, "gpu_type")), param)
      end
      -- The default of clients that leave the choice to the server is none.
      local status, body = try(api, {
        start_command = "tail -f /dev/null", guaranteed = false, gpu_count = 0,
      })
      assert(status == 201 and body.startCommand == json.null, json.encode(body))
      local made = api:running {
        start_command = { executable = "/bin/echo", args = { "a  b" } },
      }
      task.timeout(60, function()
        local _, log = api:call("GET", "/sandbox/" .. made.id .. "/logs")
        while not log.logs:find("a  b", 1, true) do
          task.sleep(0.01)
          _, log = api:call("GET", "/sandbox/" .. made.id .. "/logs")
        end
      end)
    end, { profile = "vm" })
  end)

test("profile: a virtual machine has files, but neither exec nor ports over REST", function()
  support.with_server(function(api)
    local made, box = api:running { vm = true }
    local status, body = box:exec("true")
    assert(status == 422 and body.error == "unsupported")
    assert(body.message:find("command_session", 1, true))
    status, body = api:call("POST", "/sandbox/" .. made.id .. "/expose", { port = 8000 })
    assert(status == 422 and body.detail:find("vm = false", 1, true))

    assert(box:upload("/tmp/f", { data = "0123456789" }) == 200)
    assert(box:download("/tmp/f").body == "0123456789")
    local _, whole = box:read_file("/tmp/f", "&offset=-3&length=2")
    assert(whole.content == "0123456789" and whole.size == 10)
    for _, name in ipairs { "total_size", "offset", "truncated" } do
      assert(whole[name] == nil, name)
    end
    assert(box:read_file("/tmp/none") == 404)
  end, { profile = "both" })
end)

test("profile: a batch of statuses without repetition, of a hundred at most", function()
  support.with_server(function(api)
    local function ask(ids)
      return api:call("POST", "/sandbox/status:batchGet", { sandbox_ids = ids })
    end
    local status, body = ask { "a", "b", "a" }
    assert(status == 422 and named(body, "sandbox_ids"))
    local many = {}
    for index = 1, 101 do
      many[index] = "sbx-" .. index
    end
    assert(ask(many) == 422 and ask(json.array {}) == 422)
    many[101] = nil
    local made = api:create {}
    many[7] = made.id
    status, body = ask(many)
    assert(status == 200 and #body.errors == 99 and body.statuses[1].sandbox_id == made.id)
  end)
end)

-- ------------------------------------------------------------------ the network

local function with_rules(fn, options)
  local driver = ruled.open(options)
  support.with_server(function(api) fn(api, driver) end, { profile = "both", driver = driver })
end

local function policy(api, id)
  local status, body = api:call("GET", "/sandbox/" .. id .. "/egress-policy")
  assert(status == 200)
  return body
end

local function put(api, id, allow, deny)
  return api:call("PUT", "/sandbox/" .. id .. "/egress-policy", {
    allowlist = allow and json.array(allow) or json.null,
    denylist = deny and json.array(deny) or json.null,
  })
end

test("egress: lists of a create reach the driver, for virtual machines alone", function()
  with_rules(function(api, driver)
    local made = api:running { vm = true, network_allowlist = { " 192.0.2.0/24 ", "a.example" } }
    assert(made.networkAccess == true and made.networkAllowlist[1] == "192.0.2.0/24")
    local rules = driver.booted[made.id]
    assert(rules.allowlist[1] == "192.0.2.0/24" and rules.allowlist[2] == "a.example")
    local none = api:running { vm = true, network_allowlist = json.array {} }
    assert(none.networkAccess == false and #driver.booted[none.id].allowlist == 0)
    assert(driver.booted[api:running { vm = true }.id] == "open")
    assert(driver.booted[api:running { network_access = false }.id] == "none")

    for _, list in ipairs { { "*.example.com" }, { "::1" }, { "http://x/" }, { "" }, { "*" } } do
      assert(try(api, { vm = true, network_denylist = list }) == 422, list[1])
    end
    local status, body = try(api, { network_denylist = { "192.0.2.1" } })
    assert(status == 422 and named(body, "network_denylist"):find("vm = true", 1, true))
    status = try(api, { vm = true, network_access = false, network_allowlist = { "a.example" } })
    assert(status == 422)
  end)
end)

test("egress: a policy is replaced, in force and counted", function()
  with_rules(function(api, driver)
    local made = api:running { vm = true }
    local first = policy(api, made.id)
    assert(first.applied and first.generation == first.applied_generation)
    assert(#first.policy.denylist == 0 and first.policy.allowlist == json.null)

    local status, body = put(api, made.id, { "192.0.2.1", "a.example" })
    assert(status == 200 and body.applied and body.generation == first.generation + 1)
    assert(body.policy.allowlist[2] == "a.example" and body.policy.denylist == json.null)
    assert(driver.set[made.id][1].allowlist[1] == "192.0.2.1")
    local _, object = api:call("GET", "/sandbox/" .. made.id)
    assert(object.networkAllowlist[1] == "192.0.2.1" and object.networkDenylist == json.null)

    status, body = put(api, made.id, nil, { "no-such-host.invalid" })
    assert(status == 422 and body.detail:find("no such host", 1, true))
    local kept = policy(api, made.id)
    assert(kept.applied and kept.policy.allowlist[2] == "a.example")
    assert(put(api, made.id, { "a.example" }, { "b.example" }) == 422)
    assert(put(api, made.id) == 422 and put(api, made.id, { "*.example" }) == 422)
    assert(put(api, made.id, {}) == 200 and policy(api, made.id).generation == 3)

    api:call("DELETE", "/sandbox/" .. made.id)
    assert(put(api, made.id, nil, {}) == 409)
  end)
end)

test("egress: a policy that comes while the sandbox boots is applied when it runs", function()
  local booting, go = task.waiter("a boot"), task.waiter("to boot")
  with_rules(function(api, driver)
    local made = api:create { vm = true }
    booting:wait()
    local status, body = put(api, made.id, { "192.0.2.7" })
    assert(status == 200 and not body.applied and body.applied_generation == -1)
    go:wake()
    task.timeout(60, function()
      while not policy(api, made.id).applied do
        task.sleep(0.01)
      end
    end)
    assert(#driver.set[made.id] == 1 and driver.set[made.id][1].allowlist[1] == "192.0.2.7")
  end, {
    hold = function()
      booting:wake()
      go:wait()
    end,
  })
end)

test("egress: the bwrap driver applies a policy", function()
  support.with_server(function(api)
    local made = api:running { vm = true, network_allowlist = json.array {} }
    local status, body = put(api, made.id, { "192.0.2.1" })
    assert(status == 200 and body.applied and body.generation == 2, json.encode(body))
    assert(put(api, made.id, nil, {}) == 200 and put(api, made.id, {}) == 200)
  end, { profile = "vm" })
end)

test("egress: without rules in the driver nothing changes, and the answer says why", function()
  local driver = ruled.open()
  driver.features = { network_rules = false }
  support.with_server(function(api)
    local made = api:running { vm = true }
    assert(put(api, made.id, nil, {}) == 200)
    for _, list in ipairs { {}, { "192.0.2.1" } } do
      local status, body = put(api, made.id, list)
      assert(status == 422 and body.detail:find("driver", 1, true), body.detail)
    end
    assert(policy(api, made.id).generation == 1)
  end, { profile = "vm", driver = driver })
end)

test("egress: our client sets and reads it", function()
  with_rules(function(api)
    local client <close> = sandbox.client {
      base_url = api.server.url, api_key = api.server.api_key,
    }
    local box <close> = client:create { name = "n", docker_image = "i", vm = true }
    api:await(box.id, "RUNNING")
    local found = client:set_network(box, { allow = { "192.0.2.0/24" } })
    assert(found.applied and found.allowlist[1] == "192.0.2.0/24")
    assert(client:get_network(box).generation == found.generation)
    assert(#client:set_network(box, { allow = "*" }).denylist == 0)
  end)
end)
