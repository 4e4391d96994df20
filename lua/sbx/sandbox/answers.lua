-- Reads objects in the API's answers: only what is named comes out, under names in
-- snake_case, and what is of the wrong type raises an error that names the field.

local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local json = require("sbx.json")

local answers = {}

local MAX_ID = 256 -- bytes

local ARRAY = getmetatable(json.array()) -- of what came from [...]

---Raises kind `api`, code `BAD_ANSWER`.
---@param call { op: string, sandbox_id?: string }
---@param what string  for people: "'port' is not an integer"
function answers.refuse(call, what)
  error(failure.bad_answer(call, nil, what), 0)
end

local function snake_case(name)
  return (name:gsub("(%l)(%u)", "%1_%2"):lower())
end

local function camel_case(name)
  return (name:gsub("_(%l)", string.upper))
end

-- `value` if it is of this type, else nil; a whole number may be written as 3.0.
local function of_type(value, wanted)
  if wanted == "integer" then return math.type(value) and math.tointeger(value) end
  if type(value) == wanted then return value end
  return nil
end

-- Under the name that the API is known to use, else in its other spelling.
local function spelled(object, name)
  for _, one in ipairs({ name, snake_case(name), camel_case(name) }) do
    if object[one] ~= nil and object[one] ~= json.null then return object[one] end
  end
  return nil
end

---The fields of `object` as `shape` has them: name on the wire → "string", "integer",
---"number", "boolean" or "table", with a "?" behind it where it may be absent or null.
---A field that is not there under its name is looked for in the other spelling:
---`buildId` for `build_id`, and the other way round.
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
    local value = spelled(object, name)
    local bare = wanted:match("^%a+")
    if value == nil then
      if bare == wanted then
        answers.refuse(call, ("'%s' is missing"):format(where and where .. "." .. name or name))
      end
    elseif of_type(value, bare) == nil then
      answers.refuse(call, ("'%s' is not %s %s"):format(where and where .. "." .. name or name,
        bare == "integer" and "an" or "a", bare))
    end
    found[snake_case(name)] = of_type(value, bare)
  end
  return found
end

---Whether a value of an answer was written as a list; an object without fields is none.
---@param value any
---@return boolean
function answers.is_list(value)
  return type(value) == "table" and getmetatable(value) == ARRAY
end

---The objects of a list in an answer, each read by `shape`.
---@param call { op: string, sandbox_id?: string }
---@param answer table
---@param name string  of the list
---@param shape table<string, string>
---@return table[]
function answers.list(call, answer, name, shape)
  local items = failure.field(call, answer, name, "table")
  -- An object would pass for an empty list.
  if not answers.is_list(items) then answers.refuse(call, ("'%s' is not a list"):format(name)) end
  local list = {}
  for i, item in ipairs(items) do
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
