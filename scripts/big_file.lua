-- Copies one file of any size into a sandbox or out of it, and makes sure that it
-- arrived as it was. What a copy out of a sandbox has got before it broke off is
-- kept, and the next one goes on from there.
--
--   sbxlua scripts/big_file.lua model.tar sbx-7f3a91c2:/data/model.tar
--   sbxlua scripts/big_file.lua sbx-7f3a91c2:/data/result.tar result.tar
--   tar -c src | sbxlua scripts/big_file.lua - sbx-7f3a91c2:/data/src.tar
--
-- stdout has the size and the SHA-256, stderr the progress; with "-" as the target
-- stdout is the file.

local cli = require("sbx.cli")
local hash = require("sbx.hash")
local progress = require("sbx.progress")
local sandbox = require("sbx.sandbox")

local given = cli.parse(arg, {
  name = "big_file",
  summary = "Copies a file of any size into a sandbox, or out of it.",
  example = {
    "sbxlua scripts/big_file.lua model.tar sbx-7f3a91c2:/data/model.tar",
    "sbxlua scripts/big_file.lua sbx-7f3a91c2:/data/result.tar result.tar",
    "tar -c src | sbxlua scripts/big_file.lua - sbx-7f3a91c2:/data/src.tar",
  },
  options = {
    { name = "part", type = "size", default = "64MiB", min = 1, max = "200MiB",
      help = "what goes up in one request" },
    { name = "parallel", short = "n", type = "integer", default = 4, min = 1, max = 64,
      help = "parts on their way at once" },
    { name = "mode", metavar = "BITS", help = "of the file in the sandbox, such as 755" },
  },
  arguments = {
    { name = "source", metavar = "FROM", help = "a file, - (stdin), or ID:/PATH" },
    { name = "target", metavar = "TO", help = "a file, - (stdout), or ID:/PATH" },
  },
})

local function refuse(message)
  io.stderr:write("big_file: ", message, "\n")
  os.exit(2)
end

-- ID and path of a file in a sandbox. A name of this machine may have a colon, too,
-- but hardly one before a slash.
local function place_of(word) return word:match("^([%w_-]+):(/.+)$") end

local up_id, up_path = place_of(given.target)
local down_id, down_path = place_of(given.source)
if (up_id == nil) == (down_id == nil) then refuse("one of FROM and TO has to be ID:/PATH") end
if given.mode and not given.mode:find("^[0-7]+$") then refuse("--mode takes octal digits") end

local client <close> = sandbox.client()
local bar <close> = progress.bar({ label = up_path or down_path, unit = "bytes" })
local function show(done, total)
  bar:total(total)
  bar:set(done)
end

---@async
local function put()
  local options = {
    split = given.part, parallel = given.parallel, checksum = true, mode = given.mode,
    progress = show,
  }
  local upload
  if given.source == "-" then
    upload = client:upload_stream(up_id, up_path, io.stdin, options)
  else
    upload = client:upload_file(up_id, up_path, given.source, options)
  end
  return upload.size, upload.sha256
end

---@async
local function get()
  local size = client:download_file(down_id, down_path, given.target, {
    resume = true, checksum = true, progress = show,
  })
  return size, (hash.sha256_file(given.target))
end

-- A pipe cannot take back what it got: nothing is checked, a file that changes
-- meanwhile is an error.
---@async
local function pour()
  local stream <close> = client:download_stream(down_id, down_path)
  local done = 0
  for bytes in stream:chunks() do
    io.stdout:write(bytes)
    done = done + #bytes
    show(done, stream.size)
  end
end

if given.target == "-" then
  pour()
else
  print((up_id and put or get)())
end
