-- The verb `context`.

local config = require("sbx.sandbox.config")
local contexts = require("sbx.sandbox.contexts")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local log = require("sbx.log")
local sandbox = require("sbx.sandbox")

local verb = { uses = { client = true, output = true } }

local function usage(message, ...)
  errors.raise({ kind = "usage", message = message:format(...) })
end

local function quoted(name)
  return "'" .. log.clean(name, 100) .. "'"
end

local function find(document, name)
  local context = document.contexts[name]
  if context then return context end
  errors.raise({
    kind = "not_found",
    message = ("there is no context %s; `sbxlua context ls` shows them"):format(quoted(name)),
  })
end

-- Where the key of a context is; never the key.
local function key_place(context)
  if context.api_key then return "kept" end
  return context.key_file
end

---@async
local function list(_, out)
  local document = contexts.load()
  local rows = {}
  for name, context in pairs(document.contexts) do
    rows[#rows + 1] = {
      name = name, current = name == document.current, url = context.url,
      key = key_place(context), team_id = context.team_id,
    }
  end
  table.sort(rows, function(a, b) return a.name < b.name end)
  out:rows(rows, {
    { "CURRENT", function(row) return row.current and "*" or "" end },
    { "NAME", "name" }, { "URL", "url" }, { "KEY", "key" }, { "TEAM", "team_id", wide = true },
  }, "name")
  if #rows == 0 then out:note("no contexts; `sbxlua context add NAME --url URL` makes one") end
end

---@async
local function add(given, out)
  local name = given.name
  if not name:find("^[%w][%w._-]*$") or #name > 100 then
    usage("NAME: expected letters, digits, '.', '_' and '-', got %s", quoted(name))
  end
  local document = contexts.load()
  if document.contexts[name] and not given.replace then
    errors.raise({
      kind = "conflict",
      message = ("there is a context %s already; --replace makes it anew"):format(quoted(name)),
    })
  end
  local context = { url = given.url, team_id = given.team }
  if not context.url then usage("--url is missing: the address of the API") end
  config.check_url(context.url)
  if given.key and not given.keep_key then
    usage("--key-file is for one request; --key-path FILE makes the context read its key there,"
      .. " --keep-key keeps the key itself")
  end
  if given.key_path then context.key_file = fs.realpath(given.key_path) end
  if given.keep_key then
    context.api_key = given.key or context.key_file and contexts.read_key(context.key_file)
      or os.getenv("PRIME_API_KEY")
    context.key_file = nil
    if not context.api_key or context.api_key == "" then
      usage("--keep-key: there is no key: give --key-path or set PRIME_API_KEY")
    end
  end
  document.contexts[name] = context
  if given.use or not document.current then document.current = name end
  contexts.save(document)
  out:one({ name = name, current = document.current == name }, name)
end

---@async
local function use(given, out)
  local document = contexts.load()
  if given.name == "-" then
    document.current = nil
  else
    find(document, given.name)
    document.current = given.name
  end
  contexts.save(document)
  out:one({ name = document.current }, given.name)
end

---@async
local function remove(given, out)
  local document = contexts.load()
  find(document, given.name)
  document.contexts[given.name] = nil
  if document.current == given.name then document.current = nil end
  contexts.save(document)
  out:one({ name = given.name, deleted = true }, given.name)
end

---@async
local function show(given, out)
  local client <close> = sandbox.client()
  local settings = client.config
  local function team_origin()
    if not settings.team_id() then return "none" end
    if os.getenv("PRIME_TEAM_ID") and not contexts.command_line().context then
      return "PRIME_TEAM_ID"
    end
    local context, name = contexts.in_use()
    return context and context.team_id and "context " .. name or "~/.prime/config.json"
  end
  local rows = {
    { setting = "url", value = settings.base_url, origin = settings.origins.url },
    -- Whether there is one; never what it is.
    { setting = "key", value = settings.api_key ~= "" and "set" or "none",
      origin = settings.origins.key },
    { setting = "team", value = settings.team_id(), origin = team_origin() },
  }
  local columns = { { "SETTING", "setting" }, { "VALUE", "value" } }
  if given.show_origin then
    columns[3] = { "ORIGIN", "origin" }
  else
    for _, row in ipairs(rows) do
      row.origin = nil
    end
  end
  out:rows(rows, columns, "value")
end

local NAME = { name = "name", metavar = "NAME", complete = "context" }

verb.spec = {
  example = {
    "sbxlua context add home --url http://127.0.0.1:8701 --key-path ~/server.key",
    "sbxlua context use home",
    "sbxlua context show --show-origin",
  },
  notes = "A context is an address and where its key is. What counts is, in this order: --url,"
    .. " --key-file and --context; PRIME_API_BASE_URL and PRIME_API_KEY; the current context;"
    .. " ~/.prime/config.json. The key of a context goes to the context's own address only."
    .. " Contexts are in sbxlua/contexts.json of $XDG_CONFIG_HOME (~/.config), a file for its"
    .. " owner only.",
  commands = {
    { name = "ls", run = list, summary = "Shows the contexts." },
    {
      name = "add", run = add, summary = "Adds a context, the first one as the current one.",
      notes = "The address is that of --url.",
      arguments = { { name = "name", metavar = "NAME" } },
      options = {
        { name = "key-path", metavar = "FILE", complete = "file",
          help = "the file that holds its key; it is read at each use" },
        { name = "keep-key", type = "flag",
          help = "keep the key itself: that of --key-path, --key-file or PRIME_API_KEY" },
        { name = "team", metavar = "ID", help = "the team" },
        { name = "use", type = "flag", help = "make it the current one" },
        { name = "replace", type = "flag", help = "also where there is one of the name" },
      },
    },
    { name = "use", run = use, summary = "Makes a context the current one; `-`: none is.",
      arguments = { NAME } },
    { name = "rm", run = remove, summary = "Removes a context.", arguments = { NAME } },
    { name = "show", run = show, summary = "Shows what counts now.",
      options = {
        { name = "show-origin", type = "flag", help = "and where it comes from" },
      } },
  },
}

return verb
