-- A text that was raised before, elsewhere, had the first traceback for ever.

local task = require("sbx.task")

local function note_of(fn, ...)
  local ok, err = pcall(task.scope, fn, ...)
  assert(not ok)
  return task.note_of(err)
end

local function fail_here()
  error("the same text", 0)
end

local function fail_there()
  error("the same text", 0)
end

-- Whether the error that is known was raised in `fn`.
local function is_raised_in(fn, known)
  local line = debug.getinfo(fn, "S").linedefined + 1
  local raised = known.traceback:match("^.-\n.-\n[^\n]*:(%d+): in")
  return tonumber(raised) == line
end

test("task: an error's traceback is its own, not that of an equal text before", function()
  assert(is_raised_in(fail_here, note_of(fail_here)))
  assert(is_raised_in(fail_there, note_of(fail_there)))
end)

test("task: nor that of an equal text in another task", function()
  for _, fail in ipairs({ fail_here, fail_there }) do
    local known = note_of(function(scope) scope:spawn(fail) end)
    assert(is_raised_in(fail, known), known.traceback)
    assert(#known.chain == 1, table.concat(known.chain, "\n"))
  end
end)

test("task: a scope that passes an error on keeps where it was raised", function()
  for _, fail in ipairs({ fail_here, fail_there }) do
    local known = note_of(function()
      task.scope(function() task.timeout(60, fail) end)
    end)
    assert(is_raised_in(fail, known), known.traceback)
  end
end)
