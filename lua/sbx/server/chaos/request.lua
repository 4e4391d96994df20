-- Requests as handlers see them under chaos: what they read can be read twice, and what
-- they answer comes changed, late in part, or not at all.

local errors = require("sbx.errors")

local request = {}

-- More of a body than this is not served twice.
local MAX_KEPT = 8 * 1024 * 1024

-- A table that has all fields and methods of a real request, but for those of `own`.
local function over(real, own)
  return setmetatable(own, {
    __index = function(_, name)
      local value = real[name]
      if type(value) ~= "function" then return value end
      return function(_, ...)
        return value(real, ...)
      end
    end,
  })
end

-- ------------------------------------------------------------------- what is read

---A request whose body is kept as it is read, so that `again()` gives a request that
---reads it anew; nil where it is too long for that.
---@param real sbx.core.Request
---@return table first
---@return fun(): table|nil again
function request.kept(real)
  local pieces, whole, size, is_form = {}, nil, 0, false
  local first = over(real, {})

  function first.form()
    is_form = true
    return real:form()
  end
  function first.read()
    local piece = table.pack(real:read())
    if size <= MAX_KEPT then pieces[#pieces + 1] = piece end
    size = size + #(piece[1] or "")
    return table.unpack(piece, 1, piece.n)
  end
  function first.read_all(_, max)
    whole = real:read_all(max)
    size = size + #whole
    return whole
  end

  return first, function()
    if size > MAX_KEPT then return nil end
    local second, at = over(real, {}), 0
    function second.form()
      if not is_form then return real:form() end
    end
    function second.read()
      at = at + 1
      local piece = pieces[at]
      if not piece then return real:read() end
      return table.unpack(piece, 1, piece.n)
    end
    function second.read_all(_, max)
      if not whole then return real:read_all(max) end
      if #whole > max then
        errors.raise { kind = "limit", message = "the body is too long" }
      end
      return whole
    end
    return second
  end
end

-- --------------------------------------------------------------- what is answered

---A request whose answer goes nowhere.
---@param inner table
---@return table
function request.mute(inner)
  local function nothing() end
  return over(inner, {
    respond = nothing, start = nothing, write = nothing, finish = nothing, close = nothing,
    cut = nothing,
  })
end

local REASONS = { [200] = "OK", [201] = "Created" }

local function render(status, headers, framing)
  local lines = { ("HTTP/1.1 %d %s"):format(status, REASONS[status] or "Status") }
  local names = {}
  for name in pairs(headers or {}) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    lines[#lines + 1] = name .. ": " .. headers[name]
  end
  lines[#lines + 1] = framing
  return table.concat(lines, "\r\n") .. "\r\n\r\n"
end

---A request of whose answer only the first `count` bytes arrive, its head counted; a
---shorter one arrives whole.
---@param inner table
---@param count integer
---@return table
function request.cut(inner, count)
  local kept, size, started, over_now = {}, 0, nil, false
  local own = {}

  -- Takes bytes of the answer in; breaks it off once there are enough.
  local function feed(bytes)
    if over_now then return end
    kept[#kept + 1] = bytes
    size = size + #bytes
    if size <= count then return end
    over_now = true
    inner:cut(table.concat(kept):sub(1, count))
  end

  function own.respond(_, status, headers, body)
    body = body or ""
    feed(render(status, headers, "Content-Length: " .. #body) .. body)
    if not over_now then inner:respond(status, headers, body) end
  end
  function own.start(_, status, headers, length)
    started = { status = status, headers = headers, length = length, parts = {} }
    feed(render(status, headers,
      length and "Content-Length: " .. length or "Transfer-Encoding: chunked"))
  end
  function own.write(_, bytes)
    if over_now or bytes == "" then return end
    table.insert(started.parts, bytes)
    feed(started.length and bytes or ("%x\r\n%s\r\n"):format(#bytes, bytes))
  end
  function own.finish()
    if not over_now then
      inner:respond(started.status, started.headers, table.concat(started.parts))
    end
  end
  function own.close()
    if started and not over_now then
      over_now = true
      inner:cut(table.concat(kept))
    end
    inner:close()
  end
  return over(inner, own)
end

---A request whose answer passes through `change(status, headers, body)`, which returns
---what is sent instead; the body of a stream is nil.
---@param inner table
---@param change fun(status: integer, headers: table|nil, body: string|nil): integer, table, string|nil
---@return table
function request.changed(inner, change)
  local own = {}
  function own.respond(_, status, headers, body)
    return inner:respond(change(status, headers, body or ""))
  end
  function own.start(_, status, headers, length)
    local new_status, new_headers = change(status, headers)
    return inner:start(new_status, new_headers, length)
  end
  return over(inner, own)
end

return request
