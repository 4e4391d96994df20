-- SSH sessions into containers: opened by the API, entered with a key that the
-- sandbox's gateway is told of. The session's token stays in here.

local answers = require("sbx.sandbox.answers")
local check = require("sbx.check")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local fs = require("sbx.fs")
local http = require("sbx.http")
local json = require("sbx.json")
local log = require("sbx.log")
local process = require("sbx.process")
local profile = require("sbx.sandbox.profile")
local request = require("sbx.sandbox.request")
local retry = require("sbx.retry")
local run = require("sbx.run")
local task = require("sbx.task")
local url = require("sbx.url")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local OPEN_SECONDS = 30 -- that a request on its way holds off a cancellation
local CLOSE_SECONDS = 30 -- for the request that a `<close>` does
local AUTHORIZE_SECONDS = 30
local KEYGEN_SECONDS = 30
local MAX_KEY = 16384 -- bytes
local MAX_TTL = 86400 -- seconds

---@class sbx.sandbox.SshSession  a `<close>` value
---@field session_id string  also the name of the user to log in as
---@field exposure_id string
---@field sandbox_id string
---@field host string
---@field port integer
---@field external_endpoint string  "host:port"
---@field expires_at string
---@field ttl_seconds integer
local Session = {}
Session.__index = Session
Session.__name = "sbx.sandbox.SshSession"

local shape = {
  session_id = "string", exposure_id = "string", sandbox_id = "string", host = "string",
  port = "integer", external_endpoint = "string", expires_at = "string",
  ttl_seconds = "integer", gateway_url = "string", user_ns = "string", job_id = "string",
  token = "string",
}

---@class sbx.sandbox.SshState
---@field client sbx.sandbox.Client
---@field url string    where keys are authorized
---@field token string
---@field folders table[]  of throw-away keys
---@field closed boolean

-- States with keys on the disk, which the end of the run removes; nil: it is not told yet.
---@type table<sbx.sandbox.SshState, boolean>|nil
local with_keys

-- Session → what nobody is to see.
---@type table<sbx.sandbox.SshSession, sbx.sandbox.SshState>
local states = setmetatable({}, { __mode = "k" })

-- Host and user become words of a command line.
local function check_words(call, found)
  local host = found.host
  if not host:find("^%w[%w.:-]*$") or #host > 253 then
    answers.refuse(call, "'host' is no host name")
  end
  if not found.session_id:find("^[%w_][%w_.-]*$") or #found.session_id > 256 then
    answers.refuse(call, "'session_id' is an impossible id")
  end
  if found.port < 1 or found.port > 65535 then answers.refuse(call, "'port' is no port") end
end

local function check_gateway(client, call, address)
  local scheme = address:match("^([Hh][Tt][Tt][Pp][Ss]?)://[^%s@?#/]+[^%s@?#]*$")
  if not scheme then answers.refuse(call, "'gateway_url' is no http address") end
  -- The token is told over TLS: it is not to be sent in clear.
  if client.config.base_url:lower():find("^https:") and scheme:lower() ~= "https" then
    answers.refuse(call, "'gateway_url' is no https address")
  end
end

local function session_from(client, call, answer, id)
  local found = answers.read(call, answer, shape)
  if found.sandbox_id ~= id then
    answers.refuse(call, "'sandbox_id' is about another sandbox")
  end
  check_words(call, found)
  if found.token == "" or found.token:find("[%c ]") then
    answers.refuse(call, "'token' is no token")
  end
  check_gateway(client, call, found.gateway_url)
  local state = {
    client = client,
    token = found.token,
    url = ("%s/%s/%s/authorize"):format(found.gateway_url:gsub("/+$", ""),
      url.escape(answers.id(call, found.user_ns, "user_ns")),
      url.escape(answers.id(call, found.job_id, "job_id"))),
    folders = {},
    closed = false,
  }
  found.token, found.gateway_url, found.user_ns, found.job_id = nil, nil, nil, nil
  local session = setmetatable(found, Session)
  states[session] = state
  return session
end

-- -------------------------------------------------------------------- the keys

