-- A sandbox that is a folder of this machine: uploads, downloads and commands are
-- real, what goes wrong is up to the test. Loaded with dofile.
--
--   local box <close> = folder_box.start({ upload = function(call, path, bytes) ... end })
--   box.client:upload_file(box.id, box.path .. "/x", ...)
--
-- Handlers return what those of api.lua do; nothing means the usual. `box.tools`, a
-- list of programs, makes commands see only those.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "api.lua")

local fs = require("sbx.fs")
local path = require("sbx.path")
local process = require("sbx.process")
local task = require("sbx.task")

local folder_box = {}

local Box = {}
Box.__index = Box

local ALWAYS = {
  "sh", "cat", "mv", "rm", "chmod", "wc", "stat", "readlink", "mkdir", "head", "ls", "env", "sleep",
  "tail", "tr", "od", "grep",
}

local function content_of(call)
  local parts = {}
  call.request:form()
  while true do
    local bytes = call.request:read()
    if not bytes then break end
    parts[#parts + 1] = bytes
  end
  return table.concat(parts)
end

local function upload(box, call)
  local target, bytes = call.query.path[1], content_of(call)
  local given = box.handlers.upload
  if given then
    local status, body = given(call, target, bytes)
    if type(status) == "string" then
      bytes = status -- arrives as something else
    elseif status then
      return status, body
    end
  end
  fs.mkdir(path.dirname(target), { parents = true })
  fs.write(target, bytes)
  return 200, { success = true, path = target, size = #bytes, timestamp = "2026-03-02T09:06:00Z" }
end

local function download(box, call)
  local given = box.handlers.download
  if given then
    local status, body, headers = given(call)
    if status then return status, body, headers end
  end
  local source = call.query.path[1]
  if not fs.is_file(source) then return 404, { error = "file_not_found", code = 404 } end
  local bytes = fs.read(source)
  local from = call.headers.range and call.headers.range:match("^bytes=(%d+)%-$")
  if not from then return 200, bytes, { etag = box.etag } end
  from = tonumber(from)
  return 206, bytes:sub(from + 1), {
    etag = box.etag,
    ["content-range"] = ("bytes %d-%d/%d"):format(from, #bytes - 1, #bytes),
  }
end

-- A folder with nothing but these programs in it.
local function bin_of(box)
  local bin = box.outer.path .. "/bin-" .. table.concat(box.tools, "-")
  if fs.exists(bin) then return bin end
  fs.mkdir(bin)
  for _, list in ipairs({ ALWAYS, box.tools }) do
    for _, name in ipairs(list) do
      for _, folder in ipairs({ "/usr/bin", "/bin" }) do
        if fs.exists(folder .. "/" .. name) and not fs.exists(bin .. "/" .. name) then
          fs.symlink(folder .. "/" .. name, bin .. "/" .. name)
        end
      end
    end
  end
  return bin
end

local function exec(box, call)
  local given = box.handlers.exec
  if given then
    local status, body = given(call, call.body.command)
    if status then return status, body end
  end
  local result = process.run({ "sh", "-c", call.body.command }, {
    timeout = 60, env = box.tools and { PATH = bin_of(box) } or nil,
  })
  return 200, { stdout = result.stdout, stderr = result.stderr, exit_code = result.code }
end

---Sends the first `count` bytes of a file and breaks off.
function folder_box.cut(call, bytes, count, headers)
  call.request:start(200, headers or {}, #bytes)
  call.request:write(bytes:sub(1, count))
  call.request:close()
  return api.HANG
end

---@async
function folder_box.start(handlers)
  local box = setmetatable({ handlers = handlers or {}, id = "sbx-1", etag = '"one"' }, Box)
  box.outer = fs.tmpdir({})
  box.path = box.outer.path .. "/box"
  fs.mkdir(box.path)
  box.server = api.start({
    upload = function(call) return upload(box, call) end,
    download = function(call) return download(box, call) end,
    exec = function(call) return exec(box, call) end,
    auth = box.handlers.auth, context = box.handlers.context,
  })
  box.server:add(box.id)
  box.client = box.server:client()
  return box
end

---The names in the sandbox's folder.
function Box:names()
  return table.concat(fs.list(self.path), " ")
end

---Waits until these are the names in it: what was under way may still arrive.
---@async
function Box:settles_at(names)
  task.timeout(60, function()
    while self:names() ~= names do
      task.sleep(0.05)
    end
  end)
end

---How often this was asked for.
function Box:count(op)
  return self.server:count(op)
end

function Box:__close()
  self.client:close()
  getmetatable(self.server).__close(self.server)
  self.outer:close()
end

folder_box.HANG = api.HANG
folder_box.failure = api.failure

return folder_box
