-- A driver whose sandboxes are files in a folder: they outlive the server, whatever ends
-- it, and each server can see what the others did to them.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local task = require("sbx.task")

local kept_driver = {}

local Driver = { name = "kept" }
Driver.__index = Driver

local Box = {}
Box.__index = Box

-- A script of it stands in `commands`: command → what exec gives, or a function.
local function agent_of(driver, id)
  return {
    environment = {},
    exec = function(_, options)
      local given = driver.commands[options.command]
      if type(given) == "function" then given = given(id, options) end
      local result = { stdout = "", stderr = "", exit_code = 0 }
      for name, value in pairs(given or {}) do
        result[name] = value
      end
      return result
    end,
    start = function(_, options)
      local pieces = driver.starts[options.argv[#options.argv]] or {}
      local session, at = { exit_code = nil }, 0
      function session.read()
        at = at + 1
        local piece = pieces[at]
        if type(piece) == "function" then
          piece()
          return session.read()
        elseif piece then
          return "stdout", piece
        end
        session.exit_code = pieces.exit_code or 0
      end
      function session.close() end
      return session
    end,
    dial = function()
      errors.raise { kind = "connect", code = "ECONNREFUSED", message = "nobody there" }
    end,
  }
end

local function box(driver, id)
  local made = setmetatable({
    driver = driver, id = id, agent = agent_of(driver, id), image_source = "kept",
    image_resolved = "a file", network_enforced = true, limits = {},
  }, Box)
  if driver.keep then made.saved = { file = id } end
  driver.boxes[id] = made
  return made
end

---`folder` holds the sandboxes.
function kept_driver.open(options)
  return setmetatable({
    folder = options.folder, keep = options.keep, commands = options.commands or {},
    starts = options.starts or {}, boxes = {}, released = {}, adopted = {},
    boot = options.boot, spoil = options.spoil,
  }, Driver)
end

function Driver.check()
  return { ok = true, problems = {} }
end

function Driver.close() end

function Driver:create(spec)
  local path = self.folder .. "/" .. spec.id
  task.shield(5, fs.write, path, "")
  local ok, failure = pcall(function()
    task.checkpoint()
    if self.boot then self.boot(spec) end
  end)
  if not ok then
    task.shield(5, fs.remove, path)
    error(failure, 0)
  end
  local made = box(self, spec.id)
  if self.spoil then made.saved = { print } end
  return made
end

function Driver:adopt(spec, saved)
  if not fs.exists(self.folder .. "/" .. saved.file) then return nil, "it has ended meanwhile" end
  self.adopted[spec.id] = spec
  local made = box(self, spec.id)
  if self.spoil then made.saved = { print } end
  return made
end

function Driver:sweep(known)
  local removed = 0
  for _, id in ipairs(fs.list(self.folder)) do
    if not known[id] then
      fs.remove(self.folder .. "/" .. id)
      removed = removed + 1
    end
  end
  return removed
end

function Box:on_exit(fn)
  self.listener = fn
end

function Box:kill()
  pcall(fs.remove, self.driver.folder .. "/" .. self.id)
  self.driver.boxes[self.id] = nil
  task.yield()
end

function Box:release()
  self.driver.released[self.id] = true
  self.driver.boxes[self.id] = nil
end

function Box:memory_kills()
  return self.kills
end

return kept_driver
