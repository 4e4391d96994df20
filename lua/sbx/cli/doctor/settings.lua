-- What the client needs of this machine: its settings, its key, and the state folder with
-- what runs keep there. Nothing is changed, but for a folder that comes and goes.

local config = require("sbx.sandbox.config")
local contexts = require("sbx.sandbox.contexts")
local dead_runs = require("sbx.sandbox.dead_runs")
local errors = require("sbx.errors")
local finding = require("sbx.cli.doctor.finding")
local fs = require("sbx.fs")
local json = require("sbx.json")
local ledger = require("sbx.sandbox.ledger")
local log = require("sbx.log")
local state = require("sbx.sandbox.state")

local settings = {}

local OTHERS = 63 -- permissions of group and others
local MIB = 1024 * 1024
local LITTLE = 100 * MIB -- bytes that a state folder should have room for
local MOST_FILE = MIB -- bytes of a file of settings
local MOST_TOKENS = 64 * MIB
local MOST_RUNS = 500 -- ledgers that are looked at
local TOKENS = "^sbxlua%-tokens 1 "

local ok, weak, missing = finding.ok, finding.weak, finding.missing

local function mode_of(facts)
  return ("%03o"):format(facts.mode & 511)
end

local function is_absent(err)
  return err.code == "ENOENT" or err.code == "ENOTDIR"
end

local function is_mine(facts)
  return facts.uid == fs.stat("/proc/self").uid
end

local function shown(path)
  return log.clean(path, 150)
end

-- ---------------------------------------------------------------------- files

-- ~/.prime/config.json, as the other tools of this account have it, too.
---@async
local function try_config_file()
  local home = os.getenv("HOME") or ""
  if home == "" then return ok("none: HOME is not set") end
  local path = home .. "/.prime/config.json"
  local text, err = errors.try(fs.read, path, { max = MOST_FILE })
  if not text then
    if is_absent(err) then return ok("none: " .. shown(path)) end
    return weak("not used: " .. finding.line(err), "make it readable for you, or remove it")
  end
  local decoded, document = pcall(json.decode, text)
  -- Not where, nor what: that might quote the key.
  if not decoded then
    return weak(shown(path) .. " is no JSON, and is not used", "write it anew, or remove it")
  end
  if type(document) ~= "table" or not text:find("^%s*{") then
    return missing(shown(path) .. " is no JSON object", "write it anew, or remove it")
  end
  local facts = fs.stat(path)
  if type(document.api_key) == "string" and facts.mode & OTHERS ~= 0 then
    return weak(("%s holds a key, and its mode is %s"):format(shown(path), mode_of(facts)),
      "chmod 600 " .. shown(path))
  end
  return ok(shown(path))
end

---@async
local function try_contexts()
  local path = contexts.path()
  local document, err = errors.try(contexts.load)
  if not document then
    return missing(finding.line(err), "mend or remove " .. shown(path or "the file"))
  end
  local count = 0
  for _ in pairs(document.contexts) do
    count = count + 1
  end
  if count == 0 then return ok("none") end
  local current = document.current
  if current and not document.contexts[current] then
    return missing(("the current one, '%s', is not there"):format(log.clean(current, 100)),
      "sbxlua context use NAME, or `sbxlua context use -` for none")
  end
  local now = current and ", now: " .. log.clean(current, 100) or ", none is the current one"
  return ok(("%d in %s%s"):format(count, shown(path), now))
end

-- ----------------------------------------------------------------------- state

-- The folder that is there of a path: itself, or the nearest above it.
---@async
local function nearest_folder(path)
  while path ~= "" and not errors.try(fs.lstat, path) do
    path = path:match("^(.*)/[^/]*$")
  end
  return path ~= "" and path or "/"
end

---@async
local function is_writable(folder)
  local _, err = errors.try(function()
    local _ <close> = fs.tmpdir({ dir = folder, prefix = ".sbxlua-doctor-" })
  end)
  return err == nil, err
end

local HOW = "set XDG_STATE_HOME to a folder of yours"

