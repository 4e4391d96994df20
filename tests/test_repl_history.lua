-- The history: what is kept, for whom, and what is not.

local fs = require("sbx.fs")
local history = require("sbx.repl.history")
local log = require("sbx.log")
local task = require("sbx.task")
local support = dofile("tests/repl_support.lua")

---@async
local function enter(h, ...)
  for _, text in ipairs({ ... }) do
    if h:add(text) then h:save(text) end
  end
end

local function entries(h)
  local list = {}
  for back = h.count, 1, -1 do
    list[#list + 1] = h:entry(back)
  end
  return table.concat(list, "|")
end

test("repl history: entries of several lines come back, and only their owner reads them",
  function()
    local folder <close> = fs.tmpdir({ prefix = "history-" })
    local h = history.open(folder.path)
    enter(h, "one", "for i = 1, 2 do\n  print(i)\nend", "one", "one", "  ", " hidden", "漢\0\27")
    assert(fs.stat(h.path).mode == tonumber("600", 8))
    assert(entries(history.open(folder.path)) == "one|for i = 1, 2 do\n  print(i)\nend|one|漢\0\27")
    assert(h:entry(2) == " hidden" and h:entry(100) == nil)
    fs.chmod(h.path, tonumber("644", 8))
    history.open(folder.path)
    assert(fs.stat(h.path).mode == tonumber("600", 8))
  end)

test("repl history: what holds a key is not stored", function()
  local folder <close> = fs.tmpdir({ prefix = "history-" })
  local h = history.open(folder.path)
  log.redact("the-registered-secret")
  local secrets = {
    "x = 'the-registered-secret'", "client = sandbox.client { api_key = 'abcd1234' }",
    "k = 'sk-abcdefghijklmnop'", "h = { Authorization = 'Bearer abc.def' }",
    "http.get(u, { bearer = 'Bearer xyz' })", "t = 'ghp_0123456789abcdef'",
    "config['token'] = \"abcdef\"", "password = [[hunter2hunter2]]",
    "setenv('PRIME_API_KEY', 'pit_0123456')", "k = 'AKIA0123456789ABCDEF'",
    "u = 'https://user:pass@host/'",
  }
  enter(h, "harmless = 1", table.unpack(secrets))
  enter(h, "key = os.getenv('PRIME_API_KEY')", "for key, value in pairs(t) do end")
  local kept = entries(history.open(folder.path))
  assert(kept == "harmless = 1|key = os.getenv('PRIME_API_KEY')|for key, value in pairs(t) do end",
    kept)
  assert(h:entry(3) == secrets[#secrets], "it is not at hand in the same session")
end)

test("repl history: several write to one file at once, and it stays within bounds", function()
  local folder <close> = fs.tmpdir({ prefix = "history-" })
  local all = {}
  for i = 1, 4 do
    all[i] = function()
      local h = history.open(folder.path)
      for n = 1, 20 do
        enter(h, ("h%d n%d"):format(i, n))
      end
    end
  end
  task.gather(all)
  assert(history.open(folder.path).count == 80)
  -- Half a line, of somebody who died, and what is none.
  fs.append(folder.path .. "/history", "{}\nnonsense\n\"half")
  local h = history.open(folder.path)
  enter(h, "after")
  h = history.open(folder.path)
  assert(h.count == 81 and h:entry(1) == "after", h.count)
  local lines = {}
  for i = 1, 10100 do
    lines[i] = ('"e%d"\n'):format(i)
  end
  fs.append(folder.path .. "/history", table.concat(lines))
  h = history.open(folder.path)
  assert(h.count == 5000 and h:entry(1) == "e10100")
  local _, count = fs.read(h.path):gsub("\n", "")
  assert(count == 5000 and fs.stat(h.path).mode == tonumber("600", 8))
end)

test("repl history: without a folder it lasts as long as the prompt", function()
  local h = history.open(false)
  enter(h, "one")
  assert(h:entry(1) == "one" and h.path == nil)
end)

test("repl history: two prompts share one file, and the key of the run is in none", function()
  local key = "not-of-any-known-shape-1"
  support.with_prompt({ env = { PRIME_API_KEY = key } }, function(first)
    first:enter("x = 1")
    local shared = { PRIME_API_KEY = key, XDG_STATE_HOME = first.home .. "/state" }
    support.with_prompt({ env = shared }, function(second)
      second:type("\27[A")
      second:shows("x = 1")
      second:type("\21")
      second:enter("y = 2")
      second:enter("z = '" .. key .. "'")
      assert(second:leave().status == 0)
    end)
    first:enter("w = 3")
    assert(first:leave().status == 0)
    local path = first.home .. "/state/sbxlua/repl/history"
    assert(fs.read(path) == '"x = 1"\n"y = 2"\n"w = 3"\n', fs.read(path))
    assert(fs.stat(path).mode == tonumber("600", 8))
  end)
end)
