-- Starts nginx with servers of a test's own. Loaded with dofile by the tests that
-- need it.

local fs = require("sbx.fs")
local net = require("sbx.net")
local process = require("sbx.process")
local task = require("sbx.task")

local nginx = {}

local CONFIG = [[
daemon off; worker_processes 1; user root; pid @dir/pid; error_log @dir/error.log;
events { worker_connections 1024; }
http {
  access_log off; default_type text/plain;
  client_body_temp_path @dir/t1; proxy_temp_path @dir/t2; fastcgi_temp_path @dir/t3;
  uwsgi_temp_path @dir/t4; scgi_temp_path @dir/t5;
  @servers
}
]]

local function program()
  local usual = "/usr/sbin/nginx"
  if fs.exists(usual) then return usual end
  if process.run({ "sh", "-c", "command -v nginx" }).code == 0 then return "nginx" end
  skip("nginx is not installed")
end

local function free_port()
  local listener <close> = net.listen("127.0.0.1", 0)
  return listener.port
end

---@async
---@param folder string   holds the configuration, and what it names
---@param servers string  `server` blocks: @1, @2 … become free ports, @dir the folder
---@return table server  closable; `ports`, and `url` of the first one
function nginx.start(folder, servers)
  local argv = { program(), "-e", folder .. "/error.log", "-c", folder .. "/nginx.conf" }
  local ports = {}
  local text = CONFIG:gsub("@servers", function() return servers end)
  text = text:gsub("@(%d)", function(number)
    local i = tonumber(number)
    ports[i] = ports[i] or free_port()
    return tostring(ports[i])
  end)
  fs.write(folder .. "/nginx.conf", (text:gsub("@dir", folder)))
  local child = process.spawn(argv, { stdin = "null", stdout = "null", stderr = "null" })
  for _ = 1, 500 do
    local ok, connection = pcall(net.connect, "127.0.0.1", ports[1])
    if ok then
      connection:close()
      return setmetatable({ ports = ports, url = "http://127.0.0.1:" .. ports[1] }, {
        __close = function() child:close() end,
      })
    end
    if not child.running then break end
    task.sleep(0.02)
  end
  child:close()
  error("nginx did not start: " .. fs.read(folder .. "/error.log"))
end

return nginx
