-- What the tests of fs.watch share: a folder, and events in words.

local fs = require("sbx.fs")
local process = require("sbx.process")
local task = require("sbx.task")

local support = {}

---Runs `fn(path)` with a fresh directory.
---@async
function support.with_dir(fn)
  local dir <close> = fs.tmpdir()
  return fn(dir.path)
end

-- An event in one word: what happened, and where below `dir`.
local function word(event, dir)
  if not event then return "end" end
  local function below(path)
    assert(path:sub(1, #dir) == dir, path)
    return path:sub(#dir + 2)
  end
  local text = event.kind .. ":" .. below(event.path) .. (event.is_dir and "/" or "")
  return event.from and text .. "<" .. below(event.from) or text
end

support.word = word

---The words of all events up to one that matches `last`.
---@async
function support.words_until(watch, dir, last)
  local words = {}
  task.timeout(60, function()
    repeat
      words[#words + 1] = word(watch:wait(), dir)
    until words[#words]:find(last)
  end)
  return table.concat(words, " ")
end

---Fills the kernel's queue.
---@async
function support.overflow(dir)
  local limit = tonumber(fs.read("/proc/sys/fs/inotify/max_queued_events"))
  if limit > 100000 then skip("the kernel keeps too many events here") end
  process.run({ "python3", "-c", [[
import os, sys
for i in range(int(sys.argv[2])):
    name = sys.argv[1] + "/x" + str(i % 2)
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    os.unlink(name)]], dir, tostring(limit) }, { check = true })
end

function support.equal(got, wanted)
  assert(got == wanted, ("got %s, not %s"):format(got, wanted))
end

return support
