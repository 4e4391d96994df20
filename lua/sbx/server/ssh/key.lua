-- Keys: the public one of who may enter, and this server's own. And the program that
-- speaks SSH, which the binary carries; libssh is loaded by that one alone.

local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local process = require("sbx.process")
local task = require("sbx.task")

local key = {}

local MAX_PUBLIC = 16384 -- bytes
local MAKE_SECONDS = 30
local PRIVATE_FILE = 384 -- 0600
local PEER_FD, LINK_FD, KEY_FD, PROGRAM_FD = 3, 4, 5, 6
local PROGRAM = "/proc/self/fd/" .. PROGRAM_FD

local TYPES = {
  ["ssh-ed25519"] = true, ["ssh-rsa"] = true,
  ["ecdsa-sha2-nistp256"] = true, ["ecdsa-sha2-nistp384"] = true,
  ["ecdsa-sha2-nistp521"] = true,
  ["sk-ssh-ed25519@openssh.com"] = true, ["sk-ecdsa-sha2-nistp256@openssh.com"] = true,
}

---The key of a line such as "ssh-ed25519 AAAA… me@here": its Base64 alone, which the key
---that a peer shows has to equal. Certificates are not taken.
---@param line any
---@return string|nil blob
---@return string|nil problem
function key.public(line)
  if type(line) ~= "string" or #line > MAX_PUBLIC or not line:find("^[^%c]+\r?\n?$") then
    return nil, "expected the one line of an id_….pub"
  end
  local name, blob = line:match("^%s*([%w@.-]+) +([%w+/]+=*)")
  if not name then return nil, "expected one line, such as ssh-ed25519 AAAA…" end
  if not TYPES[name] then return nil, "no type of key that is taken: " .. name end
  local ok, bytes = pcall(encoding.base64_decode, blob)
  if not ok or #bytes < 4 or bytes:sub(1, 4 + #name) ~= (">s4"):pack(name) then
    return nil, "the key is damaged"
  end
  return blob
end

local function unsupported(why)
  errors.raise {
    kind = "unsupported", code = "ssh", message = "this server has no SSH: " .. why,
  }
end

---@async
local function make()
  local program = host.ssh()
  if program == "" then unsupported("it was built without libssh") end
  local child <close> = process.spawn({ PROGRAM, "key" }, {
    stdout = "pipe", stderr = "pipe", fds = { [PROGRAM_FD] = { bytes = program } },
  })
  local text, words = {}, {}
  for bytes in function() return child.stdout:read() end do
    text[#text + 1] = bytes
  end
  for bytes in function() return child.stderr:read() end do
    words[#words + 1] = bytes
  end
  local code = child:wait()
  if code == 0 then return table.concat(text) end
  local said = table.concat(words):match("[^\n]+") or ("it ended with " .. code)
  unsupported("its part for that does not start (" .. said:sub(1, 300)
    .. "); libssh 4 has to be installed")
end

---This server's key: that of the folder, made when there is none, so that peers meet the
---same one after a restart. Without a folder it is a new one. Raises `unsupported` where
---this machine has no libssh.
---@async
---@param folder string|nil
---@return string
function key.of_host(folder)
  -- Made even where there is one, to know that the program starts.
  local made = task.timeout(MAKE_SECONDS, make)
  if not folder then return made end
  local path = folder .. "/ssh_host_key"
  if fs.exists(path) then return fs.read(path) end
  fs.write_atomic(path, made, { mode = PRIVATE_FILE })
  return made
end

---Starts the program for one connection: a `<close>` value. Its `fds[3]` is where the
---peer's bytes go in and come out, `fds[4]` the link.
---@param host_key string
---@return sbx.Process
---@return sbx.Stream peer
---@return sbx.Stream link
function key.program(host_key)
  local child = process.spawn({ PROGRAM }, {
    stdout = "null", stderr = "null", env = { PATH = "/usr/bin:/bin" }, clear_env = true,
    grace = 0,
    fds = {
      [PEER_FD] = "socket", [LINK_FD] = "socket",
      [KEY_FD] = { bytes = host_key }, [PROGRAM_FD] = { bytes = host.ssh() },
    },
  })
  return child, child.fds[PEER_FD], child.fds[LINK_FD]
end

return key
