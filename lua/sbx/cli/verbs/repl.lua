-- The verb `repl`: what sbxlua without a script starts.

local verb = { uses = { client = true }, own_program = true, private = true }

verb.spec = {
  notes = "Each input is a job, which may wait while you type on; `:help` there says what else "
    .. "there is. What is made at the prompt is deleted when it ends. Where stdin is no terminal "
    .. "it is run as a script.",
  example = "sbxlua repl --local",
}

---@async
function verb.run(given)
  return require("sbx.repl").run({ is_local = given["local"] })
end

return verb
