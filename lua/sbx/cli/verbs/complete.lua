-- What the scripts of `sbxlua completion` call: `sbxlua complete -- WORDS... TYPED`
-- prints a proposal a line, WORD and a tab and its help, and last a line ":file", ":folder"
-- or ":none" for the names of files. Says nothing else, whatever happens.

local complete = require("sbx.cli.complete")
local contexts = require("sbx.sandbox.contexts")
local log = require("sbx.log")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local verb = { uses = {} }

local PATIENCE = 2 -- seconds that somebody who pressed Tab waits for the API
local MOST = 500

verb.spec = {
  arguments = { { name = "words", many = true, raw = true } },
}

-- What the words before it say about the API counts for the proposals, too.
local function take_settings(words)
  local said = {}
  for i, word in ipairs(words) do
    local name, value = word:match("^%-%-([%w-]+)=(.*)$")
    if not name then name, value = word:match("^%-%-([%w-]+)$"), words[i + 1] end
    if name == "context" or name == "url" then said[name] = value end
    if name == "key-file" and value then said.api_key = contexts.read_key(value) end
  end
  contexts.set_command_line(said)
end

---@async
local function sandboxes()
  local list = {}
  pcall(task.move_on, PATIENCE, function()
    local client <close> = sandbox.client({ throttle_timeout = 0 })
    if client.config.api_key == "" then return end
    for _, box in ipairs(client:list({ exclude_terminated = true, page = 1, per_page = MOST })) do
      list[#list + 1] = {
        word = log.clean(box.id, 100),
        help = log.clean(("%s, %s"):format(tostring(box.name), box.status), 80),
      }
    end
  end)
  return list
end

---@async
local function context_names()
  local list = {}
  local ok, document = pcall(contexts.load)
  for name, context in pairs(ok and document.contexts or {}) do
    list[#list + 1] = { word = name, help = context.url }
  end
  table.sort(list, function(a, b) return a.word < b.word end)
  return list
end

---@async
function verb.run(given)
  log.set_level("off")
  local words = given.words
  local typed = table.remove(words)
  pcall(take_settings, words)
  local ok, answer = pcall(complete.answer, words, typed, {
    sandboxes = sandboxes, contexts = context_names,
  })
  if not ok then return 0 end
  for _, one in ipairs(answer.words) do
    io.stdout:write(one.word, "\t", one.help or "", "\n")
  end
  io.stdout:write(":", answer.files or "none", "\n")
end

return verb
