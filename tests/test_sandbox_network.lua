-- Egress policies: the rules for what may be asked, waiting until it is applied, and
-- servers that take something else.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local expect = dofile(here .. "expect.lua")
local json = require("sbx.json")
local local_server = require("sbx.local_server")
local run = require("sbx.run")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local function with_vm(handlers, fn)
  local server <close> = api.start(handlers)
  local client <close> = server:client()
  server:add("vm-1", { vm = true })
  fn(client:get("vm-1"), server, client)
end

local function policy(answer)
  return {
    policy = answer.policy or { allowlist = json.null, denylist = json.array({}) },
    generation = answer.generation or 2, applied_generation = answer.applied_generation or 2,
    applied = answer.applied ~= false,
  }
end

test("network: the policy of a virtual machine", function()
  with_vm({}, function(box, _, client)
    local found = box:get_network()
    assert(found.allowlist == nil and #found.denylist == 0 and found.policy == nil)
    assert(found.generation == 1 and found.applied_generation == 1 and found.applied == true)
    assert(client:get_network("vm-1").generation == 1)
  end)
end)

test("network: a new policy is applied when set_network returns", function()
  with_vm({}, function(box, server)
    local found = box:set_network({ allow = { " pkg.example ", "*.mirror.example", "10.1.2.3/8" } })
    assert(found.applied_generation == found.generation and found.applied)
    assert(server:count("put_egress") == 1 and server:count("get_egress") >= 1)
    assert(table.concat(found.allowlist, " ") == "pkg.example *.mirror.example 10.1.2.3/8")
    local looks = server:count("get_egress")
    local pending = box:set_network({ deny = "192.0.2.1" }, { wait = false })
    assert(pending.applied_generation < pending.generation and not pending.applied)
    assert(pending.denylist[1] == "192.0.2.1" and server:count("get_egress") == looks)
  end)
end)

test("network: everything and nothing, as they go over the wire", function()
  with_vm({}, function(box, server)
    local function sent(rules)
      box:set_network(rules, { wait = false })
      return json.encode(server.calls[#server.calls].body, { sort_keys = true })
    end
    assert(sent({ allow = "*" }) == '{"allowlist":null,"denylist":[]}')
    assert(sent({ allow = { " * " } }) == '{"allowlist":null,"denylist":[]}')
    assert(sent({ deny = "*" }) == '{"allowlist":[],"denylist":null}')
    assert(sent({ deny = { "a.b" } }) == '{"allowlist":null,"denylist":["a.b"]}')
  end)
end)

local refused = {
  "", " ", "::1", "fe80::1/64", "2001:db8::", "*", "a*.b", "*.*.b", "*a.b", "a.*", "*.",
  "http://a.b", "u@a.b", "a.b:80", "a.b?x", "a.b/c", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/08",
  "10.0.0/8", "/8", "1.2.3.256", "1.2.3", "01.2.3.4", "7", "a..b", ".a", "a.", "a b", "a\nb",
  "a\0b", "bücher.example", ("a"):rep(64) .. ".b", ("a."):rep(127) .. "ab",
}

test("network: entries that are no rule are named, and nothing is sent", function()
  with_vm({}, function(box, server, client)
    local before = #server.calls
    for _, entry in ipairs(refused) do
      expect.misuse("deny[2]", box.set_network, box, { deny = { "ok.example", entry } })
      expect.misuse("network_allowlist[1]", client.create, client, {
        name = "a", docker_image = "b", vm = true, network_allowlist = { entry },
      })
    end
    expect.misuse("allow[1]", box.set_network, box, { allow = { 7 } })
    expect.misuse("allow[1]: \"*\" can only stand alone", box.set_network, box, {
      allow = { "*", "a.b" },
    })
    expect.misuse("either allow or deny", box.set_network, box, {})
    expect.misuse("either allow or deny", box.set_network, box, { allow = "*", deny = "*" })
    expect.misuse("allow: is empty", box.set_network, box, { allow = {} })
    expect.misuse("deny: expected a table", box.set_network, box, { deny = 7 })
    expect.misuse("deny: expected a list", box.set_network, box, { deny = { "a", x = "b" } })
    expect.misuse("unknown option 'alow'", box.set_network, box, { alow = "*" })
    expect.misuse("timeout", box.set_network, box, { allow = "*" }, { timeout = -1 })
    local many = {}
    for i = 1, 257 do many[i] = "host-" .. i end
    expect.misuse("deny: has 257 entries", box.set_network, box, { deny = many })
    assert(#server.calls == before)
    many[257] = nil
    box:set_network({ deny = many }, { wait = false })
    assert(#server.calls[#server.calls].body.denylist == 256)
  end)
end)

test("network: create takes the same lists, and an empty one", function()
  local server <close> = api.start()
  local client <close> = server:client()
  client:create({
    name = "a", docker_image = "b", vm = true, network_denylist = { " 10.0.0.0/8", "a_b.example" },
  })
  local sent = server.calls[#server.calls].body
  assert(sent.network_denylist[1] == "10.0.0.0/8" and sent.network_denylist[2] == "a_b.example")
  client:create({ name = "a", docker_image = "b", vm = true, network_allowlist = {} })
  assert(#server.calls[#server.calls].body.network_allowlist == 0)
end)

test("network: a sandbox whose list the server did not take is deleted", function()
  local answer
  local server <close> = api.start({
    create = function(call, peer)
      local status, made = api.usual.create(peer, call)
      made.networkAllowlist, made.networkDenylist = answer.allow, answer.deny
      return status, made
    end,
  })
  local client <close> = server:client()
  local function fails(option, list, allow, deny)
    answer = { allow = allow, deny = deny }
    local err = expect.code("NETWORK_NOT_ISOLATED", client.create, client, {
      name = "a", docker_image = "b", vm = true, [option] = list,
    })
    assert(err.message:find(option, 1, true) and next(server.sandboxes) == nil, err.message)
  end
  fails("network_allowlist", { "a.b" })
  fails("network_allowlist", { "a.b" }, json.array({}))
  fails("network_allowlist", { "a.b" }, "a.b")
  fails("network_allowlist", { "a.b" }, { "c.d" })
  fails("network_allowlist", {}, json.object({}))
  fails("network_denylist", { "a.b", "10.0.0.0/8" }, nil, { "a.b", "10.0.0.0/9" })
  fails("network_allowlist", {}, { "a.b" })
  fails("network_denylist", { "a.b" }, nil, json.array({}))
  answer = { allow = json.null, deny = json.null }
  client:create({ name = "a", docker_image = "b", vm = true, network_denylist = {} })
end)

test("network: containers are refused before anything is sent", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local box = client:create({ name = "a", docker_image = "b" })
  local before = #server.calls
  for _, call in ipairs({
    function() box:get_network() end, function() box:set_network({ deny = "*" }) end,
  }) do
    local err = expect.failure(call)
    assert(err.kind == "unsupported" and err.message:find("network_access = false", 1, true))
  end
  assert(#server.calls == before)
end)

test("network: what is not applied in time is said, and waiting can be cancelled", function()
  with_vm({ get_egress = function() return 200, policy({ applied_generation = -1 }) end },
    function(box, server)
      server.handlers.put_egress = function()
        return 202, policy({ applied_generation = -1, applied = false })
      end
      local err = expect.failure(box.set_network, box, { allow = "*" }, { timeout = 2 })
      assert(err.kind == "timeout" and err.op == "set_network" and err.timeout == 2)
      assert(server:count("get_egress") >= 1 and server:count("get_egress") < 30)
      assert(not task.move_on(0.2, box.set_network, box, { allow = "*" }))
    end)
end)

test("network: neither generation nor flag alone means applied; a failure is unknown", function()
  local looks = {}
  with_vm({
    put_egress = function()
      return 202, policy({ generation = 5, applied_generation = 5, applied = false })
    end,
    get_egress = function(call) return table.unpack(looks[call.n] or looks[#looks]) end,
  }, function(box, server)
    local function look(applied_generation, applied)
      return { 200, policy({
        generation = 5, applied_generation = applied_generation, applied = applied,
      }) }
    end
    looks = { look(5, false), look(4, true), look(5, true) }
    box:set_network({ allow = "*" })
    assert(server:count("get_egress") == 3)
    looks = { { 500, { detail = "broken" } } }
    local err = expect.failure(box.set_network, box, { allow = "*" })
    assert(err.status == 500 and err.outcome == "unknown")
  end)
end)

test("network: a policy that is not the one asked for is never taken for it", function()
  local answer
  with_vm({ put_egress = function() return 200, policy({ policy = answer }) end }, function(box)
    local none, empty = json.null, json.array({})
    local function fails(rules, allowlist, denylist)
      answer = { allowlist = allowlist, denylist = denylist }
      local err = expect.code("NETWORK_NOT_SET", box.set_network, box, rules)
      assert(err.kind == "api" and err.sandbox_id == "vm-1")
    end
    fails({ deny = "*" }, none, empty)
    fails({ deny = "*" }, none, none)
    fails({ deny = "*" }, { "a.b" }, none)
    fails({ allow = { "a.b" } }, none, none)
    fails({ allow = { "a.b" } }, empty, none)
    fails({ deny = { "a.b" } }, none, empty)
    fails({ deny = { "a.b" } }, none, none)
    fails({ allow = "*" }, empty, none)
    fails({ allow = { "a.b" } }, { "c.d" }, none)
    fails({ deny = { "a.b", "1.2.3.4" } }, none, { "a.b", "1.2.3.5/32" })
    fails({ deny = { "0.0.0.0/0" } }, none, { "0.0.0.0/1" })
    fails({ deny = { "1.2.3.4" } }, none, { "1.2.3.4/33" })
    local endless = json.array({})
    for i = 1, 200000 do endless[i] = "10.0.0." .. i % 256 end
    fails({ deny = { "10.0.0.7" } }, none, endless) -- more than one answer may have
    for _, written in ipairs({
      { "A.B.", "10.0.0.0/8", "1.2.3.4/32" }, { "0.0.0.0/0", "a.b", "own.example" },
    }) do
      answer = { allowlist = none, denylist = written }
      box:set_network({ deny = { "a.b", "10.9.9.9/8", "1.2.3.4" } })
    end
    answer = { allowlist = none, denylist = none }
    assert(box:set_network({ allow = "*" }).denylist == nil)
  end)
end)

test("network: hostile answers are named by their field", function()
  local answer
  with_vm({ get_egress = function() return 200, answer end }, function(box)
    local function fails(text, given)
      answer = given
      local err = expect.code("BAD_ANSWER", box.get_network, box)
      assert(err.message:find(text, 1, true), err.message)
    end
    local function but(name, value)
      local all = policy({})
      all[name] = value
      return all
    end
    fails("'policy' is missing", but("policy", nil))
    fails("'policy' is not a table", but("policy", "all"))
    fails("'generation' is not an integer", but("generation", 1.5))
    fails("'applied_generation' is not an integer", but("applied_generation", "1"))
    fails("'applied' is missing", but("applied", json.null))
    fails("'policy.allowlist' is not a list", but("policy", { allowlist = "a.b" }))
    fails("'policy.allowlist' is not a list", but("policy", { allowlist = { x = 1 } }))
    fails("'policy.allowlist' is not a list", but("policy", { allowlist = json.object({}) }))
    fails("'policy.denylist' is not a list of strings", but("policy", { denylist = { 1 } }))
    fails("'policy' has both lists", but("policy", { allowlist = { "a" }, denylist = { "b" } }))
  end)
end)

test("network: the local server's sandboxes are containers, and say so", function()
  local server = local_server.start({ stderr = function() end })
  local ok, err = pcall(function()
    local client <close> = sandbox.client({ api_key = server.api_key, base_url = server.url })
    local box <close> = client:create({
      name = "net", docker_image = "python:3.11-slim", network_access = false,
    })
    assert(expect.failure(box.get_network, box).kind == "unsupported")
    assert(expect.failure(box.set_network, box, { deny = "*" }).kind == "unsupported")
  end)
  local failures = run.finish()
  server.stop()
  if not ok then error(err, 0) end
  assert(#failures == 0, tostring(failures[1]))
end)
