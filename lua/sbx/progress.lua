-- How far things are: bars on a terminal, a line of the log now and then elsewhere.

local bars = require("sbx.progress.bar")
local check = require("sbx.check")
local host = require("sbx.core.host")
local run = require("sbx.run")

---@class sbx.progress
local progress = {}

local function is_set(name)
  local value = os.getenv(name) or ""
  return value ~= "" and value ~= "0" and value ~= "false"
end

-- Whether bars can be drawn: a terminal that knows how to, and a person before it.
local function can_draw()
  local term = os.getenv("TERM") or ""
  return host.isatty(2) and term ~= "" and term ~= "dumb" and not is_set("CI")
end

-- Whoever draws there has loaded it: then there are bars, too.
local draws = package.loaded["sbx.progress.screen"] ~= nil or can_draw()
local sink = require(draws and "sbx.progress.screen" or "sbx.progress.notes")
sink.watch()

local defers = false

---@class sbx.progress.Options
---@field label string
---@field total? number  absent: nobody knows
---@field unit? string   "bytes", or a word that stands behind the numbers

---Opens a bar. It ends with `done` or `fail`, as a `<close>` variable with its
---block, and at the latest with the program. Never waits.
---@param options sbx.progress.Options|string  or just its label
---@return sbx.Bar
function progress.bar(options)
  if type(options) == "string" then options = { label = options } end
  local opts = check.options(options, {
    label = check.none, total = check.none, unit = check.none,
  })
  check.string(opts.label, "label")
  if opts.total ~= nil then check.number(opts.total, "total", 0) end
  if opts.unit ~= nil then check.string(opts.unit, "unit") end
  if not defers then
    defers = true
    run.defer(sink.finish, "progress")
  end
  local bar = bars.new(opts, sink)
  sink.opened(bar)
  return bar
end

---Iterates over `list` with a bar that advances once each item is dealt with. Where
---a loop is left early, its bar ends some time later.
---@generic T
---@param list T[]
---@param label string
---@return fun(): integer?, T?
function progress.each(list, label)
  check.table(list, "list")
  local bar = progress.bar({ label = label, total = #list })
  local at = 0
  -- The iterator is all that holds this.
  local guard = setmetatable({}, { __gc = function() bar:finish("stopped") end })
  return function()
    if at > 0 then bar:advance() end
    if at >= #list then
      bar:done()
      guard = nil
      return nil
    end
    at = at + 1
    return at, guard and list[at]
  end
end

---Takes the bars away from the terminal until `show` is called as often: for what
---writes there past Lua, such as a child process.
progress.hide = sink.hide

progress.show = sink.show

return progress
