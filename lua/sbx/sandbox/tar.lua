-- The tar format: what a header of 512 bytes says, read with suspicion and written
-- the way that GNU tar, busybox, bsdtar and Python's tarfile all understand.

local errors = require("sbx.errors")

local tar = {}

local BLOCK = 512
local ZEROS = ("\0"):rep(BLOCK)
local FIELDS = "c100c8c8c8c12c12c8c1c100c6c2c32c32c8c8c155"
local SUM_AT, SUM_SIZE = 149, 8 -- where the checksum stands
local MOST = 1 << 62 -- bytes; more is no size

tar.block = BLOCK

---Raises kind `archive`: what a peer sent is none that we take.
---@param code string
---@param why string
function tar.refuse(code, why)
  errors.raise({ kind = "archive", code = code, op = "unpack", message = "unpack: " .. why })
end

-- --------------------------------------------------------------------- reading

-- A number in octal digits, or as GNU writes large and negative ones: in base 256
-- behind a first byte of 0x80 or 0xff.
local function number(field, name)
  local first = field:byte()
  if first < 0x80 then
    local digits = field:match("^[ \0]*([0-7]*)[ \0]*$")
    if not digits then tar.refuse("BAD_HEADER", name .. ": not a number") end
    return digits == "" and 0 or tonumber(digits, 8)
  end
  -- Of the bytes behind it those before the last eight only carry the sign on.
  local more = math.max(0, #field - 9)
  local carried = field:sub(2, 1 + more) == (first == 0x80 and "\0" or "\xff"):rep(more)
  local value = string.unpack(">i" .. #field - 1 - more, field, 2 + more)
  if not carried or (first == 0x80) ~= (value >= 0) or (first ~= 0x80 and first ~= 0xff) then
    tar.refuse("BAD_HEADER", name .. ": the number is too large")
  end
  return value
end

local function checksum(block)
  local sum = 32 * SUM_SIZE -- its own field counts as blanks
  for at = 1, BLOCK, 64 do
    local bytes = { block:byte(at, at + 63) }
    for i = 1, 64 do
      sum = sum + bytes[i]
    end
  end
  for _, byte in ipairs({ block:byte(SUM_AT, SUM_AT + SUM_SIZE - 1) }) do
    sum = sum - byte
  end
  return sum
end

local function text(field)
  return field:match("^[^\0]*")
end

---@class sbx.sandbox.TarHeader
---@field flag string  one byte: the type as the format has it
---@field path string
---@field link string
---@field size integer
---@field mode integer
---@field mtime number

---What a header says; nil for the block of zeros that ends an archive.
---@param block string  of 512 bytes
---@return sbx.sandbox.TarHeader|nil
function tar.parse(block)
  if block == ZEROS then return nil end
  local path, mode, _, _, size, mtime, sum, flag, link, magic, _, _, _, _, _, prefix =
    string.unpack(FIELDS, block)
  if number(sum, "checksum") ~= checksum(block) then
    tar.refuse("BAD_HEADER", "the archive is damaged, or is none")
  end
  path = text(path)
  -- Only in a POSIX header; GNU keeps other things there.
  if magic == "ustar\0" and prefix:byte() ~= 0 then path = text(prefix) .. "/" .. path end
  local header = {
    flag = flag, path = path, link = text(link), size = number(size, "size"),
    mode = number(mode, "mode") & 4095, mtime = number(mtime, "time"),
  }
  if header.size < 0 or header.size > MOST then tar.refuse("BAD_HEADER", "an impossible size") end
  return header
end

-- A size or a time in a PAX record; nil when it is none.
local function decimal(value)
  if #value > 40 or not value:find("^%-?%d+%.?%d*$") then return nil end
  return math.tointeger(tonumber(value)) or tonumber(value)
end

---The records of a PAX header that matter: path, linkpath, size, mtime.
---@param payload string
---@return table<string, any>
function tar.parse_pax(payload)
  local found, at = {}, 1
  while at <= #payload do
    local digits, name = payload:match("^(%d+) ([^=\n]+)=", at)
    local size = digits and #digits <= 9 and tonumber(digits)
    local record = size and payload:sub(at, at + size - 1)
    local start = digits and #digits + #name + 3
    if not size or #record < size or size < start or record:sub(-1) ~= "\n" then
      tar.refuse("BAD_HEADER", "a broken PAX header")
    end
    local value = record:sub(start, -2)
    if name:find("^GNU%.sparse") then tar.refuse("UNSUPPORTED", "a sparse file") end
    if (name == "path" or name == "linkpath") and value ~= "" then
      if value:find("\0", 1, true) then tar.refuse("BAD_HEADER", "a name with a zero byte") end
      found[name] = value
    elseif name == "size" or name == "mtime" then
      found[name] = decimal(value)
      if not found[name] then tar.refuse("BAD_HEADER", "a PAX " .. name .. " that is no number") end
    end
    at = at + size
  end
  if found.size and (math.type(found.size) ~= "integer" or found.size < 0 or found.size > MOST) then
    tar.refuse("BAD_HEADER", "an impossible size")
  end
  return found
end

-- --------------------------------------------------------------------- writing

-- Octal digits where they fit, else base 256.
local function field(value, size)
  if value >= 0 and value < 8 ^ (size - 1) then return ("%0" .. size - 1 .. "o\0"):format(value) end
  local fill = value < 0 and "\xff" or "\0"
  return (value < 0 and "\xff" or "\x80") .. fill:rep(size - 9) .. string.pack(">i8", value)
end

local function block(header)
  local head = string.pack(FIELDS, header.path, field(header.mode, 8), field(0, 8), field(0, 8),
    field(header.size, 12), field(header.mtime, 12), (" "):rep(SUM_SIZE), header.flag, header.link,
    "ustar ", " \0", "", "", "", "", "") .. ("\0"):rep(12)
  local sum = ("%06o\0 "):format(checksum(head))
  return head:sub(1, SUM_AT - 1) .. sum .. head:sub(SUM_AT + SUM_SIZE)
end

---Zeros that fill up the last block of `size` bytes.
---@param size integer
---@return string
function tar.padding(size)
  return ("\0"):rep(-size % BLOCK)
end

-- A name that does not fit, ahead of its header.
local function long(flag, name)
  if #name <= 100 then return "" end
  local header = {
    path = "././@LongLink", link = "", mode = 420, size = #name + 1, mtime = 0, flag = flag,
  }
  return block(header) .. name .. "\0" .. tar.padding(#name + 1)
end

local flags = { file = "0", symlink = "2", directory = "5" }

---The header of an entry, with what has to stand ahead of it.
---@param entry { type: "file"|"symlink"|"directory", path: string, mode: integer, mtime: number, size?: integer, link?: string }
---@return string
function tar.header(entry)
  local path = entry.type == "directory" and entry.path .. "/" or entry.path
  local link = entry.link or ""
  return long("K", link) .. long("L", path) .. block({
    flag = flags[entry.type], path = path:sub(1, 100), link = link:sub(1, 100),
    size = entry.size or 0, mode = entry.mode & 4095, mtime = math.floor(entry.mtime),
  })
end

---What ends an archive.
tar.ending = ZEROS .. ZEROS

return tar
