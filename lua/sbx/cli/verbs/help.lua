-- The verb `help`.

local cli = require("sbx.cli")
local docs = require("sbx.docs")
local errors = require("sbx.errors")
local frame = require("sbx.cli.frame")
local host = require("sbx.core.host")
local nearest = require("sbx.nearest")
local pages = require("sbx.cli.pages")
local verbs = require("sbx.cli.verbs")

local verb = { uses = {} }

verb.spec = {
  example = { "sbxlua help exec", "sbxlua help jobs start", "sbxlua help sbx.http" },
  arguments = {
    { name = "command", optional = true, many = true, metavar = "COMMAND", complete = "verb",
      help = "the command, and its own, to tell about; or a module or page of the manual" },
  },
}
-- `given.command` is the verb itself.
verb.spec.arguments[1].name = "about"

local function unknown(word, names)
  errors.raise({
    kind = "usage", message = ("no help on '%s'%s"):format(word, nearest.hint(word, names)),
  })
end

-- The page of a module, or whatever page is called so.
local function show_page(word)
  local text = docs.page(word)
  if text then
    io.stdout:write(text)
    return
  end
  local names = verbs.names()
  for _, page in ipairs(docs.pages()) do
    names[#names + 1] = page.name
  end
  unknown(word, names)
end

---@async
function verb.run(given)
  local words = given.about or {}
  if #words == 0 then
    io.stdout:write(pages.help())
    return 0
  end
  local entry = verbs.find(words[1])
  if not entry then return show_page(words[1]) end
  local root = frame.spec(entry)
  local level, path = root.commands[1], words[1]
  for i = 2, #words do
    local found, names = nil, {}
    for _, command in ipairs(level.commands or {}) do
      names[#names + 1] = command.name
      if command.name == words[i] then found = command end
    end
    if not found then unknown(words[i], names) end
    level, path = found, path .. " " .. words[i]
  end
  local width = math.max(40, math.min(host.columns(1) or 80, 100))
  io.stdout:write(cli.help(root, { command = path, width = width }))
end

return verb
