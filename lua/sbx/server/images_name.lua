-- Names of images, as registries have them: NAME[:TAG][@sha256:DIGEST]. Two names mean
-- the same image when they are the same in full: "python" is, spelled out,
-- "docker.io/library/python:latest".

---@class sbx.server.images_name
local images_name = {}

local MAX_NAME = 512
local HUB, LIBRARY = "docker.io/", "library/"

---@class sbx.server.ImageName
---@field repository string  "docker.io/library/python"
---@field tag? string        "latest" where neither tag nor digest was given
---@field digest? string     64 hex digits
---@field full string        all of it, spelled out

local function is_repository(text)
  if text:find("//", 1, true) or text:find("..", 1, true) then return false end
  for part in (text .. "/"):gmatch("([^/]*)/") do
    if not part:find("^[%w][%w._-]*$") and not part:find("^[%w][%w.-]*:%d+$") then return false end
  end
  return true
end

local function spell_out(repository)
  local first = repository:match("^([^/]+)/")
  if first and (first:find("[.:]") or first == "localhost") then
    local rest = repository:match("^index%.docker%.io/(.*)$")
    if rest then return spell_out(rest) end
    if first .. "/" == HUB and not repository:sub(#HUB + 1):find("/", 1, true) then
      return HUB .. LIBRARY .. repository:sub(#HUB + 1)
    end
    return repository
  end
  return HUB .. (first and "" or LIBRARY) .. repository
end

---Takes a name apart; nil when it is none.
---@param text string
---@return sbx.server.ImageName|nil
function images_name.parse(text)
  if #text > MAX_NAME then return nil end
  local rest, digest = text:match("^(.-)@sha256:(%x+)$")
  if text:find("@", 1, true) and (not digest or #digest ~= 64) then return nil end
  rest = rest or text
  local repository, tag = rest:match("^(.*):([%w_][%w_.-]*)$")
  if not repository then repository = rest end
  if tag and #tag > 128 or not is_repository(repository) then return nil end
  if not tag and not digest then tag = "latest" end
  local name = { repository = spell_out(repository), tag = tag, digest = digest and digest:lower() }
  name.full = name.repository .. (tag and ":" .. tag or "")
    .. (digest and "@sha256:" .. name.digest or "")
  return name
end

---A name as people write it.
---@param full string
---@return string
function images_name.short(full)
  local rest = full:match("^docker%.io/library/(.*)$") or full:match("^docker%.io/(.*)$")
  return rest or full
end

return images_name
