-- What the tests of scripts/ share: each script is run as people run it.

local fs = require("sbx.fs")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local encoding = require("sbx.encoding")
local json = require("sbx.json")
local local_server = require("sbx.local_server")
local run = require("sbx.run")
local sandbox = require("sbx.sandbox")
local support = dofile(here .. "run_support.lua")

local scripts = { folder = here .. "../scripts/" }

---The words that start a script.
---@param name string
---@param words string[]
---@return string[]
function scripts.argv(name, words)
  return { scripts.folder .. name .. ".lua", table.unpack(words) }
end

---Runs a script on sandboxes of this machine.
---@async
function scripts.run_local(name, words, options)
  return support.run({ "--local", table.unpack(scripts.argv(name, words)) }, options)
end

---Runs a script against an address: `server` has `url` and `api_key`.
---@async
function scripts.run_against(server, name, words, options)
  local opts = { env = scripts.env(server) }
  for key, value in pairs(options or {}) do
    opts[key] = value
  end
  return support.run(scripts.argv(name, words), opts)
end

---The environment that leads a run to a server.
function scripts.env(server)
  return { PRIME_API_BASE_URL = server.url, PRIME_API_KEY = server.api_key }
end

---Calls `fn(server, client)` with a local server that outlives the runs of scripts.
---@async
function scripts.with_server(fn)
  local server = local_server.start({ stderr = function() end })
  local ok, err = xpcall(function()
    local client <close> = sandbox.client({ api_key = server.api_key, base_url = server.url })
    fn(server, client)
  end, function(err) return type(err) == "string" and debug.traceback(err) or err end)
  run.finish()
  server.stop()
  if not ok then error(err, 0) end
end

---The same with a sandbox: `fn(box, server, client)`.
---@async
function scripts.with_box(fn)
  scripts.with_server(function(server, client)
    local box <close> = client:create({ name = "kept", docker_image = "python:3.11-slim" })
    box:wait()
    fn(box, server, client)
  end)
end

---Handlers for the scripted API (peers/api.lua): what goes to its gateway happens in
---`box`, a sandbox of this machine, as far as it is no affair of the test.
function scripts.gateway_to(box, api)
  return {
    exec = function(call)
      local body = call.body
      local options = { timeout = body.timeout or 60, spool = false }
      for _, name in ipairs({ "env", "working_dir" }) do
        if body[name] ~= json.null then options[name] = body[name] end
      end
      return 200, box:exec(body.command, options)
    end,
    upload = function(call, server)
      local status, body = api.usual.upload(server, call)
      local path = call.query.path[1]
      box:upload_bytes(path, server.files[path])
      server.files[path] = nil
      return status, body
    end,
  }
end

---The rows of a CSV text with a header.
function scripts.rows(text)
  local rows = {}
  for row in encoding.csv_rows(text, { header = true }) do
    rows[#rows + 1] = row
  end
  return rows
end

---The values of a text with one document a line.
function scripts.lines(text)
  local lines = {}
  for line in text:gmatch("[^\n]+") do
    lines[#lines + 1] = json.decode(line)
  end
  return lines
end

---A folder with these files: name → bytes.
---@async
function scripts.write_tree(folder, files)
  for name, bytes in pairs(files) do
    local path = folder .. "/" .. name
    fs.mkdir(path:match("^(.*)/"), { parents = true })
    fs.write(path, bytes)
  end
end

return scripts
