local cli = require("sbx.cli")
local terminal = dofile("tests/peers/terminal.lua")
local width = require("sbx.cli.width")

test("cli.help: example first, wrapped, grouped, in the order of the table", function()
  local text = cli.help({
    name = "launch",
    summary = "Starts sandboxes.",
    example = "launch --count 3 images.txt",
    options = {
      { name = "zone", short = "z", type = "choice", choices = { "a", "b" }, default = "a" },
      { name = "form", type = "choice", choices = { "x", "y" }, default = "x", metavar = "FORM",
        help = "what it looks like" },
      { name = "count", type = "integer", default = 2, min = 1, max = 9, env = "COUNT",
        help = "how many of each image are started one after the other" },
      { name = "ttl", type = "duration", default = "10m", group = "limits", help = "時間 – Zeit" },
      { name = "secret-door", type = "flag", hidden = true },
      { name = "wait", type = "flag", default = true },
    },
    arguments = { { name = "file", many = true, help = "images, one a line" } },
  }, { width = 60 })
  assert(text == [[
launch --count 3 images.txt

Starts sandboxes.

usage: launch [options] FILE...

arguments
  FILE...          images, one a line

options
  -z, --zone a|b   (default a)
      --form FORM  what it looks like (x or y; default x)
      --count N    how many of each image are started one
                   after the other (default 2, 1 to 9, env
                   COUNT)
      --[no-]wait  (default yes)
  -h, --help       show this

limits
      --ttl TIME   時間 – Zeit (default 10m)
]], text)
end)

test("cli.help: no line is wider than the terminal, whatever the letters", function()
  local options = {}
  for i, help in ipairs({
    ("größer "):rep(20), ("漢字かな "):rep(20), ("x"):rep(200),
    "e\204\129e\204\129 " .. ("ab "):rep(50),
  }) do
    options[i] = { name = ("option"):rep(i) .. i, help = help, default = "d" }
  end
  for _, cells in ipairs({ 40, 57, 80 }) do
    local text = cli.help({ name = "p", summary = ("long "):rep(40), options = options },
      { width = cells })
    for line in text:gmatch("[^\n]+") do
      assert(width.of(line) <= cells, ("%d: %s"):format(cells, line))
      assert(utf8.len(line), line)
    end
  end
end)

test("cli.width: cells of wide, narrow and joined letters", function()
  assert(width.of("abc") == 3 and width.of("größe") == 5 and width.of("漢字") == 4)
  assert(width.of("e\204\129") == 1 and width.of("😀") == 2 and width.of("\u{200b}") == 0)
  assert(width.cut("漢字漢字", 5) == "漢字…" and width.cut("abc", 3) == "abc")
  assert(width.cut("abcd", 3) == "ab…" and width.cut("ab", 0) == "")
  assert(width.pad("漢", 4) == "漢  ")
end)

test("cli: help is as wide as the terminal", function()
  if not terminal.is_there() then skip("python3 has no pyte") end
  local code = [[require("sbx.cli").parse({ "--help" }, { name = "p",
    summary = ("word "):rep(30), options = { { name = "x", help = ("größe "):rep(30) } } })]]
  for _, columns in ipairs({ 40, 80 }) do
    local started <close> = terminal.start({ "-e", code }, { columns = columns })
    local screen = started:finish()
    assert(screen.status == 0)
    local longest = 0
    for _, line in ipairs(screen.lines) do
      longest = math.max(longest, width.of(line))
      assert(not line:find("^gr"), "the terminal broke a line: " .. line)
    end
    assert(longest > columns - 8 and longest <= columns, longest)
  end
end)
