-- Protocol Buffers (proto3) by schema, as far as the command session needs them.
--
-- A schema is a list of fields: { number, name, type, schema = of a message,
-- repeated = true, optional = true, oneof = "name" }. Types: string bytes uint32
-- sint32 bool message map (string to string). A field that is `optional`, or one of
-- a `oneof`, is written whenever it is not nil; any other one is left out when it
-- has its type's default.
--
-- What is decoded comes from a peer: lengths are checked, fields are counted, schemas
-- nest no deeper than they are written down, and broken input raises an error of kind
-- `api`.

local errors = require("sbx.errors")

local protobuf = {}

local MAX_FIELDS = 200000 -- of a message and all in it

local VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5

local wire_types = {
  string = LENGTH, bytes = LENGTH, message = LENGTH, map = LENGTH,
  uint32 = VARINT, sint32 = VARINT, bool = VARINT,
}

local defaults = { string = "", bytes = "", uint32 = 0, sint32 = 0, bool = false }

local ENTRY = { { 1, "key", "string", optional = true }, { 2, "value", "string", optional = true } }

-- ------------------------------------------------------------------ encoding

---@param n integer  taken as unsigned
---@return string
local function varint(n)
  local bytes = {}
  repeat
    local low = n & 0x7f
    n = n >> 7
    bytes[#bytes + 1] = string.char(n ~= 0 and low | 0x80 or low)
  until n == 0
  return table.concat(bytes)
end

local function zigzag(n)
  return (n << 1 ~ (n < 0 and -1 or 0)) & 0xffffffff
end

local function not_text(field)
  errors.raise({
    kind = "usage",
    op = "rpc",
    message = field[2] .. ": is not UTF-8, which is all that a virtual machine can be sent",
  })
end

local encode_fields

local function payload(field, value)
  local kind = field[3]
  if kind == "string" and not utf8.len(value) then not_text(field) end
  if kind == "string" or kind == "bytes" then return varint(#value) .. value end
  if kind == "bool" then return varint(value and 1 or 0) end
  if kind == "uint32" then return varint(value & 0xffffffff) end
  if kind == "sint32" then return varint(zigzag(value)) end
  local inner = encode_fields(field.schema, value)
  return varint(#inner) .. inner
end

local function put(parts, field, value)
  parts[#parts + 1] = varint(field[1] << 3 | wire_types[field[3]])
  parts[#parts + 1] = payload(field, value)
end

local function put_map(parts, field, map)
  local names = {}
  for name in pairs(map) do
    names[#names + 1] = name
  end
  table.sort(names)
  local as_message = { field[1], field[2], "message", schema = ENTRY }
  for _, name in ipairs(names) do
    put(parts, as_message, { key = name, value = map[name] })
  end
end

local function is_written(field, value)
  return field.optional or field.oneof or field[3] == "message" or value ~= defaults[field[3]]
end

function encode_fields(schema, message)
  local parts = {}
  for _, field in ipairs(schema) do
    local value = message[field[2]]
    if field[3] == "map" then
      put_map(parts, field, value or {})
    elseif field.repeated then
      for _, item in ipairs(value or {}) do
        put(parts, field, item)
      end
    elseif value ~= nil and is_written(field, value) then
      put(parts, field, value)
    end
  end
  return table.concat(parts)
end

---The bytes of a message. Fields that the schema does not have are ignored. Raises
---kind `usage` for text that is no UTF-8.
---@param schema table[]
---@param message table<string, any>
---@return string
function protobuf.encode(schema, message)
  return encode_fields(schema, message)
end

-- ------------------------------------------------------------------ decoding

local function broken(what)
  errors.raise({ kind = "api", code = "BAD_ANSWER", op = "rpc", message = "protobuf: " .. what })
end

-- Returns the number and the position behind it.
local function read_varint(bytes, at, last)
  local n, shift = 0, 0
  while true do
    if at > last then broken("it ends within a number") end
    local byte = bytes:byte(at)
    at = at + 1
    n = n | (byte & 0x7f) << shift
    if byte < 0x80 then return n, at end
    shift = shift + 7
    if shift > 63 then broken("a number is longer than 64 bits") end
  end
end

-- Returns the first and the last position of a piece that tells its length.
local function read_length(bytes, at, last)
  local size
  size, at = read_varint(bytes, at, last)
  if size < 0 or size > last - at + 1 then broken("a length goes beyond the end") end
  return at, at + size - 1
end

local function skip(bytes, at, last, wire_type)
  if wire_type == VARINT then
    local _, behind = read_varint(bytes, at, last)
    return behind
  end
  if wire_type == LENGTH then
    local _, final = read_length(bytes, at, last)
    return final + 1
  end
  local size = wire_type == FIXED64 and 8 or wire_type == FIXED32 and 4
  if not size then broken("unknown wire type " .. wire_type) end
  if size > last - at + 1 then broken("it ends within a number") end
  return at + size
end

local function to_value(kind, n)
  if kind == "bool" then return n ~= 0 end
  n = n & 0xffffffff
  if kind == "uint32" then return n end
  return (n >> 1) ~ -(n & 1)
end

local decode_fields

-- `before` is what the field holds already: a message that comes in several pieces
-- is put together.
local function read_piece(field, bytes, first, final, before)
  local kind = field[3]
  if kind == "message" then
    return decode_fields(field.schema, bytes, first, final, not field.repeated and before or {})
  end
  if kind == "map" then return decode_fields(ENTRY, bytes, first, final, {}) end
  local text = bytes:sub(first, final)
  if kind == "string" and not utf8.len(text) then broken(field[2] .. " is not UTF-8") end
  return text
end

local function store(schema, message, field, value)
  local name = field[2]
  if field[3] == "map" then
    message[name] = message[name] or {}
    message[name][value.key or ""] = value.value or ""
  elseif field.repeated then
    message[name] = message[name] or {}
    table.insert(message[name], value)
  else
    -- Of a oneof the last one counts.
    for _, other in ipairs(field.oneof and schema or {}) do
      if other.oneof == field.oneof then message[other[2]] = nil end
    end
    message[name] = value
  end
end

local by_number = setmetatable({}, { __mode = "k" }) -- schema → its fields

local function fields_by_number(schema)
  local fields = by_number[schema]
  if not fields then
    fields = {}
    for _, field in ipairs(schema) do
      fields[field[1]] = field
    end
    by_number[schema] = fields
  end
  return fields
end

local function read_key(bytes, at, last)
  local key, behind = read_varint(bytes, at, last)
  if key < 8 or key > 0xffffffff then broken("a field has an impossible number") end
  return key >> 3, key & 7, behind
end

local fields_left -- of the message that is being decoded

function decode_fields(schema, bytes, at, last, message)
  local fields = fields_by_number(schema)
  while at <= last do
    fields_left = fields_left - 1
    if fields_left < 0 then broken("a message has too many fields") end
    local number, wire_type
    number, wire_type, at = read_key(bytes, at, last)
    local field = fields[number]
    if not field or wire_types[field[3]] ~= wire_type then
      at = skip(bytes, at, last, wire_type)
    elseif wire_type == LENGTH then
      local first, final = read_length(bytes, at, last)
      store(schema, message, field, read_piece(field, bytes, first, final, message[field[2]]))
      at = final + 1
    else
      local n
      n, at = read_varint(bytes, at, last)
      store(schema, message, field, to_value(field[3], n))
    end
  end
  return message
end

---The message in `bytes`: fields that are absent are nil, also where proto3 would
---say their default; unknown ones are passed over. Raises kind `api` for bytes
---that are no message.
---@param schema table[]
---@param bytes string
---@return table<string, any>
function protobuf.decode(schema, bytes)
  fields_left = MAX_FIELDS
  return decode_fields(schema, bytes, 1, #bytes, {})
end

return protobuf
