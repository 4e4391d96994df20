-- Bytes as text and back: base64, hexadecimal digits, words for a shell, CSV;
-- and text that has to be UTF-8.
--
-- Decoding takes what encoding writes and raises kind `syntax` for anything
-- else; its message and `byte`, from 1, say where.

local check = require("sbx.check")
local core = require("sbx.core.encoding")
local csv = require("sbx.encoding.csv")

---@class sbx.encoding
local encoding = {}

---Base64 (RFC 4648, with "=") on one line.
---@param bytes string
---@return string
function encoding.base64(bytes)
  return core.base64(check.string(bytes, "bytes"))
end

---@param text string  what base64 writes; no blanks, no line breaks
---@return string
function encoding.base64_decode(text)
  return core.base64_decode(check.string(text, "text"))
end

---Base64 for URLs and names of files: "-" and "_" instead of "+" and "/", no "=".
---@param bytes string
---@return string
function encoding.base64url(bytes)
  return core.base64url(check.string(bytes, "bytes"))
end

---@param text string  what base64url writes; its "=" may be there
---@return string
function encoding.base64url_decode(text)
  return core.base64url_decode(check.string(text, "text"))
end

---Two hexadecimal digits for each byte, in lower case.
---@param bytes string
---@return string
function encoding.hex(bytes)
  return core.hex(check.string(bytes, "bytes"))
end

---@param text string  in lower or upper case
---@return string
function encoding.hex_decode(text)
  return core.hex_decode(check.string(text, "text"))
end

---The arguments as words that a POSIX shell reads back as they are, with a blank
---between them. Raises for a zero byte, which no argument can have.
---@param ... string|number
---@return string
function encoding.quote_shell(...)
  local words = table.pack(...)
  for i = 1, words.n do
    local word = words[i]
    if type(word) ~= "string" and type(word) ~= "number" then
      error(("argument %d: expected a string, got a %s"):format(i, type(word)), 2)
    end
    word = tostring(word)
    if word:find("\0", 1, true) then
      error(("argument %d: contains a zero byte"):format(i), 2)
    end
    words[i] = "'" .. word:gsub("'", "'\\''") .. "'"
  end
  return table.concat(words, " ")
end

---One row of CSV, without its line end. nil is an empty field; a list with nils
---says how long it is in `n`, as table.pack does.
---@param values (string|number|boolean|nil)[]
---@param options? { separator?: string }  default ","
---@return string
function encoding.csv_row(values, options)
  return (csv.row(values, options))
end

---Iterates over the rows of CSV, each a list of strings. `source` is a string, a
---reader, a function that returns the next bytes, or what has `read`, such as a
---file; it may wait. Blank lines are skipped. With `header` the first row has the
---names, and each other row is a table name → string. Raises kind `syntax` with
---the `line`, kind `limit` for a row of more than `max_row` bytes.
---@param source string|sbx.Reader|(async fun(): string|nil)|{ read: function }
---@param options? { separator?: string, header?: boolean, max_row?: integer }
---@return async fun(): table|nil
function encoding.csv_rows(source, options)
  return (csv.rows(source, options))
end

---Whether the bytes are UTF-8 (RFC 3629: no surrogates, nothing past U+10FFFF).
---@param bytes string
---@return boolean valid
---@return integer|nil byte  the first that is not, from 1
function encoding.utf8_valid(bytes)
  return core.utf8_valid(check.string(bytes, "bytes"))
end

---The bytes with `replacement` for each mistake, so that they are UTF-8.
---@param bytes string
---@param replacement? string  default U+FFFD
---@return string
function encoding.utf8_clean(bytes, replacement)
  check.string(bytes, "bytes")
  if replacement == nil then return core.utf8_clean(bytes, "\u{FFFD}") end
  return core.utf8_clean(bytes, check.string(replacement, "replacement"))
end

return encoding
