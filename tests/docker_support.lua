-- What the tests of the docker driver share: a real engine, and small images built on
-- the spot from this machine's busybox. Everything that they make bears a label of
-- their own and is removed again; they touch nothing else of the engine.

local container = require("sbx.server.driver.docker.container")
local docker = require("sbx.server.driver.docker")
local engines = require("sbx.server.driver.docker.engine")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local json = require("sbx.json")
local process = require("sbx.process")
local skip = require("sbx.test").skip
local tar = require("sbx.sandbox.tar")
local task = require("sbx.task")

---@class support.docker
---@field path? string  of the socket to use (default: as the driver finds it)
local support = {}

---The path of the engine's socket, or the test is skipped.
---@async
---@return string
function support.socket()
  local path = support.path or engines.socket_path()
  local answers, failure = errors.try(function()
    return engines.open(path):ping()
  end)
  if not answers then skip("no container engine answers: " .. tostring(failure)) end
  return path
end

---Skips the test where containers cannot outlive their server.
---@async
function support.need_keeping()
  if engines.open(support.socket()):is_podman() then skip("Podman keeps no containers") end
end

-- ----------------------------------------------------------------------- images

local Archive = {}
Archive.__index = Archive

-- An entry, unless there is one of this path.
function Archive:add(entry, bytes)
  entry.mtime, entry.mode, entry.path = 0, entry.mode or 493, entry.path:gsub("^/", "")
  if rawget(self, entry.path) then return end
  self[entry.path] = true
  if bytes then entry.size = #bytes end
  self[#self + 1] = tar.header(entry)
  if not bytes then return end
  self[#self + 1] = bytes
  self[#self + 1] = tar.padding(#bytes)
end

local busybox

-- The archive of a root file system in which busybox is all there is.
local function root_archive()
  if busybox then return busybox end
  local archive = setmetatable({}, Archive)
  for _, folder in ipairs { "bin", "etc", "lib", "lib64", "root", "usr", "usr/bin" } do
    archive:add { type = "directory", path = folder }
  end
  archive:add { type = "directory", path = "tmp", mode = 1023 }
  archive:add({ type = "file", path = "etc/passwd", mode = 420 },
    "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/tmp:/bin/sh\n")
  local program = process.run({ "sh", "-c", "command -v busybox" }, { check = true }).stdout
    :gsub("%s+$", "")
  archive:add({ type = "file", path = "bin/busybox" }, fs.read(program))
  local libraries = process.run({ "ldd", program }).stdout
  for path in libraries:gmatch("(/%S+) %(0x") do
    local folder = path:match("^(.*)/")
    local parent = ""
    for name in folder:gmatch("[^/]+") do
      parent = parent .. "/" .. name
      archive:add { type = "directory", path = parent }
    end
    archive:add({ type = "file", path = path }, fs.read(path))
  end
  local applets = process.run({ program, "--list" }, { check = true }).stdout
  for name in applets:gmatch("[^\n]+") do
    if name ~= "busybox" then
      archive:add { type = "symlink", path = "bin/" .. name, link = "busybox", mode = 511 }
    end
  end
  archive[#archive + 1] = tar.ending
  busybox = table.concat(archive)
  return busybox
end

---The bytes of a tar archive: a root file system in which busybox is all there is.
---@async
---@return string
function support.root()
  return root_archive()
end

---The bytes of a tar archive with one file.
---@param path string
---@param text string
---@return string
function support.one_file(path, text)
  local archive = setmetatable({}, Archive)
  archive:add({ type = "file", path = path, mode = 420 }, text)
  archive[#archive + 1] = tar.ending
  return table.concat(archive)
end

-- A root file system with nothing that could be run.
local function bare_archive()
  return support.one_file("hello.txt", "hello\n")
end

---The description of an image with one layer, as images have it inside.
---@param layer string  a tar archive
---@param architecture? string  default "amd64"
---@return string
function support.image_config(layer, architecture)
  return json.encode {
    architecture = architecture or "amd64", os = "linux",
    config = json.object {},
    rootfs = { type = "layers", diff_ids = { "sha256:" .. hash.sha256(layer) } },
  }
end

-- What `docker save` would write of an image with one layer.
local function saved(name, layer, architecture)
  local archive = setmetatable({}, Archive)
  archive:add({ type = "file", path = "layer.tar" }, layer)
  archive:add({ type = "file", path = "config.json" }, support.image_config(layer, architecture))
  archive:add({ type = "file", path = "manifest.json" }, json.encode { {
    Config = "config.json", RepoTags = { name }, Layers = { "layer.tar" },
  } })
  archive[#archive + 1] = tar.ending
  return table.concat(archive)
end

---Removes an image under this name. Another test's server may be trying it at this moment,
---and then only the name would go.
---@async
---@param engine sbx.server.driver.docker.Engine
---@param name string
---@param id string
function support.remove_image(engine, name, id)
  engine:call("DELETE", "/images/" .. name, {
    what = "remove the test's image", query = { force = 1 }, accept = { [404] = true },
  })
  task.move_on(20, function()
    while true do
      local found = engine:get("/images/" .. id .. "/json", "look")
      if not found or type(found.RepoTags) == "table" and #found.RepoTags > 0 then return end
      engine:call("DELETE", "/images/" .. id, {
        what = "remove the test's image", accept = { [404] = true, [409] = true },
      })
      task.sleep(0.05)
    end
  end)
end

---Runs `fn(name)` with an image that the engine has meanwhile.
---@async
---@param fn async fun(name: string)
---@param options? {bare?: boolean, root?: string, architecture?: string, changes?: string[]}  `root`: a tar archive; `changes`: lines of a Dockerfile
function support.with_image(fn, options)
  local opts = options or {}
  local engine = engines.open(support.socket())
  -- Podman takes no notice of a tag.
  local repository = "localhost/sbxlua-test-" .. hash.random_hex(6)
  local name = repository .. ":latest"
  local root = opts.root or opts.bare and bare_archive() or root_archive()
  local path, query, body = "/images/create", nil, root
  if opts.architecture then
    path, body = "/images/load", saved(name, root, opts.architecture)
  else
    query = { fromSrc = "-", repo = repository, tag = "latest", changes = opts.changes }
  end
  engine:call("POST", path, {
    what = "load the test's image", query = query, body = body,
    headers = { ["Content-Type"] = "application/x-tar" },
  })
  local id = engine:get("/images/" .. name .. "/json", "look").Id
  local _ <close> = setmetatable({}, {
    __close = function()
      support.remove_image(engine, name, id)
    end,
  })
  fn(name)
end

-- ------------------------------------------------------------------- containers

---The containers of a driver, as the engine lists them.
---@async
function support.containers(driver)
  return container.list(driver.engine, driver.server)
end

---Waits until the driver has no container any more.
---@async
function support.await_none(driver)
  task.timeout(60, function()
    while #support.containers(driver) > 0 do
      task.sleep(0.02)
    end
  end)
end

---What a driver is asked for, with short defaults.
function support.spec(image, fields)
  local spec = {
    id = "test-" .. hash.random_hex(6), image = image, hostname = "box-1", lifetime = 300,
    memory_gb = 0.25, cpu_cores = 1, disk_size_gb = 1, network = false, workdir = "/workspace",
    env = {}, log = function() end, notice = function() end,
  }
  for name, value in pairs(fields or {}) do
    spec[name] = value
  end
  return spec
end

---Runs `fn(box, sh, driver)` with one sandbox, whose containers are gone afterwards;
---`sh(command)` returns the command's result.
---@async
function support.with_box(image, fn, fields)
  local driver = docker.open { argument = support.path }
  task.scope(function()
    local box = driver:create(support.spec(image, fields))
    local _ <close> = setmetatable({}, {
      __close = function()
        box:kill()
      end,
    })
    fn(box, function(command, timeout)
      return box.agent:exec { command = command, timeout = timeout or 20 }
    end, driver)
  end)
  local left = #support.containers(driver)
  driver:close()
  assert(left == 0, left .. " containers left")
end

return support
