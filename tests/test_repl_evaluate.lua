-- Inputs as programs: locals that stay, expressions, errors.

local evaluate = require("sbx.repl.evaluate")
local task = require("sbx.task")

-- Runs inputs one after the other; the results of the last one.
local function run(session, ...)
  local results
  for _, text in ipairs({ ... }) do
    local input = assert(session:compile(text, "=in[1]"))
    results = table.pack(xpcall(input.run, function(err)
      input.salvage()
      return err
    end))
  end
  return table.unpack(results, 2, results.n)
end

test("repl evaluate: locals stay, and closures share them", function()
  local s = evaluate.new()
  assert(run(s, "local x = 5", "x * 2") == 10)
  assert(run(s, "local n = 0 function _G.bump() n = n + 1 end", "bump() bump()", "n") == 2)
  assert(run(s, "n = 10", "bump()", "n") == 11)
  assert(rawget(_G, "n") == nil and rawget(_G, "x") == nil)
  run(s, "local function fact(i) return i < 2 and 1 or i * fact(i - 1) end")
  assert(run(s, "fact(5)") == 120)
  assert(run(s, "local x = x + 1", "x") == 6)
  assert(run(s, "local a, b = 1 -- a comment", "a, b") == 1)
  assert(run(s, "local c <const> = 7", "c") == 7)
  assert(run(s, "local d = 3 return d + 1") == 4 and run(s, "d") == 3)
  assert(run(s, "do local hidden = 1 end", "hidden") == nil)
  _G.bump = nil
end)

test("repl evaluate: expressions give values, statements none", function()
  local s = evaluate.new()
  assert(select("#", run(s, "x1 = 1")) == 0)
  assert(select("#", run(s, "nil, nil")) == 2)
  assert(select("#", run(s, "(function() end)()")) == 0)
  assert(run(s, "'a' .. 'b'") == "ab")
  assert(run(s, "=6 * 7") == 42 and run(s, " = nil or 5") == 5)
  assert(evaluate.is_unfinished("= {") and not evaluate.is_unfinished("= 1"))
  assert(not evaluate.new():compile("== 1", "=in[1]"))
  _G.x1 = nil
end)

test("repl evaluate: an input that fails leaves its locals", function()
  local s = evaluate.new()
  run(s, "local kept = 'here' local other = error('no') local never = 1")
  assert(run(s, "kept") == "here" and run(s, "never") == nil)
end)

test("repl evaluate: no text ends the function that it is put into", function()
  local s = evaluate.new()
  run(s, "local x = 1")
  local input, problem = s:compile("x end evil() function f()", "=in[2]")
  assert(not input and problem:find("^in%[2%]:1: "), problem)
  local _, other = s:compile("local y = \n\nx x", "=in[3]")
  assert(other:find("^in%[3%]:3: "), other)
  assert(select(2, pcall(s:compile("x()", "=in[4]").run)):find("^in%[4%]:1: .*'x'"))
end)

test("repl evaluate: what is held as <close> ends with the session, the newest first", function()
  local s = evaluate.new()
  local closed = {}
  function _G.closing(name)
    return setmetatable({}, { __close = function() closed[#closed + 1] = name end })
  end
  run(s, "local a <close> = closing('a')", "local b <close> = closing('b')")
  assert(#closed == 0)
  assert(#s:close() == 0 and table.concat(closed) == "ba")
  local _, problem = pcall(s:compile("local c <close> = 42", "=in[1]").run)
  assert(problem == "variable 'c' got a non-closable value", problem)
  _G.closing = nil
end)

test("repl evaluate: a scope that is opened ends with its input", function()
  local s = evaluate.new()
  _G.task = task
  task.scope(function()
    run(s, "local scope <close> = task.open_scope() child = scope:spawn(task.sleep, 0)")
    assert(_G.child.status == "done" and not s:value("scope"):is_open())
  end)
  _G.task, _G.child = nil, nil
end)

test("repl evaluate: many locals, and one name twice", function()
  local s = evaluate.new()
  local names = {}
  for i = 1, 140 do
    names[i] = "v" .. i
  end
  run(s, "local " .. table.concat(names, ",") .. " = 1, 2")
  assert(run(s, "v2") == 2 and run(s, "v140") == nil)
  assert(run(s, "local z = 1 local z = 2", "z") == 2)
end)
