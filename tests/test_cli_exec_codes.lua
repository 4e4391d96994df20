-- `sbxlua exec` passes on every exit code there is: all of them through the verb in this
-- process, those with a meaning of their own through the program.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local exec = require("sbx.cli.verbs.exec")
local output = require("sbx.cli.output")
local contexts = require("sbx.sandbox.contexts")
local support = dofile(here .. "cli_support.lua")
local task = require("sbx.task")

local MEANINGFUL = { 0, 1, 2, 4, 5, 8, 124, 125, 126, 127, 128, 130, 137, 141, 143, 255 }

local function words_for(code)
  return { "sh", "-c", "exit " .. code }
end

-- What `run(code)` gives for codes other than the code itself.
local function wrong_ones(codes, run)
  local wrong = {}
  task.map(codes, function(code)
    local got = run(code)
    if got ~= code then wrong[#wrong + 1] = ("%d: %s"):format(code, tostring(got)) end
  end, { limit = 6 })
  return table.concat(wrong, ", ")
end

test("exec: exit codes 0 to 255 are the command's", function()
  support.with_server(function(cli)
    local id = cli:create()
    local codes = {}
    for code = 0, 255 do
      codes[#codes + 1] = code
    end
    contexts.set_command_line({ url = cli.url, api_key = cli.key })
    local ok, wrong = pcall(wrong_ones, codes, function(code)
      return exec.run({ sandbox = id, argv = words_for(code), env = {} },
        output.new({}, "exec"))
    end)
    contexts.set_command_line({})
    assert(ok and wrong == "", wrong)

    wrong = wrong_ones(MEANINGFUL, function(code)
      local result = cli:run({ "exec", id, "--", table.unpack(words_for(code)) })
      return result.stderr == "" and result.code or result.stderr
    end)
    assert(wrong == "", wrong)
  end)
end)
