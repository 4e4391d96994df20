-- Messages for people, on stderr: readable on a terminal, `key=value` or JSON
-- elsewhere. Whatever a peer sent is made harmless first: no value can forge a
-- line, move the cursor, or show a secret.

local check = require("sbx.check")
local clean = require("sbx.log.clean")
local format = require("sbx.log.format")
local host = require("sbx.core.host")
local locals = require("sbx.task.locals")
local redact = require("sbx.log.redact")

---@class sbx.log
local log = {}

local ranks = { debug = 1, info = 2, warn = 3, error = 4, off = 5 }
local forms = { auto = true, terminal = true, text = true, json = true }

local INHERITED = {} -- the name of the fields among a task's inherited values

local threshold, form -- nil until the environment has been asked

local function write_stderr(line) io.stderr:write(line) end
local write = write_stderr

-- ------------------------------------------------------------------- settings

local function auto_form()
  return host.isatty(2) and "terminal" or "text"
end

local emit

-- Returns what the environment says, if it makes sense.
local function from_environment(name, known, expected)
  local given = os.getenv(name)
  if not given or given == "" then return nil end
  if known[given:lower()] then return given:lower() end
  return nil, ("%s: expected %s, got '%s'; it is ignored"):format(name, expected, given)
end

local LEVELS, FORMS = "debug, info, warn, error or off", "auto, terminal, text or json"

-- Once: a wrong setting is told once.
local function start()
  local level, level_problem = from_environment("SBXLUA_LOG", ranks, LEVELS)
  local wanted, form_problem = from_environment("SBXLUA_LOG_FORMAT", forms, FORMS)
  threshold = threshold or ranks[level or "info"]
  form = form or (wanted and wanted ~= "auto" and wanted) or auto_form()
  if level_problem then emit("warn", level_problem) end
  if form_problem then emit("warn", form_problem) end
end

---Sets the lowest level that is shown.
---@param level "debug"|"info"|"warn"|"error"|"off"
function log.set_level(level)
  if not ranks[level] then
    error("log level: expected " .. LEVELS .. ", got " .. tostring(level), 2)
  end
  threshold = ranks[level]
end

---Sets how lines look: for people, as key=value, as JSON, or by whether stderr is
---a terminal.
---@param wanted "auto"|"terminal"|"text"|"json"
function log.set_format(wanted)
  if not forms[wanted] then
    error("log format: expected " .. FORMS .. ", got " .. tostring(wanted), 2)
  end
  form = wanted == "auto" and auto_form() or wanted
end

---Sends lines to `fn` instead of stderr; nil puts stderr back.
---@param fn? fun(line: string)
function log.set_writer(fn)
  if fn ~= nil then check.fn(fn, "writer") end
  write = fn or write_stderr
end

---From now on no log line and no message shows `value`, wherever it occurs.
---Values shorter than six bytes would be found everywhere and are left alone.
---@param value string
function log.redact(value)
  redact.add(check.string(value, "redact"))
end

-- -------------------------------------------------------------------- messages

-- The tables of fields as one; what comes later counts.
local function merge(...)
  local merged
  for i = 1, select("#", ...) do
    local fields = select(i, ...)
    if fields then
      merged = merged or {}
      for name, value in next, fields do
        merged[name] = value
      end
    end
  end
  return merged
end

function emit(level, message, fields, own)
  if not threshold or not form then start() end
  if ranks[level] < threshold then return end
  if fields ~= nil and type(fields) ~= "table" then
    error("log." .. level .. ": fields: expected a table, got a " .. type(fields), 3)
  end
  local inherited = locals.get(INHERITED)
  if inherited or own then fields = merge(inherited, own, fields) end
  -- A closed stderr, or a writer of the script that fails, is no reason to fail.
  pcall(write, format.line(level, message, fields, form))
end

---Runs `fn(...)` and returns its results. All that is logged meanwhile, by it and
---by the tasks spawned in it, has these fields too.
---@async
---@param fields table<string, any>
---@param fn async fun(...): ...
---@param ... any  for `fn`
---@return any ...
function log.with(fields, fn, ...)
  check.table(fields, "fields")
  check.fn(fn, "with")
  return locals.with({ [INHERITED] = merge(locals.get(INHERITED), fields) }, fn, ...)
end

---@class sbx.Logger
---@field debug fun(message: any, fields?: table<string, any>)
---@field info fun(message: any, fields?: table<string, any>)
---@field warn fun(message: any, fields?: table<string, any>)
---@field error fun(message: any, fields?: table<string, any>)
---@field child fun(fields: table<string, any>): sbx.Logger

---A logger whose messages all have these fields; used like this module.
---@param fields table<string, any>
---@return sbx.Logger
function log.child(fields)
  local own = merge(check.table(fields, "fields")) or {}
  return {
    debug = function(message, more) emit("debug", message, more, own) end,
    info = function(message, more) emit("info", message, more, own) end,
    warn = function(message, more) emit("warn", message, more, own) end,
    error = function(message, more) emit("error", message, more, own) end,
    child = function(more) return log.child(merge(own, check.table(more, "fields"))) end,
  }
end

---Each writes one line to stderr: the message, then the fields by name. Secrets
---are not shown. They never wait and never raise on account of stderr.
---@param message any
---@param fields? table<string, any>
function log.debug(message, fields) emit("debug", message, fields) end

---@param message any
---@param fields? table<string, any>
function log.info(message, fields) emit("info", message, fields) end

---@param message any
---@param fields? table<string, any>
function log.warn(message, fields) emit("warn", message, fields) end

---@param message any
---@param fields? table<string, any>
function log.error(message, fields) emit("error", message, fields) end

-- ------------------------------------------------------------------------ text

---`text` without control characters, terminal escapes, broken UTF-8 or secrets, so
---that it can be shown on any terminal and stays on one line.
---@param text string
---@param most? integer  bytes to keep (default 2000)
---@return string
function log.clean(text, most)
  return clean.line(text, most)
end

---The line that a message becomes, with its newline.
---@param level string
---@param message any
---@param fields? table
---@param wanted "terminal"|"text"|"json"
---@return string
log.format = format.line

return log
