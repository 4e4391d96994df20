-- What a request sends: one of several kinds of body, in the form that the core
-- takes. An iterator becomes a feed, which upload.lua serves.

local headers = require("sbx.http.headers")
local json = require("sbx.json")
local options = require("sbx.http.options")

---@class sbx.http.body
local body = {}

---@class sbx.http.Feed
---@field part integer   0: the body; else the number of the part
---@field read async fun(): string|nil
---@field size integer|nil

local function form_byte(char)
  return char == " " and "+" or ("%%%02X"):format(char:byte())
end

-- As a browser sends a form (WHATWG URL, application/x-www-form-urlencoded).
local function form_escape(text)
  return (text:gsub("[^%w*%-._]", form_byte))
end

local function form_pair(name, value, level)
  local kind = type(value)
  if kind ~= "string" and kind ~= "number" and kind ~= "boolean" then
    error(("form: %s: expected a string, got a %s"):format(name, kind), level + 1)
  end
  return form_escape(name) .. "=" .. form_escape(tostring(value))
end

local function encode_form(form, level)
  local names, written = {}, {}
  for name in pairs(form) do
    if type(name) ~= "string" then
      error("form: expected names, got a " .. type(name), level + 1)
    end
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local values = type(form[name]) == "table" and form[name] or { form[name] }
    for _, value in ipairs(values) do
      written[#written + 1] = form_pair(name, value, level + 1)
    end
  end
  return table.concat(written, "&")
end

local function check_part(part, level)
  if type(part) ~= "table" then
    error("multipart: expected tables, got a " .. type(part), level + 1)
  end
  options.check(part, options.part, level + 1)
  if not part.name or (part.data == nil) == (part.path == nil) then
    error("multipart: a part needs a name, and either data or path", level + 1)
  end
  if part.size and type(part.data) ~= "function" then
    error("multipart: size is for a part whose data is a function", level + 1)
  end
end

-- Copies the parts, so that the caller may change its tables meanwhile.
local function copy_parts(wire, parts, level)
  if #parts == 0 or #parts > 100 then
    error("multipart: expected 1 to 100 parts", level + 1)
  end
  local copies = {}
  for i, part in ipairs(parts) do
    check_part(part, level + 1)
    local filename = part.filename or (part.path and part.path:match("[^/]*$"))
    local copy = {
      name = part.name,
      filename = filename,
      type = part.type or (filename and "application/octet-stream") or nil,
      data = part.data,
      path = part.path,
    }
    if type(part.data) == "function" then
      copy.data, copy.feed = nil, part.size or -1
      wire.feeds = wire.feeds or {}
      table.insert(wire.feeds, { part = i, read = part.data, size = part.size })
    end
    copies[i] = copy
  end
  return copies
end

local function set_type(wire, typed, name, level)
  if not typed then headers.append(wire.headers, "Content-Type", name, level) end
end

---Puts the body of a request on the wire table, with the header that says what
---it is, unless the caller has set one.
---@param wire table
---@param given table  the options
---@param typed boolean  the caller has set Content-Type
---@param level integer
function body.set(wire, given, typed, level)
  local bodies = (given.body and 1 or 0) + (given.body_path and 1 or 0) +
    (given.json ~= nil and 1 or 0) + (given.form and 1 or 0) + (given.multipart and 1 or 0)
  if bodies > 1 then
    error("expected at most one of body, body_path, form, json and multipart", level + 1)
  end
  local fed = type(given.body) == "function"
  if given.content_length and not fed then
    error("content_length: is for a body that is a function", level + 1)
  end
  wire.body_path = given.body_path
  if fed then
    wire.feed = given.content_length or -1
    wire.feeds = { { part = 0, read = given.body, size = given.content_length } }
  elseif given.json ~= nil then
    wire.body = json.encode(given.json)
    set_type(wire, typed, "application/json", level + 1)
  elseif given.form then
    wire.body = encode_form(given.form, level + 1)
    set_type(wire, typed, "application/x-www-form-urlencoded", level + 1)
  elseif given.multipart then
    if typed then error("headers: content-type follows from multipart", level + 1) end
    wire.parts = copy_parts(wire, given.multipart, level + 1)
  else
    wire.body = given.body
  end
end

---Whether the request sends anything.
---@param wire table
---@return boolean
function body.given(wire)
  return (wire.body or wire.body_path or wire.parts or wire.feed) ~= nil
end

return body
