-- What a local sandbox is compared with: bubblewrap alone, with nothing of ours around
-- it, and Docker with an image made on the spot, where an engine answers.

local errors = require("sbx.errors")
local process = require("sbx.process")

local peers = {}

local BUBBLEWRAP = {
  "bwrap", "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
  "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--new-session",
  "--die-with-parent",
}

---The words that run `argv` in a bare bubblewrap.
---@param argv string[]
---@return string[]
function peers.bubblewrap(argv)
  local words = table.move(BUBBLEWRAP, 1, #BUBBLEWRAP, 1, {})
  return table.move(argv, 1, #argv, #words + 1, words)
end

local function docker(...)
  local result = process.run({ "docker", ... }, { timeout = 120 })
  if result.code == 0 then return (result.stdout:gsub("%s+$", "")) end
  errors.raise({ kind = "process", message = "docker: " .. result.stderr })
end

---@class bench.Docker
---@field start async fun(): string   starts a container without a network; its id
---@field exec async fun(id: string)  runs `true` in it
---@field remove async fun(id: string)

local function with_image(image)
  return {
    start = function()
      return docker("run", "--detach", "--network", "none", image, "sleep", "1000")
    end,
    exec = function(id) docker("exec", id, "true") end,
    remove = function(id) docker("rm", "--force", id) end,
  }
end

---Calls `fn` with Docker, or says why there is none and calls it with nil.
---@async
---@param fn async fun(docker: bench.Docker|nil)
function peers.with_docker(fn)
  local support = dofile("tests/docker_support.lua")
  local engine, failure = errors.try(support.socket)
  if engine and not process.which("docker") then failure = "no docker command" end
  if failure then
    print("not compared with Docker: " .. tostring(failure))
    return fn(nil)
  end
  support.with_image(function(image)
    fn(with_image(image))
  end)
end

return peers
