-- Parts of the local server that need no server.

local json = require("sbx.json")
local logs = require("sbx.server.logs")
local network = require("sbx.server.network")
local task = require("sbx.task")
local text = require("sbx.server.text")
local tokens = require("sbx.server.tokens")
local validate = require("sbx.server.validate")

test("server.text: valid text is left alone, broken characters become U+FFFD", function()
  for given, wanted in pairs {
    [""] = "", ["abc"] = "abc", ["€😀"] = "€😀", ["\0"] = "\0",
    ["\xff"] = "\u{FFFD}", ["\xe2\x82"] = "\u{FFFD}", ["\xe2\x82x"] = "\u{FFFD}x",
    ["\xc0\x80"] = "\u{FFFD}\u{FFFD}", ["\xed\xa0\x80"] = "\u{FFFD}\u{FFFD}\u{FFFD}",
    ["\xf4\x90\x80\x80"] = "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}",
    ["a\xf0\x9f\x98"] = "a\u{FFFD}", ["\x80\x80"] = "\u{FFFD}\u{FFFD}",
    ["\xe2\xe2\x82\xac"] = "\u{FFFD}€",
  } do
    assert(text.valid_utf8(given) == wanted, (given:gsub(".", function(c)
      return ("%02x "):format(c:byte())
    end)))
  end
end)

test("server.text: a megabyte of noise becomes text that JSON carries", function()
  local bytes = {}
  for i = 1, 200000 do
    bytes[i] = string.char(math.random(0, 255))
  end
  local fixed = text.valid_utf8(table.concat(bytes))
  assert(utf8.len(fixed) and json.decode(json.encode { fixed })[1] == fixed)
end)

test("server.text: a cut is moved to before the character it went through", function()
  local whole = "aé€😀"
  local ends = { 1, 1, 3, 3, 3, 6, 6, 6, 6, 10 }
  for cut = 1, #whole do
    assert(text.whole_characters(whole:sub(1, cut)) == whole:sub(1, ends[cut]), cut)
  end
  for _, same in ipairs { "", "\xBF", "\xBF\xBF\xBF\xBF", "a\xFF", "a\xBF" } do
    assert(text.whole_characters(same) == same)
  end
end)

test("server.text: lists are told from objects", function()
  assert(text.is_list {} and text.is_list { 1, 2 })
  assert(not text.is_list { a = 1 } and not text.is_list { 1, a = 1 } and not text.is_list(1))
end)

test("server.logs: the newest lines are kept within the limit", function()
  local log = logs.new(200)
  assert(log:text() == "")
  for i = 1, 50 do
    log:add("line " .. i .. "\nsecond")
  end
  local kept = log:text()
  assert(kept:find("line 50\n", 1, true) and not kept:find("line 1\n", 1, true))
  assert(kept:find("older lines dropped", 1, true) and #kept < 300)
end)

test("server.tokens: unknown and expired tokens open nothing", function()
  local all = tokens.new(1000)
  local token, expires_at = all:issue("sbx-1")
  assert(all:sandbox_of(token) == "sbx-1" and expires_at:find("Z$"))
  assert(all:issue("sbx-1") ~= token)
  assert(all:sandbox_of("tk_other") == nil and all:sandbox_of(nil) == nil)
  local old = tokens.new(0.01)
  local short = old:issue("sbx-2")
  task.sleep(0.02)
  local id, problem = old:sandbox_of(short)
  assert(id == nil and problem == "Token expired")
end)

test("server.network: two generations, one answer", function()
  assert(network.decide(nil, nil, nil) == true)
  assert(network.decide(false, nil, nil) == false)
  assert(network.decide(nil, {}, nil) == false)
  assert(network.decide(true, nil, {}) == true)
  assert(select(2, network.decide(false, nil, {})) == "network_access")
  assert(select(2, network.decide(nil, {}, {})) == "network_allowlist")
  assert(select(2, network.decide(nil, { "a.b" }, nil)) == "network_allowlist")
  assert(select(2, network.decide(nil, nil, "x")) == "network_denylist")
end)

test("server.validate: defaults are filled in and unknown members ignored", function()
  local spec = validate.create {
    name = "a", docker_image = "b", team_id = "", region = json.null, unheard = { 1 },
  }
  assert(spec.cpu_cores == 1 and spec.timeout_minutes == 60 and spec.network == true)
  assert(spec.team_id == nil and spec.region == nil and spec.unheard == nil)
  assert(#spec.labels == 0 and spec.start_command == validate.IDLE_COMMAND)
end)

test("server.validate: a faulty secret is not shown", function()
  local _, faults = validate.create {
    name = "a", docker_image = "b", secrets = { KEY = "hush\0hush" },
  }
  assert(faults[1].param == "secrets" and not json.encode(faults):find("hush", 1, true))
end)
