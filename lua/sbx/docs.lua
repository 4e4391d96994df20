-- The pages of docs/, which are in the binary: for `:help` and `sbxlua help`.

local check = require("sbx.check")
local host = require("sbx.core.host")
local nearest = require("sbx.nearest")

---@class sbx.docs
local docs = {}

---@class sbx.docs.Page
---@field name string   "http"
---@field title string  its first line: "sbx.http: HTTP requests"

local function title_of(text)
  return text:match("^#%s*([^\n]*)") or ""
end

---All pages, sorted by name.
---@return sbx.docs.Page[]
function docs.pages()
  local pages = {}
  for _, file in ipairs(host.files("docs/")) do
    local name = file:match("^docs/(.*)%.md$")
    if name then pages[#pages + 1] = { name = name, title = title_of(host.file(file) or "") } end
  end
  return pages
end

---The text of a page, in Markdown: by the name of the page ("sandbox-files") or of the
---module it is about ("sbx.http"). nil and a message where there is none.
---@param name string
---@return string|nil text, string|nil problem
function docs.page(name)
  check.string(name, "name")
  local page = name:gsub("^sbx%.", "")
  local text = page:find("^[%w_.-]+$") and host.file("docs/" .. page .. ".md")
  if text then return text end
  local names = {}
  for _, each in ipairs(docs.pages()) do
    names[#names + 1] = each.name
  end
  return nil, "no page '" .. name .. "'" .. nearest.hint(page, names)
end

return docs
