-- Takes a folder into a sandbox, builds it there, and brings back what came of it.
--
--   sbxlua --local scripts/build_tree.lua src --into out -- make -j4
--   sbxlua scripts/build_tree.lua . --exclude .git --result dist --into dist -- npm run build
--
-- stdout has a row of CSV for each file that came back, stderr what the command
-- says, as it says it. The status is 1 if the command failed or took too long; then
-- nothing comes back.

local cli = require("sbx.cli")
local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local paths = require("sbx.path")
local progress = require("sbx.progress")
local sandbox = require("sbx.sandbox")
local time = require("sbx.time")

local WORK = "/tmp/build" -- the tree's folder in the sandbox

local given = cli.parse(arg, {
  name = "build_tree",
  summary = "Builds a folder in a sandbox and brings the result back.",
  example = {
    "sbxlua --local scripts/build_tree.lua src --into out -- make -j4",
    "sbxlua scripts/build_tree.lua . -x .git --result dist --into dist -- npm run build",
  },
  options = {
    { name = "exclude", short = "x", type = "list", metavar = "PATTERN",
      help = "what stays here: '.git', '*.o', 'docs/**'" },
    { name = "result", short = "r", metavar = "FOLDER", default = ".",
      help = "the folder of the tree that comes back" },
    { name = "into", short = "o", metavar = "FOLDER", required = true,
      help = "where it goes: a new folder, or an empty one" },
    { name = "stdin", type = "file", help = "what the command reads" },
    { name = "env", short = "e", type = "map", help = "variables for the command" },
    { name = "user", help = "who runs it there (containers only)" },
    { name = "deadline", type = "duration", default = "30m", min = "1s", max = "12h",
      help = "then the command, and all that it started, is killed" },
    { name = "image", default = "python:3.11-slim", help = "what has the tools" },
  },
  arguments = {
    { name = "folder", type = "path", help = "what to build" },
    { name = "words", metavar = "COMMAND", many = true, raw = true,
      help = "a program and its arguments; for a shell, sh -c '...'" },
  },
})
-- Looked at now, not after an hour of building.
if fs.exists(given.into) and #fs.list(given.into) > 0 then
  io.stderr:write("build_tree: ", given.into, " is not empty\n")
  os.exit(2)
end
if not paths.inside(WORK, paths.join(WORK, given.result)) then
  io.stderr:write("build_tree: --result has to be a folder of the tree\n")
  os.exit(2)
end

local function show(bytes) io.stderr:write(bytes) end

-- Runs the command; whether it went well. What it writes is shown as it comes.
---@async
local function build(box)
  local result, err = errors.try(box.exec, box, given.words, {
    working_dir = WORK, env = given.env, user = given.user, deadline = given.deadline,
    stdin = given.stdin and { path = given.stdin }, on_stdout = show, on_stderr = show,
  })
  if err and not (errors.is_error(err) and err:is("command_timeout")) then error(err, 0) end
  if err then
    io.stderr:write("killed after ", time.format_duration(given.deadline), "\n")
  elseif result.exit_code ~= 0 then
    io.stderr:write("exit code ", result.exit_code, "\n")
  end
  return result and result.exit_code == 0
end

---@async
local function bring_back(box)
  local bar <close> = progress.bar({ label = "result", unit = "bytes" })
  box:copy_tree_down(paths.normalize(paths.join(WORK, given.result)), given.into, {
    progress = function(done, total)
      bar:total(total)
      bar:set(done)
    end,
  })
end

local client <close> = sandbox.client()
local box <close> = client:create({
  name = "build", docker_image = given.image,
  timeout_minutes = math.ceil(given.deadline / 60) + 60,
})
box:wait()
do
  local bar <close> = progress.bar({ label = "tree", unit = "bytes" })
  local tree = box:copy_tree_up(given.folder, WORK, {
    exclude = given.exclude, progress = function(done) bar:set(done) end,
  })
  bar:note(("%d files"):format(tree.files))
end
if not build(box) then os.exit(1) end
bring_back(box)

print(encoding.csv_row({ "file", "bytes", "sha256" }))
for path, entry in fs.walk(given.into) do
  if entry.type == "file" then
    local digest, size = hash.sha256_file(path)
    print(encoding.csv_row({ paths.relative(given.into, path), size, digest }))
  end
end
