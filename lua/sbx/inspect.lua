-- Values as text for people, whatever they are: strings quoted, tables with what is
-- in them, cycles named, everything bounded and harmless to a terminal.

local check = require("sbx.check")
local describe = require("sbx.inspect.describe")
local host = require("sbx.core.host")
local layout = require("sbx.inspect.layout")

---@class sbx.inspect
---@overload fun(value: any, options?: sbx.inspect.Options): string
local inspect = {}

---@class sbx.inspect.Options
---@field depth? integer      levels of tables, 0 to 100 (default 6)
---@field width? integer      cells: what fits stays on one line (default 80)
---@field max_items? integer  shown of each table (default 100)
---@field colour? boolean     (default false)
---@field sort? boolean       keys in order (default true)
---@field reveal? boolean     show secrets too (default false)
---@field brief? boolean      sandboxes, children and answers in a line (default false)

local DEFAULTS = {
  depth = 6, width = 80, max_items = 100, colour = false, sort = true, reveal = false,
  brief = false,
}

local function to_text(_, value, options)
  local opts = check.options(options, DEFAULTS)
  check.integer(opts.depth, "depth", 0, 100)
  check.integer(opts.width, "width", 1)
  check.integer(opts.max_items, "max_items", 1, 1000000)
  for _, name in ipairs({ "colour", "sort", "reveal", "brief" }) do
    check.boolean(opts[name], name)
  end
  return layout.text(describe.value(value, opts), opts.width, opts.colour)
end

---Whether the terminal on this descriptor shows colours and wants them.
---@param fd integer
---@return boolean
function inspect.has_colour(fd)
  local no_colour = os.getenv("NO_COLOR") or ""
  return no_colour == "" and os.getenv("TERM") ~= "dumb" and host.isatty(fd)
end

---Prints each value on stdout, in colour and as wide as a terminal if it is one.
---Returns the values.
---@async
---@param ... any
---@return any ...
function inspect.print(...)
  local options = { width = host.columns(1) or DEFAULTS.width, colour = inspect.has_colour(1) }
  for i = 1, select("#", ...) do
    print(to_text(nil, (select(i, ...)), options))
  end
  return ...
end

return setmetatable(inspect, { __call = to_text })
