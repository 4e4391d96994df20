-- Reads objects in the API's answers: only what is named comes out, under names in
-- snake_case, and what is of the wrong type raises an error that names the field.

local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local json = require("sbx.json")

local answers = {}

local MAX_ID = 256 -- bytes

---Raises kind `api`, code `BAD_ANSWER`.
---@param call { op: string, sandbox_id?: string }
---@param what string  for people: "'port' is not an integer"
function answers.refuse(call, what)
  error(failure.bad_answer(call, nil, what), 0)
end

local function snake_case(name)
  return (name:gsub("(%l)(%u)", "%1_%2"):lower())
end

local function is_of(value, wanted)
  return type(value) == wanted or math.type(value) == wanted
end

---The fields of `object` as `shape` has them: name on the wire → "string", "integer",
---"number", "boolean" or "table", with a "?" behind it where it may be absent or null.
---@param call { op: string, sandbox_id?: string }
---@param object any
---@param shape table<string, string>
---@param where? string  the place of the object in the answer: "exposures[2]"
---@return table
function answers.read(call, object, shape, where)
  if type(object) ~= "table" then
    answers.refuse(call, ("'%s' is not an object"):format(where or "the answer"))
  end
  local found = {}
  for name, wanted in pairs(shape) do
    local value = object[name]
    local bare = wanted:match("^%a+")
    if value == json.null or value == nil then
      value = nil
      if bare == wanted then
        answers.refuse(call, ("'%s' is missing"):format(where and where .. "." .. name or name))
      end
    elseif not is_of(value, bare) then
      answers.refuse(call, ("'%s' is not %s %s"):format(where and where .. "." .. name or name,
        bare == "integer" and "an" or "a", bare))
    end
    found[snake_case(name)] = value
  end
  return found
end

---The objects of a list in an answer, each read by `shape`.
---@param call { op: string, sandbox_id?: string }
---@param answer table
---@param name string  of the list
---@param shape table<string, string>
---@return table[]
function answers.list(call, answer, name, shape)
  local list = {}
  for i, item in ipairs(failure.field(call, answer, name, "table")) do
    list[i] = answers.read(call, item, shape, ("%s[%d]"):format(name, i))
  end
  return list
end

---Raises a string when `id` cannot stand in a path: dot segments would be resolved
---away, and the request reach another path.
---@param id any
---@param name string  of the argument
---@return string
function answers.check_id(id, name)
  if type(id) ~= "string" or id == "" or id == "." or id == ".." or #id > MAX_ID then
    error(("%s: not an id"):format(name), 0)
  end
  return id
end

---Raises `BAD_ANSWER` when an id that the server gave is none.
---@param call { op: string, sandbox_id?: string }
---@param id string
---@param name string
---@return string
function answers.id(call, id, name)
  if not pcall(answers.check_id, id, name) or id:find("%c") then
    answers.refuse(call, ("'%s' is an impossible id"):format(name))
  end
  return id
end

---Raises `unsupported` on the private server of `--local`, which has sandboxes only.
---@param client sbx.sandbox.Client
---@param op string
---@param what string
---@param instead string
function answers.not_local(client, op, what, instead)
  if not client.config.is_local then return end
  errors.raise({
    kind = "unsupported",
    op = op,
    code = "local",
    message = ("%s: the server of --local does not have %s: %s"):format(op, what, instead),
  })
end

return answers