local function checked_key(key)
  check.string(key, "public_key")
  if key:find("PRIVATE KEY", 1, true) then
    error("public_key: this is a private key; the public one is in the file that ends in .pub", 0)
  end
  key = key:match("^%s*(.-)%s*$")
  if #key > MAX_KEY or key:find("%c") or not key:find("^[%w@.-]+ [%w+/]+=*") then
    error("public_key: expected one line, such as ssh-ed25519 AAAA…", 0)
  end
  return key
end

---@async
local function send_key(session, state, key)
  local call = {
    op = "authorize", method = "POST", url = state.url, sandbox_id = session.sandbox_id,
    secrets = { state.token }, gateway = true,
  }
  local ok, response = pcall(http.request, "POST", state.url, {
    headers = {
      ["authorization"] = "Bearer " .. state.token,
      ["content-type"] = "application/json",
    },
    body = json.encode({
      session_id = session.session_id, public_key = key, ttl_seconds = session.ttl_seconds,
    }),
    timeout = AUTHORIZE_SECONDS,
    connect_timeout = wire.connect_timeout,
    max_body = 65536,
    proxy = state.client.config.proxy,
    group = "sandbox gateway",
  })
  if ok and response.status >= 200 and response.status < 300 then return end
  if ok then error(failure.from_status(call, response), 0) end
  if not errors.is_error(response) or response.kind == "cancelled" then error(response, 0) end
  error(failure.from_transport(call, response), 0)
end

local function open_state(session, what)
  local state = states[session]
  if state.closed then error(what .. ": this SSH session is closed", 3) end
  return state
end

---Lets the owner of a key in. Once more with the same key is harmless, and so this is
---tried again after a failure that passes.
---@async
---@param public_key string  the line of an `id_….pub`
function Session:authorize(public_key)
  local key = request.blame(checked_key, public_key)
  local state = open_state(self, "authorize")
  retry.call(function() send_key(self, state, key) end, {
    attempts = 4,
    timeout = AUTHORIZE_SECONDS,
  })
end

---@async
local function forget_keys(state)
  while #state.folders > 0 do
    local folder = table.remove(state.folders)
    task.shield(CLOSE_SECONDS, errors.try, folder.close, folder)
  end
  if with_keys then with_keys[state] = nil end
end

---@async
local function forget_all_keys()
  local left = with_keys or {}
  with_keys = nil
  for state in pairs(left) do
    forget_keys(state)
  end
end

---@async
local function key_folder(state)
  local folder = fs.tmpdir({ prefix = "sbxlua-ssh-" })
  table.insert(state.folders, folder)
  if not with_keys then
    with_keys = {}
    run.defer(forget_all_keys, "removing SSH keys")
  end
  with_keys[state] = true
  return folder.path
end

---@async
local function keygen(path)
  process.run({ "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "sbxlua", "-f", path }, {
    check = true,
    timeout = KEYGEN_SECONDS,
  })
  return fs.read(path .. ".pub")
end

---Makes a key that lives as long as the session, with the ssh-keygen of this machine,
---and lets its owner in. Raises `unsupported` where there is no ssh-keygen.
---@async
---@return string path  of the private key
function Session:new_key()
  local state = open_state(self, "new_key")
  if not process.which("ssh-keygen") then
    errors.raise({
      kind = "unsupported",
      code = "ssh_keygen",
      op = "new_key",
      message = "new_key: there is no ssh-keygen here: authorize a key of your own",
    })
  end
  local path = key_folder(state) .. "/id"
  if state.closed then
    forget_keys(state)
    open_state(self, "new_key")
  end
  self:authorize(keygen(path))
  return path
end

-- Where ssh notes the key of the host, which nobody told us: beside a key of ours, so
-- that all commands of the session meet the same host. Quoted as ssh reads options.
local function known_hosts(state, key)
  for _, folder in ipairs(state.folders) do
    local path = folder.path .. "/known_hosts"
    if key == folder.path .. "/id" and not path:find('["\\%c]') then
      return ('"%s"'):format(path:gsub("%%", "%%%%"))
    end
  end
  return "/dev/null"
