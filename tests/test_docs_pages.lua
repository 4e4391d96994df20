local docs = require("sbx.docs")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local process = require("sbx.process")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

test("docs: every page of docs/ is in the binary, with its title", function()
  local listed = {}
  for _, page in ipairs(docs.pages()) do
    listed[page.name] = page.title
  end
  local count = 0
  for _, name in ipairs(fs.list(here .. "../docs")) do
    local page = name:match("^(.*)%.md$")
    if page then
      count = count + 1
      local text = fs.read(here .. "../docs/" .. name)
      assert(docs.page(page) == text, page)
      assert(#listed[page] > 3 and text:find(listed[page], 1, true) == 3, page)
    end
  end
  assert(count == #docs.pages())
end)

test("docs: a page is found by the module's name, too", function()
  assert(docs.page("sbx.http"):find("^# sbx.http: "))
  assert(docs.page("http") == docs.page("sbx.http"))
end)

test("docs: what is no page is said, with what was meant, and no file is read", function()
  local text, problem = docs.page("htpt")
  assert(not text and problem == "no page 'htpt'; did you mean 'http'?", problem)
  for _, name in ipairs({ "../README", "", "a/b", "..", "http.md\0" }) do
    assert(docs.page(name) == nil, name)
  end
end)

test("docs: sources of modules and other files are found, names that are none are not", function()
  assert(host.file("sbx.docs"):find("^%-%- The pages of docs/"))
  assert(host.file("sbx.sandbox"):find("^%-%- The sandbox client"))
  assert(host.file("sbx.nothing") == nil and host.file("docs/nothing.md") == nil)
  assert(#host.files("sbx.task") > 5 and #host.files("nothing") == 0)
end)

test("docs: `sbxlua help` shows a page, and of a word that is both the command", function()
  local function help(...)
    return process.run({ host.executable(), "help", ... }, { timeout = 60 })
  end
  assert(help("http").stdout == docs.page("http"))
  assert(help("sbx.test").stdout == docs.page("test"))
  assert(help("test").stdout:find("usage: sbxlua test", 1, true))
  local result = help("htttp")
  assert(result.code == 2 and result.stderr:find("did you mean 'http'?", 1, true), result.stderr)
end)
