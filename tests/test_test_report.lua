-- The reports for programs, as those programs read them: TAP by Perl's parser,
-- JUnit by Python's.

local fs = require("sbx.fs")
local host = require("sbx.core.host")
local json = require("sbx.json")
local process = require("sbx.process")
local runner = require("runner_support")
local test = require("sbx.test")

-- Every verdict, and texts that try to be something else.
local MIXED = [==[
local task = require("sbx.task")
test("passes", function()
  print("not ok 99 - said by the test")
  io.stdout:write("ok 98 - without an end of line")
end)
test("os.execute writes, too", function()
  os.execute("echo 'Bail out! said by a child'")
end)
test("fails # TODO not really\nok 77 - nor this <&>\"]]>", function()
  error("first \27[31mline\0\r\n...\n---\n  ok 3 - second line]]>\n\255\xEF\xBF\xBF", 0)
end)
test("skipped \\ and #", function() skip("no # printer\nok 5") end)
test.todo("to do")
test("ends with a backslash \\", function() end)
]==]

local PERL = [[
use strict; use warnings; use TAP::Parser; use JSON::PP;
binmode(STDIN, ":encoding(UTF-8)"); local $/; my $tap = <STDIN>;
my $parser = TAP::Parser->new({ tap => $tap });
my (@tests, @yaml, @unknown, $bailout);
while (my $each = $parser->next) {
  if ($each->is_test) {
    push @tests, [$each->number, $each->is_actual_ok ? "ok" : "not ok", $each->description,
      $each->directive, $each->explanation];
  } elsif ($each->is_yaml) { push @yaml, $each->data; }
  elsif ($each->is_bailout) { $bailout = $each->explanation; }
  elsif ($each->is_unknown) { push @unknown, $each->as_string; }
}
print JSON::PP->new->utf8->canonical->encode({ version => $parser->version, plan => $parser->plan,
  tests => \@tests, yaml => \@yaml, unknown => \@unknown, errors => [$parser->parse_errors],
  bailout => $bailout, passed => $parser->tests_run - $parser->failed });
]]

-- What Perl's parser makes of a report.
---@async
local function parse_tap(text)
  local found = process.run({ "perl", "-MTAP::Parser", "-MJSON::PP", "-e", "1" })
  if found.code ~= 0 then skip("Perl's TAP::Parser is not installed") end
  local result = process.run({ "perl", "-e", PERL }, { input = text, timeout = 60 })
  assert(result.code == 0, result.stderr)
  return json.decode(result.stdout)
end

test("tap: Perl's parser reads every verdict, and nothing that tests print", function()
  local result = runner.run(MIXED, "--tap")
  test.equal(result.code, 1)
  local seen = parse_tap(result.stdout)
  test.equal(seen.errors, {})
  test.equal(seen.unknown, {})
  test.equal(tonumber(seen.version), 13)
  test.equal(seen.plan, "1..6")
  test.equal(seen.bailout, json.null)
  local verdicts = {}
  for i, each in ipairs(seen.tests) do
    verdicts[i] = table.concat({ each[1], each[2], each[4] }, " ")
  end
  test.equal(verdicts, { "1 ok ", "2 ok ", "3 not ok ", "4 ok SKIP", "5 not ok TODO", "6 ok " })
  test.contains(seen.tests[3][3], "ok 77 - nor this <&>")
  test.contains(seen.tests[4][5], "printer")
  test.contains(result.stderr, "not ok 99 - said by the test")
  test.contains(result.stderr, "Bail out! said by a child")
end)

