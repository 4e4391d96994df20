-- The verb `get`.

local boxes = require("sbx.cli.boxes")
local log = require("sbx.log")
local sandbox = require("sbx.sandbox")

local verb = {}

verb.spec = {
  example = { "sbxlua get web", "sbxlua get web -o json" },
  notes = "With -o json it is one object where one sandbox was asked for, else an array. What is"
    .. " not there does not keep the others back; the exit status is 5 then.",
  arguments = { boxes.arguments },
}

local function text_of(value)
  if type(value) == "table" then
    local parts = {}
    for i, one in ipairs(value) do
      parts[i] = tostring(one)
    end
    return table.concat(parts, ", ")
  end
  return tostring(value)
end

-- A field a line, for people.
local function print_fields(row)
  local names = {}
  for name, value in pairs(row) do
    if text_of(value) ~= "" and name ~= "id" and name ~= "name" then names[#names + 1] = name end
  end
  table.sort(names)
  table.insert(names, 1, "name")
  table.insert(names, 1, "id")
  for _, name in ipairs(names) do
    if row[name] ~= nil then
      io.stdout:write(("%-22s %s\n"):format(name, log.clean(text_of(row[name]), 1000)))
    end
  end
end

---@async
function verb.run(given, out)
  local client <close> = sandbox.client()
  local found, raise = boxes.look(client, given.sandbox)
  local rows = {}
  for i, box in ipairs(found) do
    rows[i] = boxes.row(box)
  end
  if #given.sandbox > 1 or out.format == "name" or out.format == "jsonl" then
    out:rows(rows, boxes.columns)
  elseif rows[1] and out:is_json() then
    out:one(rows[1], rows[1].id)
  elseif rows[1] then
    print_fields(rows[1])
  end
  raise()
end

return verb