---@async
local function try_state_folder()
  local path = state.place()
  if not path then
    return weak("none: runs share no tokens, and what a killed run leaves is not found",
      "set HOME or XDG_STATE_HOME to a folder of yours")
  end
  local facts = errors.try(fs.lstat, path)
  local there = facts and path or nearest_folder(path)
  if facts and facts.type ~= "directory" then
    return missing(shown(path) .. " is no folder", HOW)
  end
  if facts and not is_mine(facts) then
    return missing(shown(path) .. " belongs to another user", HOW)
  end
  local writable, err = is_writable(there)
  if not writable then
    return missing(finding.line(err), "make it writable for you, or " .. HOW)
  end
  local room = fs.disk(there).available
  if room < LITTLE then
    return weak(("%s: %d MiB are free"):format(shown(path), room // MIB), "make room there")
  end
  if facts and facts.mode & OTHERS ~= 0 then
    return weak(("%s: its mode is %s"):format(shown(path), mode_of(facts)),
      "chmod 700 " .. shown(path) .. "; the next run does so, too")
  end
  return ok(shown(path) .. (facts and "" or ": made when it is needed"))
end

-- The tokens of one account, which processes share.
---@async
local function try_tokens(account)
  local folder = state.place()
  if not folder then return ok("in memory only") end
  local path = folder .. "/tokens/" .. account
  local facts, err = errors.try(fs.lstat, path)
  if not facts then
    if is_absent(err) then return ok("none yet") end
    return weak("not used: " .. finding.line(err), "make it readable for you")
  end
  if facts.type ~= "file" or not is_mine(facts) then
    return weak("not used: " .. shown(path) .. " is not a file of yours", "rm " .. shown(path))
  end
  if facts.mode & OTHERS ~= 0 then
    return weak(("not used: its mode is %s"):format(mode_of(facts)),
      "chmod 600 " .. shown(path) .. ", or remove it if others could read it")
  end
  local bytes, problem = errors.try(fs.read, path, { max = MOST_TOKENS })
  if not bytes then
    return weak("not used: " .. finding.line(problem), "rm " .. shown(path))
  end
  if not bytes:find(TOKENS) then
    return weak("not used: " .. shown(path) .. " is damaged", "rm " .. shown(path))
  end
  local _, lines = bytes:gsub("\n", "\n")
  return ok(("%d in %s"):format(lines - 1, shown(path)))
end

-- ---------------------------------------------------------------------- ledger

-- What one ledger says: nil where its run is alive, or has left nothing.
---@async
local function left_by(path)
  local run, alive, problem = dead_runs.take(path)
  if not run then return nil, alive, problem end
  local _ <close> = run
  local boxes = 0
  for _ in pairs(run.ids) do
    boxes = boxes + 1
  end
  if boxes + run.unsettled == 0 then return nil, false, nil end
  return { boxes = boxes, unsettled = run.unsettled, account = run.account }, false, nil
end

---@async
local function count_runs(folder, account)
  local sum = { alive = 0, dead = 0, boxes = 0, others = 0, seen = 0, problem = nil }
  for _, name in ipairs(fs.list(folder)) do
    if name:find("^[^.].*%.jsonl$") and sum.seen < MOST_RUNS then
      sum.seen = sum.seen + 1
      local left, alive, problem = left_by(folder .. "/" .. name)
      sum.problem = sum.problem or problem
      if alive then sum.alive = sum.alive + 1 end
      if left and account and left.account ~= account then
        sum.others = sum.others + 1
      elseif left then
        sum.dead, sum.boxes = sum.dead + 1, sum.boxes + left.boxes + left.unsettled
      end
    end
  end
  return sum
end

local function many(count, what)
  return ("%d %s%s"):format(count, what, count == 1 and "" or what:find("x$") and "es" or "s")
end

---@async
local function try_ledger(account)
  local place = state.place()
  local folder = place and place .. "/" .. ledger.FOLDER
  if not folder or not errors.try(fs.is_dir, folder) then return ok("no runs") end
  local sum = count_runs(folder, account)
  local parts = { many(sum.alive, "run") .. " alive" }
  if sum.others > 0 then
    parts[2] = many(sum.others, "dead run") .. " of other accounts"
  end
  if sum.seen == MOST_RUNS then parts[#parts + 1] = ("of the %d looked at"):format(MOST_RUNS) end
  local rest = table.concat(parts, ", ")
  if sum.dead > 0 then
    return weak(("%s left up to %s; %s"):format(many(sum.dead, "dead run"),
      sum.boxes == 1 and "1 sandbox" or sum.boxes .. " sandboxes", rest),
      "sbxlua gc shows them, sbxlua gc --yes deletes them")
  end
  if sum.problem then
    return weak(finding.line(sum.problem), "look at the file, and remove it if it is none of ours")
  end
  if sum.others > 0 then
    return weak(rest, "sbxlua gc --yes with the key and address of that account")
  end
  return ok(rest)
end

-- ------------------------------------------------------------------- together

---The address and key that count, or why there are none.
---@async
---@return sbx.sandbox.Config|nil settings
---@return sbx.Error|nil err
function settings.load()
  return errors.try(config.load, {})
end

---The steps about files of settings and of state.
---@param known sbx.sandbox.Config|nil  whose account; nil: of any
---@return sbx.cli.DoctorStep[]
function settings.steps(known)
  local account = known and known.api_key ~= "" and state.account(known) or nil
  return {
    { "config file", try_config_file, needed = true },
    { "contexts", try_contexts, needed = true },
    { "state folder", try_state_folder },
    { "token cache", function()
      if not account then return finding.skipped("there is no key") end
      return try_tokens(account)
    end },
    { "ledger", function() return try_ledger(account) end },
  }
end

return settings
