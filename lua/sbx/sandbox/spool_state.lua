-- What a look at a spooled command says.

local encoding = require("sbx.encoding")

local spool_state = {}

---@class sbx.sandbox.SpoolState
---@field state "run"|"gone"|"lost"|"late"|"ended"
---@field exit_code integer|nil  once ended
---@field stdout string          new bytes
---@field stderr string
---@field stdout_size integer    bytes of the whole file
---@field stderr_size integer

local decoders = { od = encoding.hex_decode, base64 = encoding.base64_decode }
local words = { run = true, gone = true, lost = true, late = true }

local function decode(text, coding, most)
  local decoder = decoders[coding]
  if not decoder then return nil end
  local ok, bytes = pcall(decoder, (text:gsub("%s+", "")))
  return ok and #bytes <= most and bytes or nil
end

---The state that a script printed; nil when that is not one, as a whole.
---@param text string
---@param most integer  bytes that each output may bring
---@return sbx.sandbox.SpoolState|nil
function spool_state.parse(text, most)
  local state, a, b, coding, at = text:match("^(%w+) (%d+) (%d+) (%w+)\n()")
  if not state or #a > 15 or #b > 15 or #state > 10 then return nil end
  local out, err = text:match("^([^.]*)%.\n([^.]*)%.\n$", at)
  if not out then return nil end
  out, err = decode(out, coding, most), decode(err, coding, most)
  if not out or not err then return nil end
  local code = state:find("^%d+$") and math.tointeger(tonumber(state))
  if not code and not words[state] then return nil end
  return {
    state = code and "ended" or state, exit_code = code or nil, stdout = out, stderr = err,
    stdout_size = math.tointeger(tonumber(a)), stderr_size = math.tointeger(tonumber(b)),
  }
end

return spool_state
