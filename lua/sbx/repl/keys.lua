-- Bytes of a terminal as keys, in whatever pieces they come.
--
-- A key is { text = "abc" } for letters, { paste = "..." } for what came between the
-- marks of a paste, or { name = "left" }. Of several that came at once each has its
-- `next`.

local keys = {}

local PASTE_BEGINS, PASTE_ENDS = "\27[200~", "\27[201~"
local LONGEST = 64 -- bytes of an escape sequence
local REPLACEMENT = "\u{FFFD}"

-- By the last byte of a sequence, and by the number of one that ends in "~".
local FINAL = { A = "up", B = "down", C = "right", D = "left", H = "home", F = "end",
  Z = "backtab", M = "enter" }
local TILDE = { ["1"] = "home", ["3"] = "delete", ["4"] = "end", ["5"] = "pageup",
  ["6"] = "pagedown", ["7"] = "home", ["8"] = "end" }
local CONTROL = { ["\r"] = "enter", ["\n"] = "enter", ["\t"] = "tab", ["\127"] = "backspace",
  ["\8"] = "backspace", ["\31"] = "ctrl-_", ["\0"] = "ctrl-space" }

---@class sbx.repl.Decoder
---@field pending string  the beginning of something
local Decoder = {}
Decoder.__index = Decoder

---@return sbx.repl.Decoder
function keys.decoder()
  return setmetatable({ pending = "", pasted = nil }, Decoder)
end

local function control_name(char)
  return CONTROL[char] or ("ctrl-" .. string.char(char:byte() + 0x60))
end

-- The prefix that a sequence's second number stands for: "ctrl-", "alt-".
local function modifiers(number)
  local bits = (math.tointeger(tonumber(number)) or 1) - 1
  if bits < 0 or bits > 15 then return "" end
  return (bits & 4 ~= 0 and "ctrl-" or "") .. (bits & 2 ~= 0 and "alt-" or "")
end

-- The key that a whole sequence "ESC [ parameters final" stands for, or nil.
local function key_of(parameters, final)
  local first, second = parameters:match("^(%d*);?(%d*)")
  local name = final == "~" and TILDE[first] or FINAL[final]
  if not name then return nil end
  return modifiers(second) .. name
end

-- Each reader returns a key or nil, and where it goes on; nothing where the bytes
-- may have more to come.

local function read_sequence(bytes, at)
  local parameters, final, after = bytes:match("^\27%[([0-?]*)[ -/]*([@-~])()", at)
  if final then
    local name = key_of(parameters, final)
    return name and { name = name }, after
  end
  if #bytes - at >= LONGEST or bytes:find("^\27%[[ -?]*[^ -~]", at) then
    return nil, bytes:match("^\27%[[ -?]*()", at) -- no sequence at all
  end
end

local function read_utf8(bytes, at)
  local first = bytes:byte(at)
  local size = first >= 0xf0 and first < 0xf5 and 4 or first >= 0xe0 and first < 0xf0 and 3
    or first >= 0xc2 and first < 0xe0 and 2
  if not size then return { text = REPLACEMENT }, at + 1 end
  local piece = bytes:match("^.[\x80-\xbf]*", at):sub(1, size)
  if #piece == size and utf8.len(piece) then return { text = piece }, at + size end
  if at + #piece > #bytes and #piece < size then return end
  return { text = REPLACEMENT }, at + math.max(1, #piece == size and 1 or #piece)
end

local function read_escape(bytes, at)
  local second = bytes:sub(at + 1, at + 1)
  if second == "" then return end
  if second == "[" then return read_sequence(bytes, at) end
  if second == "O" then
    local final = bytes:sub(at + 2, at + 2)
    if final == "" then return end
    return FINAL[final] and { name = FINAL[final] }, at + 3
  end
  if second == "\27" then return { name = "escape" }, at + 1 end
  if second:find("[\1-\31\127]") then return { name = "alt-" .. control_name(second) }, at + 2 end
  local key, after = read_utf8(bytes, at + 1)
  if second:byte() < 0x80 then key, after = { text = second }, at + 2 end
  if not after then return end
  return { name = "alt-" .. key.text }, after
end

local function read_key(bytes, at)
  local text, after = bytes:match("^([ -~]+)()", at)
  if text then return { text = text }, after end
  local first = bytes:byte(at)
  if first == 27 then return read_escape(bytes, at) end
  if first < 32 or first == 127 then
    return { name = control_name(bytes:sub(at, at)) }, at + 1
  end
  return read_utf8(bytes, at)
end

-- Lines end as files have it, and nothing in it is a command to the terminal.
local function clean(pasted)
  pasted = pasted:gsub("\r\n?", "\n"):gsub("\27%[[0-?]*[ -/]*[@-~]", "")
    :gsub("[\0-\8\11-\31\127]", "")
  if utf8.len(pasted) then return pasted end
  local parts, at = {}, 1
  while at <= #pasted do
    local ok, bad = utf8.len(pasted, at)
    if ok then
      parts[#parts + 1] = pasted:sub(at)
      break
    end
    parts[#parts + 1] = pasted:sub(at, bad - 1) .. REPLACEMENT
    at = bad + 1
  end
  return table.concat(parts)
end

-- Takes what belongs to a paste; returns it once its end is there.
local function read_paste(self, bytes)
  local joined = self.pasted_tail .. bytes
  local first, last = joined:find(PASTE_ENDS, 1, true)
  if first then
    table.insert(self.pasted, joined:sub(1, first - 1))
    local key = { paste = clean(table.concat(self.pasted)) }
    self.pasted = nil
    return key, joined:sub(last + 1)
  end
  -- The end may come in two pieces.
  local keep = #PASTE_ENDS - 1
  table.insert(self.pasted, joined:sub(1, -keep - 1))
  self.pasted_tail = joined:sub(-keep)
  return nil, ""
end

local function read_keys(self, bytes)
  local found = {}
  bytes = self.pending .. bytes
  self.pending = ""
  local at = 1
  while true do
    if self.pasted then
      local key
      key, bytes = read_paste(self, bytes:sub(at))
      at = 1
      found[#found + 1] = key
    end
    if at > #bytes then return found end
    if bytes:find(PASTE_BEGINS, at, true) == at then
      self.pasted, self.pasted_tail = {}, ""
      at = at + #PASTE_BEGINS
    else
      local key, after = read_key(bytes, at)
      if not after then
        self.pending = bytes:sub(at)
        return found
      end
      found[#found + 1] = key or nil
      at = after
    end
  end
end

---The keys that these bytes complete.
---@param bytes string
---@return { name?: string, text?: string, paste?: string, next?: table }[]
function Decoder:feed(bytes)
  local found = read_keys(self, bytes)
  for i = 1, #found - 1 do
    found[i].next = found[i + 1]
  end
  return found
end

---Whether something has begun that more bytes may complete.
---@return boolean
function Decoder:is_pending()
  return self.pending ~= ""
end

---Nothing more has come: a lone escape is the key of that name, other beginnings
---are nothing.
---@return { name: string }[]
function Decoder:give_up()
  local escape = self.pending == "\27"
  self.pending = ""
  return escape and { { name = "escape" } } or {}
end

return keys
