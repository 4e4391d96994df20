-- Builds an image, tries it in a sandbox, and publishes it only if that went well.
--
--   sbxlua scripts/release_image.lua docker/ my-tools:v2 --test 'my-tool --version'
--   sbxlua scripts/release_image.lua docker/ my-tools:v2 --base registry.example/base:1 \
--     --registry mine --test 'pytest -q' --publish
--
-- stdout has the image as a line of JSON, stderr what happens. The status is 1 if the
-- build or the test failed, or the version exists already.

local cli = require("sbx.cli")
local errors = require("sbx.errors")
local json = require("sbx.json")
local sandbox = require("sbx.sandbox")

local given = cli.parse(arg, {
  name = "release_image",
  summary = "Builds an image, tries it, and publishes it.",
  example = "sbxlua scripts/release_image.lua docker/ my-tools:v2 --test 'my-tool --version'",
  options = {
    { name = "test", short = "t", metavar = "COMMAND", required = true,
      help = "has to end with 0 in a sandbox of the image" },
    { name = "dockerfile", default = "Dockerfile", help = "its path in the folder" },
    { name = "exclude", short = "x", type = "list", metavar = "PATTERN",
      help = "what in the folder the build does not get" },
    { name = "base", metavar = "IMAGE", help = "what it is built on: must be in reach first" },
    { name = "registry", metavar = "NAME", help = "the account's credentials for that" },
    { name = "vm", type = "flag", help = "make it usable by virtual machines, too" },
    { name = "publish", type = "flag", help = "make it PUBLIC after the test" },
    { name = "timeout", type = "duration", default = "1h", help = "for the build" },
  },
  arguments = {
    { name = "folder", type = "path", help = "what the image is built from" },
    { name = "image", metavar = "NAME:TAG", help = "what it is called" },
  },
})
local name, tag = given.image:match("^([^:]+):([%w._-]+)$")
if not name then
  io.stderr:write("release_image: ", given.image, " is no NAME:TAG\n")
  os.exit(2)
end

local function step(...) io.stderr:write("release_image: ", table.concat({ ... }), "\n") end

local function fail(...)
  step(...)
  os.exit(1)
end

-- What is released stays what it is.
---@async
local function refuse_existing(client)
  for image in client:each_image({ search = name }) do
    if image.image_name == name and image.image_tag == tag and image.status ~= "FAILED"
      and image.status ~= "CANCELLED" then
      fail(given.image, " exists already: ", image.status or "")
    end
  end
end

---@async
local function credentials_id(client)
  if not given.registry then return nil end
  local names = {}
  for _, found in ipairs(client:list_registry_credentials()) do
    if found.name == given.registry then return found.id end
    table.insert(names, found.name)
  end
  fail("no credentials ", given.registry, "; there are: ", table.concat(names, " "))
end

---@async
local function check_base(client)
  if not given.base then return end
  local accessible, details = client:check_docker_image(given.base, {
    registry_credentials_id = credentials_id(client),
  })
  if not accessible then fail("cannot have ", given.base, ": ", details) end
  step(given.base, " is there")
end

-- Some time later a sandbox needs it; a person who waits for it wants to know now.
---@async
local function try_image(client, build)
  local box <close> = client:create({ name = "release", docker_image = build.full_image_path })
  box:wait()
  local result = box:exec(given.test, { timeout = 600 })
  io.stderr:write(result.stdout, result.stderr)
  if result.exit_code ~= 0 then fail("the test ended with exit code ", result.exit_code) end
end

---@async
local function publish(client)
  local update = { source = given.image, set = { visibility = "PUBLIC" } }
  -- Both times the server says what it is about to do, or why it does not.
  for _, dry_run in ipairs({ true, false }) do
    local answer = client:update_images({ update }, { dry_run = dry_run })
    local problem = answer.results[1] and answer.results[1].error
    if not answer.success then fail("cannot publish it: ", tostring(problem)) end
  end
  step("it is public")
end

local client <close> = sandbox.client()
refuse_existing(client)
check_base(client)
local build, err = errors.try(client.build_image, client, {
  name = name, tag = tag, context = given.folder, dockerfile = given.dockerfile,
  exclude = given.exclude, timeout = given.timeout, on_progress = function(status) step(status) end,
})
if err then
  if not errors.is_error(err) then error(err, 0) end
  fail(tostring(err))
end
-- The server can do that while the image is tried.
local vm_build = given.vm and client:build_vm_image(name, tag, { wait = false })
step("try it: ", given.test)
try_image(client, build)
if vm_build then
  client:wait_for_build(vm_build.build_id, { timeout = given.timeout })
  step("virtual machines can use it")
end
if given.publish then publish(client) end
print(json.encode({
  image = given.image, path = build.full_image_path, build_id = build.build_id,
}, { sort_keys = true }))
