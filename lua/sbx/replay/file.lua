-- Reads a recording: see record.lua for what writes it, docs/replay.md for the format.

local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local json = require("sbx.json")

local file = {}

local VERSION = 1
local MOST_LINE = 64 * 1024 * 1024

---@class sbx.replay.Piece
---@field at? number     seconds since the recording began
---@field text? string
---@field base64? string

---@class sbx.replay.Exchange
---@field n integer
---@field at number       seconds since the recording began
---@field seconds number  until the answer, or its head
---@field method string
---@field url string
---@field kind string
---@field body? string
---@field again? boolean
---@field answer? table   status, reason, headers, url, retry_after, text or base64
---@field error? table
---@field cancelled? boolean
---@field stream? boolean
---@field saved? boolean
---@field pieces sbx.replay.Piece[]
---@field last? table     how a stream ended: error, closed, at

---@class sbx.replay.Recording
---@field path string
---@field at number      seconds since 1970
---@field seed integer
---@field base? string   the address of the API
---@field exchanges sbx.replay.Exchange[]

local function refuse(path, number, why)
  errors.raise({
    kind = "usage", op = "replay", code = "BAD_RECORDING",
    message = ("%s%s: %s"):format(path, number and (", line %d"):format(number) or "", why),
  })
end

local function check_header(path, header)
  if type(header) ~= "table" or header.type ~= "sbxlua recording" then
    refuse(path, 1, "this is no recording; `sbxlua --record FILE …` makes one")
  end
  if header.v ~= VERSION then
    refuse(path, 1, ("a recording of version %s, and this program reads version %d; record anew")
      :format(tostring(header.v), VERSION))
  end
  if type(header.at) ~= "number" or math.type(header.seed) ~= "integer" then
    refuse(path, 1, "the first line is not whole")
  end
end

local read = {}

function read.exchange(recording, line)
  local whole = math.type(line.n) == "integer" and type(line.at) == "number"
    and type(line.method) == "string" and type(line.url) == "string"
    and (type(line.answer) == "table" or type(line.error) == "table" or line.cancelled == true)
  if not whole then return "not a whole exchange" end
  if line.answer and math.type(line.answer.status) ~= "integer" then return "no status" end
  line.pieces = {}
  line.seconds = type(line.seconds) == "number" and line.seconds or 0
  recording.by_number[line.n] = line
  table.insert(recording.exchanges, line)
end

function read.chunk(recording, line)
  local exchange = recording.by_number[line.n]
  if not exchange then return "a chunk of no exchange" end
  table.insert(exchange.pieces, line)
end

function read.last(recording, line)
  local exchange = recording.by_number[line.n]
  if not exchange then return "the end of no exchange" end
  exchange.last = line
end

read["end"] = function(recording, line)
  recording.base = type(line.base) == "string" and line.base or nil
  recording.whole = true
end

---Reads a recording. Raises kind `usage` for what is none, `io` where it cannot be read.
---@async
---@param path string
---@return sbx.replay.Recording
function file.read(path)
  local recording, number = nil, 0
  local lines <close> = fs.lines(path, { max_line = MOST_LINE })
  for text in lines do
    number = number + 1
    local ok, line = pcall(json.decode, text)
    if not ok or type(line) ~= "table" then
      refuse(path, number, number == 1
        and "this is no recording; `sbxlua --record FILE …` makes one" or "no JSON object")
    end
    if not recording then
      check_header(path, line)
      recording = {
        path = path, at = line.at, seed = line.seed, exchanges = {}, by_number = {},
      }
    else
      local take = read[line.type]
      if not take then refuse(path, number, "a line of a kind that is not known") end
      local problem = take(recording, line)
      if problem then refuse(path, number, problem) end
    end
  end
  if not recording then refuse(path, nil, "the file is empty") end
  if not recording.whole then refuse(path, nil, "its end is missing; record anew") end
  -- They were written when their answer came.
  table.sort(recording.exchanges, function(a, b) return a.n < b.n end)
  return recording
end

---The bytes of a piece, or of an answer.
---@param piece table
---@return string bytes, boolean is_text
function file.bytes(piece)
  if type(piece.text) == "string" then return piece.text, true end
  if type(piece.base64) == "string" then return encoding.base64_decode(piece.base64), false end
  return "", true
end

return file
