-- Pushes a folder into a sandbox, runs a command on it, and pulls files back.
-- What is the same on both sides, by its SHA-256, is not sent again.
--
--   sbxlua --local scripts/sync_artifacts.lua --push src --run 'wc -c * > sizes.txt' \
--     --pull '*.txt' --into out
--   sbxlua scripts/sync_artifacts.lua --sandbox ID --pull 'checkpoints/**' --into out
--
-- stdout has a row of CSV for each file, stderr the progress. The status is 1 if
-- the command failed or a file did not arrive as it was.

local cli = require("sbx.cli")
local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local paths = require("sbx.path")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local given = cli.parse(arg, {
  name = "sync_artifacts",
  summary = "Pushes a folder into a sandbox and pulls files back, without sending anything twice.",
  example = {
    "sbxlua --local scripts/sync_artifacts.lua --push src --run 'make' --pull '*.o' --into out",
    "sbxlua scripts/sync_artifacts.lua --sandbox ID --pull 'checkpoints/**' --into out",
  },
  options = {
    { name = "sandbox", short = "s", metavar = "ID",
      help = "one that runs already (default: a new one, deleted in the end)" },
    { name = "image", default = "python:3.11-slim", help = "of a new one" },
    { name = "remote", short = "r", metavar = "FOLDER", default = "/tmp/work",
      help = "the folder in the sandbox" },
    { name = "push", type = "path", metavar = "FOLDER", help = "what to put there" },
    { name = "run", metavar = "COMMAND", help = "what to run there, after the push" },
    { name = "pull", type = "list", of = "string", metavar = "PATTERN",
      help = "what to get back: '*.txt', 'out/**'" },
    { name = "into", metavar = "FOLDER", default = ".", help = "where it goes" },
  },
})
if not given.push and not given.run and #given.pull == 0 then
  io.stderr:write("sync_artifacts: nothing to do. Give --push, --run or --pull\n")
  os.exit(2)
end

-- What a folder of this machine holds: name → path, also of files in folders below.
---@async
local function list_here(folder)
  local found = {}
  for path, entry in fs.walk(folder) do
    if entry.type == "file" then found[paths.relative(folder, path)] = path end
  end
  return found
end

-- What the sandbox's folder holds: name → SHA-256. One command for all files; the
-- folder goes in as a variable, so that no shell takes its name apart.
local LIST = [[cd "$FOLDER" && find . -type f -exec sha256sum {} +]]

---@async
local function list_there(box)
  local result = box:exec(LIST, { env = { FOLDER = given.remote } })
  assert(result.exit_code == 0, "cannot list " .. given.remote .. ": " .. result.stderr)
  assert(not result.stdout_truncated, "too many files in " .. given.remote)
  local found = {}
  for line in result.stdout:gmatch("[^\n]+") do
    local digest, name = line:match("^(%x+)  %./(.+)$")
    -- What runs in there may write what it likes: no name may lead out of `--into`.
    if not digest or paths.normalize("/" .. name) ~= "/" .. name then
      errors.raise({ kind = "io", message = "a file name that cannot be synced: " .. line })
    end
    found[name] = digest
  end
  return found
end

local function report(action, name, size, digest)
  print(encoding.csv_row({ action, name, size, digest }))
end

-- Calls `fn` for each name, several at once, in the order of their names.
---@async
local function for_each(files, label, fn)
  local names = {}
  for name in pairs(files) do
    names[#names + 1] = name
  end
  table.sort(names)
  task.map(names, fn, { limit = 8, progress = label })
end

---@async
local function push(box)
  local here, there, digests = list_here(given.push), list_there(box), {}
  for_each(here, "push", function(name)
    local digest, size = hash.sha256_file(here[name])
    digests[name] = digest
    if there[name] ~= digest then box:upload_file(paths.join(given.remote, name), here[name]) end
    report(there[name] == digest and "unchanged" or "pushed", name, size, digest)
  end)
  there = list_there(box)
  for name, digest in pairs(digests) do
    assert(there[name] == digest, name .. " did not arrive as it was")
  end
end

---@async
local function pull(box)
  local wanted = {}
  for name, digest in pairs(list_there(box)) do
    for _, pattern in ipairs(given.pull) do
      if paths.match(pattern, name) then wanted[name] = digest end
    end
  end
  for_each(wanted, "pull", function(name)
    local target = paths.join(given.into, name)
    local digest, size = errors.try(hash.sha256_file, target)
    local action = digest == wanted[name] and "unchanged" or "pulled"
    if action == "pulled" then
      box:download_file(paths.join(given.remote, name), target)
      digest, size = hash.sha256_file(target)
      if digest ~= wanted[name] then
        fs.remove(target)
        errors.raise({ kind = "io", message = name .. " did not arrive as it was" })
      end
    end
    report(action, name, size, digest)
  end)
end

local client <close> = sandbox.client()
local box <close> = given.sandbox and client:get(given.sandbox)
  or client:create({ name = "sync", docker_image = given.image })
box:wait()
box:exec('mkdir -p "$FOLDER"', { env = { FOLDER = given.remote } })

print(encoding.csv_row({ "action", "name", "bytes", "sha256" }))
if given.push then push(box) end
local code = 0
if given.run then
  local result = box:exec(given.run, { working_dir = given.remote, timeout = 3600 })
  io.stderr:write(result.stdout, result.stderr)
  code = result.exit_code
end
pull(box) -- also after a command that failed: what it left tells why
if code ~= 0 then
  io.stderr:write("the command ended with exit code ", code, "\n")
  os.exit(1)
end
