-- The verb `logs`.

local boxes = require("sbx.cli.boxes")
local errors = require("sbx.errors")
local host = require("sbx.core.host")
local json = require("sbx.json")
local log_text = require("sbx.cli.log_text")
local output = require("sbx.cli.output")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")
local width = require("sbx.cli.width")

local verb = {}

local FIRST_PAUSE, LONGEST_PAUSE = 0.25, 3 -- seconds between looks
local COLOURS = { 36, 33, 32, 35, 34, 31 }

verb.spec = {
  example = { "sbxlua logs web", "sbxlua logs -f --tail 20 web db" },
  notes = "Where several are asked for, each line begins with the sandbox's name. With -o json or"
    .. " jsonl each line is an object. --since goes by the time at the beginning of a line; where"
    .. " a server writes none, all lines are shown. -f ends when all of the sandboxes have.",
  arguments = { boxes.arguments },
  options = {
    { name = "follow", short = "f", type = "flag", help = "go on as lines come" },
    { name = "tail", type = "integer", min = 0, metavar = "N", also = { "--lines", "-n" },
      help = "the last N lines only" },
    { name = "since", type = "duration", help = "only lines of the last so much time" },
  },
}

-- What writes the lines of one sandbox.
local function writer(box, index, state)
  if state.out:is_json() then
    return function(line)
      local at, text = log_text.split(line)
      local row = { v = 1, sandbox_id = box.id, name = box.name, time = at, line = text }
      host.write(1, json.encode(row, { sort_keys = true }) .. "\n")
    end
  elseif not state.prefix then
    return function(line) host.write(1, log_text.safe(line, host.isatty(1)) .. "\n") end
  end
  local name = width.pad(width.cut(log_text.safe(tostring(box.name), true), state.prefix),
    state.prefix)
  local head = name .. " | "
  if output.colored(1) then
    head = ("\27[%dm%s\27[0m"):format(COLOURS[(index - 1) % #COLOURS + 1], head)
  end
  return function(line) host.write(1, head .. log_text.safe(line, host.isatty(1)) .. "\n") end
end

-- Whether the sandbox has ended: nothing will come any more.
---@async
local function has_ended(client, box)
  local now, err = errors.try(client.get, client, box.id)
  if now then return boxes.is_gone(now) end
  if err.status == 404 then return true end
  error(err, 0)
end

---@async
local function follow(client, box, given, write)
  local seen = client:get_logs(box)
  for _, line in ipairs(log_text.chosen(seen, given.tail, given.since)) do
    write(line)
  end
  local pause = FIRST_PAUSE
  while given.follow do
    local ended = has_ended(client, box)
    local ok, now = pcall(client.get_logs, client, box)
    if not ok then
      if ended and errors.is_error(now) and now.status == 404 then return end
      error(now, 0)
    end
    local fresh = log_text.fresh(seen, now)
    for _, line in ipairs(fresh) do
      write(line)
    end
    if ended then return end
    seen = now
    pause = #fresh > 0 and FIRST_PAUSE or math.min(pause * 1.5, LONGEST_PAUSE)
    task.sleep(pause)
  end
end

---@async
function verb.run(given, out)
  local client <close> = sandbox.client()
  local list = boxes.find(client, given.sandbox)
  local state = { out = out }
  if #list > 1 then
    state.prefix = 0
    for _, box in ipairs(list) do
      state.prefix = math.min(20, math.max(state.prefix, width.of(tostring(box.name))))
    end
  end
  task.scope(function(scope)
    for i, box in ipairs(list) do
      local write = writer(box, i, state)
      if given.follow then
        scope:spawn(follow, client, box, given, write)
      else
        follow(client, box, given, write)
      end
    end
  end)
end

return verb
