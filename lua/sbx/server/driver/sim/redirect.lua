-- Redirections in a simulated sandbox: where the descriptors of a command lead.

local expand = require("sbx.server.driver.sim.expand")
local files = require("sbx.server.driver.sim.files")
local pipes = require("sbx.server.driver.sim.pipes")

local redirect = {}

local function open_for_reading(self, path)
  local bytes, code = self.files:read(self:resolve(path))
  if not bytes then return nil, code end
  return pipes.text(bytes)
end

local function open_for_writing(self, path, append)
  local full = self:resolve(path)
  if full == "/dev/null" then return pipes.null end
  local node, code = self.files:open(full, append)
  if not node then return nil, code end
  return pipes.file(self.files, node)
end

---The descriptors of a shell with some redirections; nil when one fails, which is told.
---@async
---@param self sbx.server.sim.Shell
---@param redirects table[]
---@return table<integer, table>|nil
function redirect.apply(self, redirects)
  if #redirects == 0 then return self.fds end
  local fds = self:copy_fds()
  for _, one in ipairs(redirects) do
    local stream, code
    if one.document then
      stream = pipes.text(expand.text(self, one.document))
    else
      local target = expand.text(self, one.word)
      if one.op == "<&" or one.op == ">&" then
        if target == "-" then
          stream = false
        else
          stream = fds[math.tointeger(tonumber(target))]
          if not stream then code = "bad file descriptor" end
        end
      elseif one.op == "<" then
        stream, code = open_for_reading(self, target)
      else
        stream, code = open_for_writing(self, target, one.op == ">>" or one.op == "<>")
      end
      if code then
        self:complain(("cannot open %s: %s"):format(target, files.words_of(code)), fds)
        return nil
      end
    end
    fds[one.fd] = stream or nil
  end
  return fds
end

return redirect
