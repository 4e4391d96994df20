-- A driver whose sandboxes are tables: files by their paths, and commands that say what
-- they were. For tests of what stands above the drivers.

local errors = require("sbx.errors")

local memory_driver = {}

local Driver = { name = "memory", features = { network_rules = true, images = true } }
Driver.__index = Driver

local Box = {}
Box.__index = Box

local Agent = {}
Agent.__index = Agent

local function missing(path)
  errors.raise { kind = "io", code = "ENOENT", message = path .. ": no such file" }
end

function Agent.exec(_, options)
  return { stdout = options.command, stderr = "", exit_code = 0 }
end

function Agent:put(path, source)
  local parts = {}
  for bytes in source do
    parts[#parts + 1] = bytes
  end
  self.files[path] = table.concat(parts)
  return #self.files[path]
end

function Agent:stat(path)
  local content = self.files[path] or missing(path)
  return { type = "file", size = #content, mode = 420, mtime = 1 }
end

function Agent:get(path, sink, window)
  local content = self.files[path] or missing(path)
  local from = (window and window.offset or 0) + 1
  local piece = content:sub(from, window and window.length and from + window.length - 1 or -1)
  if #piece > 0 then sink(piece) end
  return #piece, #content
end

function Agent.dial(_, port)
  errors.raise { kind = "connect", code = "ECONNREFUSED", message = "nobody at " .. port }
end

function Agent.start(_, options)
  local session = { pid = 1, left = table.concat(options.argv, " ") }
  function session.read(this)
    local text = this.left
    this.left = nil
    if text then return "stdout", text end
    this.exit_code = 0
  end
  for _, name in ipairs { "write", "close_stdin", "kill", "resize", "close" } do
    session[name] = function() end
  end
  return session
end

function Agent:close()
  self.closed = true
end

---@return sbx.server.Driver
function memory_driver.open()
  return setmetatable({ boxes = {} }, Driver)
end

function Driver.check()
  return { ok = true, problems = {} }
end

function Driver.look_for_image()
  return true, "any"
end

function Driver.close() end

function Driver.sweep()
  return 0
end

function Driver:create(spec)
  local box = setmetatable({
    agent = setmetatable({ files = {}, environment = {} }, Agent), limits = {},
    image_source = "sim", image_resolved = spec.image, network_enforced = true,
  }, Box)
  self.boxes[spec.id] = box
  return box
end

function Box.on_exit() end

function Box.set_network() end

function Box.kill() end

function Box.memory_kills()
  return 0
end

return memory_driver