end

---The words of a command that logs in, for `process.run`: ssh with this session's key,
---which asks nothing and hands on neither agent nor screen, and the words of `command`
---behind that. The host is taken for the right one at the first login; with a key of
---`new_key` it has to be the same after that.
---@param key string  path of the private key
---@param command? string[]
---@return string[] argv
function Session:argv(key, command)
  check.string(key, "key")
  local argv = {
    "ssh", "-a", "-x", "-i", key, "-p", tostring(self.port), "-o", "IdentitiesOnly=yes",
    "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new",
    "-o", "UserKnownHostsFile=" .. known_hosts(states[self], key),
    "-l", self.session_id, "--", self.host,
  }
  for _, word in ipairs(command or {}) do
    argv[#argv + 1] = check.string(word, "command")
  end
  return argv
end

-- ------------------------------------------------------------- opening, closing

---@async
local function end_session(client, sandbox_id, session_id, even_closed)
  wire.call(client, {
    op = "close_ssh_session",
    method = "DELETE",
    path = wire.sandbox_path(sandbox_id, "/ssh-session/" .. url.escape(session_id)),
    sandbox_id = sandbox_id,
    even_closed = even_closed,
  })
end

---Ends the session; once more is harmless, and so it is when the sandbox has gone.
---@async
function Session:close()
  local state = states[self]
  forget_keys(state)
  if state.closed then return end
  local _, err = errors.try(end_session, state.client, self.sandbox_id, self.session_id, true)
  if err and not (errors.is_error(err) and err.status == 404) then error(err, 0) end
  state.closed = true
  forget_keys(state) -- of a task that was just making one
end

-- An error in flight stays the one that is raised.
function Session:__close(err)
  local ok, failed = pcall(task.shield, CLOSE_SECONDS, self.close, self)
  if ok then return end
  if err == nil then error(failed, 0) end
  log.warn("cannot close an SSH session: " .. tostring(failed), { sandbox_id = self.sandbox_id })
end

function Session:__tostring()
  return log.clean(("SSH session %s of sandbox %s at %s"):format(self.session_id,
    self.sandbox_id, self.external_endpoint), 300)
end

check.methods(Session, "session")

local function checked_options(given)
  local options = check.options(given, { ttl_seconds = check.none }, -1)
  if options.ttl_seconds ~= nil then
    options.ttl_seconds = check.integer(options.ttl_seconds, "ttl_seconds", 1, MAX_TTL)
  end
  return options
end

---Opens an SSH session into a container: a `<close>` value, which closes it. Raises
---`unsupported` for a virtual machine.
---@async
---@param target string|sbx.sandbox.Box
---@param options? { ttl_seconds?: integer }  how long it may last (the API's default: 900)
---@return sbx.sandbox.SshSession
function methods:open_ssh_session(target, options)
  local id = wire.id_of(target)
  local opts = request.blame(checked_options, options)
  profile.require(self, id, "ssh", "open_ssh_session")
  local call = {
    op = "open_ssh_session",
    method = "POST",
    path = wire.sandbox_path(id, "/ssh-session"),
    body = json.object({ ttl_seconds = opts.ttl_seconds }),
    sandbox_id = id,
    shield = OPEN_SECONDS,
    confidential = true,
  }
  return session_from(self, call, (wire.call(self, call)), id)
end

local function checked_session_id(id)
  check.string(id, "session")
  answers.check_id(id, "session")
end

---Closes what `open_ssh_session` opened.
---@async
---@param target string|sbx.sandbox.Box
---@param session string|sbx.sandbox.SshSession  or its `session_id`
function methods:close_ssh_session(target, session)
  local id = wire.id_of(target)
  local session_id = session
  if type(session) == "table" then session_id = session.session_id end
  request.blame(checked_session_id, session_id)
  profile.require(self, id, "ssh", "close_ssh_session")
  end_session(self, id, session_id)
  local state = states[session]
  if state then
    state.closed = true
    forget_keys(state)
  end
end

return { methods = methods }
