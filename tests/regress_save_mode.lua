local core = require("sbx.core.server")
local fs = require("sbx.fs")
local http = require("sbx.http")
local task = require("sbx.task")

test("http: a file that save replaces stays as private as it was", function()
  local listener <close> = core.listen {}
  local folder <close> = fs.tmpdir {}
  local path = folder.path .. "/secret"
  task.scope(function(scope)
    scope:daemon(function()
      while true do
        listener:accept():respond(200, nil, "new")
      end
    end)
    for _, mode in ipairs { tonumber("600", 8), tonumber("640", 8), tonumber("755", 8) } do
      fs.write(path, "old")
      fs.chmod(path, mode)
      http.get("http://127.0.0.1:" .. listener.port, { save = path })
      assert(fs.read(path) == "new" and fs.stat(path).mode == mode)
    end
  end)
end)
