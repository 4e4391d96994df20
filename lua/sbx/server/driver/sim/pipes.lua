-- What the file descriptors of a simulated command lead to. What writes has
-- `write(bytes)`, which returns nil and an errno's name when it cannot; what reads has
-- `line()` and `all()`, which return nil at the end and may wait.

local pipes = {}

---Bytes that one program may hand to another, or to its shell.
pipes.MAX = 16 * 1024 * 1024

---@class sbx.server.sim.Output
---@field write fun(self: sbx.server.sim.Output, bytes: string): boolean|nil, string|nil

---@class sbx.server.sim.Input
---@field line async fun(self: sbx.server.sim.Input): string|nil  with its line feed
---@field all async fun(self: sbx.server.sim.Input): string

pipes.null = {
  write = function() return true end,
  line = function() return nil end,
  all = function() return "" end,
}

local Sink = {}
Sink.__index = Sink

function Sink:write(bytes)
  local room = self.limit - self.size
  if #bytes > room then
    self.truncated = true
    bytes = bytes:sub(1, room)
  end
  if bytes ~= "" then
    self.parts[#self.parts + 1] = bytes
    self.size = self.size + #bytes
  end
  return true
end

---All that was kept.
function Sink:text()
  return table.concat(self.parts)
end

---Keeps what is written, up to `limit` bytes; `truncated` says that there was more.
---@param limit integer
function pipes.sink(limit)
  return setmetatable({ parts = {}, size = 0, limit = limit, truncated = false }, Sink)
end

local File = {}
File.__index = File

function File:write(bytes)
  return self.files:append(self.node, bytes)
end

---Appends to an open file.
---@param files sbx.server.sim.Files
---@param node table
function pipes.file(files, node)
  return setmetatable({ files = files, node = node }, File)
end

local Text = {}
Text.__index = Text

function Text:line()
  if self.at > #self.text then return nil end
  local line = self.text:match("^[^\n]*\n?", self.at)
  self.at = self.at + #line
  return line
end

function Text:all()
  local rest = self.text:sub(self.at)
  self.at = #self.text + 1
  return rest
end

---Reads from a string; all who hold it share the place.
---@param text string
function pipes.text(text)
  return setmetatable({ text = text, at = 1 }, Text)
end

return pipes
