-- Listing sandboxes, page by page.

local box = require("sbx.sandbox.box")
local check = require("sbx.check")
local failure = require("sbx.sandbox.failure")
local request = require("sbx.sandbox.request")
local wire = require("sbx.sandbox.wire")

local listing = {}

---@class sbx.sandbox.Client
local methods = {}

local PAGE = 100
local MAX_PAGES = 10000 -- a server that always says "more" must not trap us

---@class sbx.sandbox.ListOptions
---@field labels? string[]  only sandboxes that carry all of them
---@field status? string
---@field exclude_terminated? boolean
---@field team_id? string
---@field user_id? string
---@field page? integer  one page only, from 1 (default: all pages)
---@field per_page? integer  1 to 1000 (default 100)

local list_defaults = {
  labels = check.none,
  status = check.none,
  exclude_terminated = check.none,
  team_id = check.none,
  user_id = check.none,
  page = check.none,
  per_page = PAGE,
}

local function list_query(client, options, page)
  local function non_empty(value) return value ~= "" and value or nil end
  local pairs_list = {
    { "page", page },
    { "per_page", options.per_page },
    { "team_id", non_empty(options.team_id or client.config.team_id()) },
    { "user_id", non_empty(options.user_id or client.config.user_id()) },
    { "status", options.status },
    { "is_active", options.exclude_terminated },
  }
  for _, label in ipairs(options.labels or {}) do
    pairs_list[#pairs_list + 1] = { "labels", label }
  end
  return wire.query(pairs_list)
end

---@class sbx.sandbox.Page: sbx.sandbox.Box[]
---@field total integer|nil
---@field has_next boolean

---One page, as an array of sandboxes with `total` and `has_next`.
---@async
---@param client sbx.sandbox.Client
---@param options table  as completed by `list`
---@param page integer
---@param patience? number  seconds of being throttled
---@param even_closed? boolean  also when the client is closed
---@return sbx.sandbox.Page
function listing.page(client, options, page, patience, even_closed)
  local call = {
    op = "list",
    method = "GET",
    path = "/sandbox" .. list_query(client, options, page),
    patience = patience,
    even_closed = even_closed,
  }
  local answer = wire.call(client, call)
  local found = {}
  for i, item in ipairs(failure.field(call, answer, "sandboxes", "table")) do
    found[i] = box.from(client, call, type(item) == "table" and item or {})
  end
  local more = answer.has_next
  if more == nil then more = answer.hasNext end
  found.has_next = more == true and #found > 0
  found.total = math.tointeger(answer.total)
  return found
end

-- Where to read on after `page`. When sandboxes have gone since the page before, those
-- behind them have moved up, at most by so many places: what may have slipped onto
-- pages that were read already is read again.
local function next_page(number, page, before, size)
  local gone = before and page.total and before - page.total or 0
  if gone <= 0 or number == 1 then return page.has_next and number + 1 or nil end
  return math.max(1, number - (gone + size - 1) // size)
end

---An iterator over all sandboxes, each once, however the pages shift meanwhile.
---@param client sbx.sandbox.Client
---@param options table  as completed by `list`
---@param even_closed? boolean  also when the client is closed
---@return async fun(): sbx.sandbox.Box|nil
function listing.boxes(client, options, even_closed)
  local number, reads, seen = 1, 0, {}
  local page, at, total = {}, 0, nil
  return function()
    while true do
      at = at + 1
      local item = page[at]
      if item and not seen[item.id] then
        seen[item.id] = true
        return item
      elseif not item then
        if not number or reads == MAX_PAGES then return nil end
        page, at = listing.page(client, options, number, nil, even_closed), 0
        number = next_page(number, page, total, options.per_page)
        reads, total = reads + 1, page.total
      end
    end
  end
end

local function checked_list_options(given)
  local options = check.options(given, list_defaults, -1)
  options.per_page = check.integer(options.per_page, "per_page", 1, 1000)
  if options.page ~= nil then options.page = check.integer(options.page, "page", 1) end
  for _, name in ipairs({ "status", "team_id", "user_id" }) do
    if options[name] ~= nil then check.string(options[name], name) end
  end
  if options.exclude_terminated ~= nil then
    check.boolean(options.exclude_terminated, "exclude_terminated")
  end
  request.labels(options.labels)
  return options
end

---The sandboxes of the account or team, newest first: all of them, or one page
---when `page` is given. The result also has `total` and `has_next`.
---@async
---@param options? sbx.sandbox.ListOptions
---@return sbx.sandbox.Page
function methods:list(options)
  local opts = request.blame(checked_list_options, options)
  if opts.page then return listing.page(self, opts, opts.page) end
  local all = { has_next = false }
  for item in listing.boxes(self, opts) do
    all[#all + 1] = item
  end
  all.total = #all
  return all
end

local function checked_each_options(given)
  local options = checked_list_options(given)
  if options.page then error("page: `each` reads all pages; client:list reads one", 0) end
  return options
end

---An iterator over the sandboxes of the account or team, read page by page: `for box
---in client:each { labels = { "blue" } } do`. Each comes once, also when sandboxes
---are made and deleted meanwhile, by the loop itself for one.
---@param options? sbx.sandbox.ListOptions  without `page`
---@return async fun(): sbx.sandbox.Box|nil
function methods:each(options)
  return listing.boxes(self, (request.blame(checked_each_options, options)))
end

listing.methods = methods

return listing
