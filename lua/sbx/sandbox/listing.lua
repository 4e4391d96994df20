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
---@return sbx.sandbox.Page
function listing.page(client, options, page, patience)
  local call = {
    op = "list",
    method = "GET",
    path = "/sandbox" .. list_query(client, options, page),
    patience = patience,
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

local function checked_list_options(given)
  local options = check.options(given, list_defaults, -1)
  options.per_page = check.integer(options.per_page, "per_page", 1, 1000)
  if options.page ~= nil then options.page = check.integer(options.page, "page", 1) end
  for _, name in ipairs({ "status", "team_id", "user_id" }) do
    if options[name] ~= nil then check.string(options[name], name) end
  end
  for i, label in ipairs(check.table(options.labels or {}, "labels")) do
    check.string(label, ("labels[%d]"):format(i))
  end
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
  -- Pages shift while sandboxes come and go: one may show up twice.
  local all, seen = { has_next = false }, {}
  for page = 1, MAX_PAGES do
    local found = listing.page(self, opts, page)
    for _, item in ipairs(found) do
      if not seen[item.id] then
        seen[item.id] = true
        all[#all + 1] = item
      end
    end
    all.total = found.total
    if not found.has_next then break end
  end
  return all
end

listing.methods = methods

return listing