test("tap: a failure has its message and its place as YAML", function()
  local result = runner.run([[
    test("one", function()
      test.equal({ a = 1 }, { a = 2 })
    end)
    test("two", function() leaked = 1 end)
  ]], "--tap", "--seed", "7")
  local seen = parse_tap(result.stdout)
  test.equal(seen.errors, {})
  test.equal(#seen.yaml, 2)
  test.contains(seen.yaml[1].message, ".a: got 1, expected 2\n")
  test.equal(seen.yaml[1].at, "test_sample.lua:2\n")
  test.equal(tonumber(seen.yaml[1].seed), 7)
  test.equal(seen.yaml[2].message, "globals left behind: leaked\n")
end)

test("tap: prove runs a suite and tells its failures", function()
  if process.run({ "sh", "-c", "command -v prove" }).code ~= 0 then skip("no prove here") end
  local folder <close> = fs.tmpdir({ prefix = "tap-" })
  local good, bad = folder.path .. "/test_good.lua", folder.path .. "/test_bad.lua"
  fs.write(good, [[
    test("a", function() print("x") end)
    test("b", function() skip("why") end)
    test.todo("c")
  ]])
  fs.write(bad, MIXED)
  local command = { "prove", "--exec", host.executable() .. " test --tap", good }
  local result = process.run(command, { timeout = 60 })
  assert(result.code == 0, result.stdout .. result.stderr)
  test.contains(result.stdout, "Result: PASS")
  command[5] = bad
  result = process.run(command, { timeout = 60 })
  assert(result.code ~= 0)
  test.contains(result.stdout, "Failed 1/6 subtests")
end)

test("tap: a run without tests, one that fails fast and one that is interrupted", function()
  local none = runner.run("", "--tap")
  test.equal(none.code, 1)
  test.equal(none.stdout, "TAP version 13\nBail out! no tests were found\n")

  local fast = runner.run('test("a", error) test("b", error)', "--tap", "--fail-fast")
  local seen = parse_tap(fast.stdout)
  test.equal({ seen.plan, seen.errors, #seen.tests }, { "1..1", {}, 1 })

  local code, stdout = runner.interrupt([[
    test("a", function() end)
    test("b", function() require("sbx.task").sleep(60) end)
  ]], "ok 1", "--tap")
  test.equal(code, 130)
  seen = parse_tap(stdout)
  test.equal({ #seen.tests, seen.bailout }, { 1, "interrupted" })
end)

test("tap: what a broken stdout makes of the run is not success", function()
  local folder <close> = fs.tmpdir({ prefix = "tap-" })
  fs.write(folder.path .. "/test_a.lua", 'test("a", function() end)')
  for _, word in ipairs({ "--tap", "--verbose" }) do
    local result = process.run({ "sh", "-c", '"$0" test "$1" "$2" > /dev/full',
      host.executable(), word, folder.path }, { timeout = 60 })
    assert(result.code ~= 0, word)
    test.contains(result.stderr:lower(), "no space left on device")
  end
end)

-- ---------------------------------------------------------------------- JUnit

local PYTHON = [[
import json, sys
import xml.etree.ElementTree as tree
root = tree.fromstring(sys.stdin.buffer.read())
def show(each):
    return {"tag": each.tag, "attributes": each.attrib, "text": (each.text or "").strip(),
            "inner": [show(other) for other in each]}
json.dump(show(root), sys.stdout)
]]

---@async
local function parse_xml(text)
  local result = process.run({ "python3", "-c", PYTHON }, { input = text, timeout = 60 })
  assert(result.code == 0, result.stderr .. "\n" .. text)
  return json.decode(result.stdout)
end

test("junit: Python's parser reads every verdict, file by file", function()
  local result, text = runner.run_with_report({
    ["tests/test_a.lua"] = MIXED,
    ["tests/test_b & c.lua"] = 'test("x", function() end)',
    ["tests/test_c.lua"] = "= broken",
  })
  test.equal(result.code, 1)
  local root = parse_xml(text)
  test.equal(root.tag, "testsuites")
  test.equal({ root.attributes.tests, root.attributes.failures, root.attributes.skipped },
    { "8", "2", "2" })
  test.equal(#root.inner, 3)
  test.equal(root.inner[2].attributes.name, "tests/test_b & c.lua")

  local first = root.inner[1]
  test.equal({ first.attributes.tests, first.attributes.failures, first.attributes.skipped },
    { "6", "1", "2" })
  local kinds = {}
  for i, case in ipairs(first.inner) do
    test.equal(case.attributes.classname, "tests/test_a.lua")
    assert(tonumber(case.attributes.time))
    kinds[i] = case.inner[1] and case.inner[1].tag or "passed"
  end
  test.equal(kinds, { "passed", "passed", "failure", "skipped", "skipped", "passed" })
  test.equal(first.inner[3].attributes.name, 'fails # TODO not really\nok 77 - nor this <&>"]]>')
  local failure = first.inner[3].inner[1]
  test.equal(failure.attributes.message, [[first \x1b[31mline\x00]] .. "\r")
  test.contains(failure.text, "ok 3 - second line]]>\n\\xff\\xef\\xbf\\xbf")
  test.equal(first.inner[4].inner[1].attributes.message, "no # printer\nok 5")
  test.contains(root.inner[3].inner[1].inner[1].text, "unexpected symbol")
end)

test("junit: no byte that a test fails with breaks the document", function()
  local bytes = {}
  for byte = 0, 255 do
    bytes[#bytes + 1] = ("\\%03d"):format(byte)
  end
  local all = table.concat(bytes)
  local _, text = runner.run_with_report(([[
    test("%s", function() error("%s", 0) end)
    test("valid: \u{1F600}\u{FFFE}\u{7F}\u{85}", function()
      error("\u{D7FF}\u{E000}\u{10FFFF}", 0)
    end)
  ]]):format(all, all))
  local cases = parse_xml(text).inner[1].inner
  test.contains(cases[1].attributes.name, [[\x00\x01]])
  test.contains(cases[1].attributes.name, "\t\n\\x0b")
  test.contains(cases[1].attributes.name, [[\x7f\x80\x81]])
  test.contains(cases[2].attributes.name, "valid: \u{1F600}\\xef\\xbf\\xbe\\x7f")
  test.equal(cases[2].inner[1].attributes.message, "\u{D7FF}\u{E000}\u{10FFFF}")
end)

test("junit: is written beside any other report, and when there is nothing in it", function()
  local result, text = runner.run_with_report('test("a", function() end)', "--tap")
  test.contains(result.stdout, "ok 1 - a\n1..1\n")
  test.equal(parse_xml(text).attributes.tests, "1")
  result, text = runner.run_with_report("")
  test.equal(result.code, 1)
  test.equal(parse_xml(text).attributes.tests, "0")
end)

test("junit: is written after an interruption, too", function()
  local folder <close> = fs.tmpdir({ prefix = "junit-" })
  local code = runner.interrupt([[
    test("a", function() end)
    test("b", function() print("ready") require("sbx.task").sleep(60) end)
  ]], "ready", "--junit", folder.path .. "/report.xml")
  test.equal(code, 130)
  test.equal(parse_xml(fs.read(folder.path .. "/report.xml")).attributes.tests, "1")
end)

test("junit: a report that cannot be written fails the run", function()
  local result = runner.run('test("a", function() end)', "--junit", "/nowhere/report.xml")
  test.equal(result.code, 1)
  test.contains(result.stderr, "/nowhere/report.xml")
end)
