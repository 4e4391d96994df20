-- The programs in README.md and docs/ do what the pages show. A block that opens
-- with "```lua run" is a whole program, one with "```lua run local" a program
-- that runs with --local. It must end with status 0, and where a "```text" block
-- comes next, that is its stdout to the byte; stderr is free.

local fs = require("sbx.fs")
local process = require("sbx.process")

local root = debug.getinfo(1, "S").source:match("^@(.*/)tests/") or ""
local SBXLUA = os.getenv("SBXLUA") or "/proc/self/exe"
local FENCE = "```"

-- The fenced blocks of a page, in order: { info, text, line }.
local function blocks_of(page)
  local blocks, open, number = {}, nil, 0
  for line in page:gmatch("([^\n]*)\n") do
    number = number + 1
    if open and line == FENCE then
      open.text = table.concat(open.lines, "\n") .. "\n"
      blocks[#blocks + 1], open = open, nil
    elseif open then
      table.insert(open.lines, line)
    elseif line:sub(1, #FENCE) == FENCE then
      open = { info = line:sub(#FENCE + 1), line = number, lines = {} }
    end
  end
  assert(not open, "a block is not closed")
  return blocks
end

-- The whole programs among them: { text, line, is_local, expected }.
local function programs_of(blocks)
  local programs = {}
  for i, block in ipairs(blocks) do
    local words = block.info:match("^lua%s+(.+)")
    if words then
      assert(words == "run" or words == "run local", "unknown mark: " .. block.info)
      local following = blocks[i + 1]
      programs[#programs + 1] = {
        text = block.text,
        line = block.line,
        is_local = words == "run local",
        expected = following and following.info == "text" and following.text or nil,
      }
    end
  end
  return programs
end

-- A folder of its own and no account: what a program shows depends on neither.
---@async
local function run_program(program)
  local folder <close> = fs.tmpdir({ prefix = "docs-" })
  fs.write(folder.path .. "/example.lua", program.text)
  local argv = { SBXLUA, "example.lua" }
  if program.is_local then table.insert(argv, 2, "--local") end
  return process.run(argv, {
    cwd = folder.path,
    env = { HOME = folder.path, PRIME_API_KEY = false, PRIME_API_BASE_URL = false },
    timeout = 120,
  })
end

---@async
local function check_page(path)
  local programs = programs_of(blocks_of(fs.read(root .. path)))
  assert(#programs > 0, path .. " has no program to run")
  for _, program in ipairs(programs) do
    local where = ("%s:%d: "):format(path, program.line)
    local result = run_program(program)
    assert(result.code == 0, ("%sstatus %d: %s"):format(where, result.code, result.stderr))
    assert(not program.expected or result.stdout == program.expected,
      ("%sprints\n%s"):format(where, result.stdout))
  end
end

local pages = { "README.md" }
for _, name in ipairs(fs.list(root .. "docs")) do
  if name:find("%.md$") then pages[#pages + 1] = "docs/" .. name end
end

for _, path in ipairs(pages) do
  test("docs: the programs of " .. path .. " do what it shows", function() check_page(path) end)
end

test("docs: a block is a program, its output, or neither", function()
  local page = "```lua run local\nprint(1)\n```\n\nthen\n```text\n1\n```\n```lua\nx ...\n```\n"
  local programs = programs_of(blocks_of(page))
  assert(#programs == 1 and programs[1].is_local and programs[1].line == 1)
  assert(programs[1].text == "print(1)\n" and programs[1].expected == "1\n")
  assert(not pcall(programs_of, blocks_of("```lua rnu\n```\n")))
  assert(not pcall(blocks_of, "```lua\n"))
end)
