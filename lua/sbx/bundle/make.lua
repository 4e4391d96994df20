-- Makes a program of a script: a copy of the running binary with all that the script
-- needs behind its end.

local errors = require("sbx.errors")
local format = require("sbx.bundle.format")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local modules = require("sbx.bundle.modules")
local parser = require("sbx.lint.parser")

local make = {}

local function refuse(text, ...)
  errors.raise({ kind = "usage", message = text:format(...) })
end

-- The path as the program names it: below the folder of the script without it, so
-- that the bytes do not depend on where the script lies.
local function name_of(path, folder)
  if folder ~= "" and path:sub(1, #folder) == folder then path = path:sub(#folder + 1) end
  return (path:gsub("^%./", ""))
end

local function check_syntax(name, text)
  local chunk, problem = load(parser.blank_first_line(text), "@" .. name, "t")
  if not chunk then refuse("%s", problem) end
end

local function is_safe(path)
  return path:sub(1, 1) ~= "/" and not ("/" .. path .. "/"):find("/../", 1, true)
end

-- Adds a file, or all that a folder holds.
---@async
local function add_file(files, path, folder)
  local name = name_of(path, folder)
  if not is_safe(name) then
    refuse("--include %s: not below the folder of the script (%s)", path,
      folder == "" and "." or folder)
  end
  if fs.stat(path).type == "directory" then
    for inside, entry in fs.walk(path) do
      if entry.type ~= "directory" then add_file(files, inside, folder) end
    end
  else
    files[name] = fs.read(path)
  end
end

-- Whether a word of --include is a file: where there is one, it is.
---@async
local function existing(word, folder)
  for _, path in ipairs({ word, folder .. word }) do
    if fs.exists(path) then return path end
  end
end

local function tell_missing(missing)
  local lines = {}
  for i, each in ipairs(missing) do
    local place = each.file == "--include" and "--include" or each.file .. ":" .. each.line
    lines[i] = ("%s: module '%s': %s"):format(place, each.name, each.problem)
  end
  refuse("%s\nwhat the script does not always need is left out with --exclude MODULE",
    table.concat(lines, "\n"))
end

---The bytes of the program.
---@async
---@param script string  its path
---@param options { include?: string[], exclude?: string[], is_local?: boolean }
---@return string program, sbx.bundle.Contents contents
function make.program(script, options)
  local folder = script:match("^(.*/)") or ""
  local text = fs.read(script)
  check_syntax(script, text)
  local also, files, without = {}, {}, {}
  for _, word in ipairs(options.include or {}) do
    local path = existing(word, folder)
    if path then
      add_file(files, path, folder)
    elseif word:find("/", 1, true) then
      refuse("--include %s: no such file", word)
    else
      also[#also + 1] = word
    end
  end
  for _, word in ipairs(options.exclude or {}) do
    without[word] = true
  end

  local needed = modules.of_script(script, text, also, without)
  if #needed.missing > 0 then tell_missing(needed.missing) end
  local contents = {
    is_local = options.is_local or false, modules = {}, files = files,
    script = { name = name_of(script, folder), bytes = text },
  }
  for _, module in ipairs(needed.found) do
    check_syntax(module.path, module.text)
    contents.modules[module.name] =
      { name = name_of(module.path, folder), bytes = module.text }
  end
  local program, problem = format.join(fs.read("/proc/self/exe"), format.encode(contents))
  if not program then refuse("%s: %s", host.executable(), problem) end
  return program, contents
end

return make
