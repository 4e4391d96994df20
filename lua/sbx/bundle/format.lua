-- What stands behind the end of a bundled program: a version, flags, then records of
-- kind, name and bytes, in an order that depends on nothing else. The mark inside the
-- binary has its place, size and digest.

local core = require("sbx.core.bundle")
local encoding = require("sbx.core.encoding")
local hash = require("sbx.core.hash")

local format = {}

local VERSION = "sbxlua bundle 1\n"
local RECORD = "<s1s4s4"
local KINDS = { script = true, module = true, file = true }

---@class sbx.bundle.Contents
---@field is_local boolean  it runs on sandboxes of its machine
---@field script { name: string, bytes: string }
---@field modules table<string, { name: string, bytes: string }>  by what `require` says
---@field files table<string, string>  bytes by path

local function sorted(map)
  local names = {}
  for name in pairs(map) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

---@param contents sbx.bundle.Contents
---@return string
function format.encode(contents)
  local parts = { VERSION, contents.is_local and "L" or "-" }
  local function add(kind, name, bytes)
    parts[#parts + 1] = RECORD:pack(kind, name, bytes)
  end
  add("script", contents.script.name, contents.script.bytes)
  for _, name in ipairs(sorted(contents.modules)) do
    local module = contents.modules[name]
    add("module", name .. "\0" .. module.name, module.bytes)
  end
  for _, name in ipairs(sorted(contents.files)) do
    add("file", name, contents.files[name])
  end
  return table.concat(parts)
end

local function decode(text)
  if text:sub(1, #VERSION) ~= VERSION then return nil, "it is of another version" end
  local contents = { modules = {}, files = {} }
  local at = #VERSION + 1
  local flag = text:sub(at, at)
  if flag ~= "L" and flag ~= "-" then return nil, "its flags are wrong" end
  contents.is_local = flag == "L"
  at = at + 1
  while at <= #text do
    local ok, kind, name, bytes, behind = pcall(string.unpack, RECORD, text, at)
    if not ok or not KINDS[kind] then return nil, "a record of it is broken" end
    at = behind
    if kind == "script" then
      contents.script = { name = name, bytes = bytes }
    elseif kind == "module" then
      local module, path = name:match("^(%Z+)%z(%Z+)$")
      if not module then return nil, "a record of it is broken" end
      contents.modules[module] = { name = path, bytes = bytes }
    else
      contents.files[name] = bytes
    end
  end
  if not contents.script then return nil, "it has no script" end
  return contents
end

---Reads what goes along with the running program: nil and the reason when it is not
---whole.
---@return sbx.bundle.Contents|nil contents, string|nil problem
function format.read()
  local mark, magic = core.mark()
  local text = core.payload()
  if not text then return nil, "its end is missing" end
  local digest = encoding.hex(mark:sub(magic + 17))
  if hash.digest("sha256", text) ~= digest then return nil, "its bytes have been changed" end
  return decode(text)
end

---The bytes of a program: those of a binary of sbxlua, then the payload. nil and the
---reason when `binary` is not one.
---@param binary string
---@param payload string
---@return string|nil program, string|nil problem
function format.join(binary, payload)
  local mark, magic = core.mark()
  local at = binary:find(mark:sub(1, magic), 1, true)
  if not at or binary:find(mark:sub(1, magic), at + 1, true) then
    return nil, "it has not just one mark for a payload"
  end
  local offset, size = string.unpack("<I8I8", binary, at + magic)
  if size > 0 then binary = binary:sub(1, offset) end -- it was one itself
  local own = string.pack("<I8I8", #binary, #payload)
    .. encoding.hex_decode(hash.digest("sha256", payload))
  return binary:sub(1, at + magic - 1) .. own .. binary:sub(at + magic + #own) .. payload
end

return format
