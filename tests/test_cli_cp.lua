-- `sbxlua cp`, against a real server with real sandboxes.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local fs = require("sbx.fs")
local json = require("sbx.json")
local process = require("sbx.process")
local support = dofile(here .. "cli_support.lua")

local ALL = {}
for byte = 0, 255 do
  ALL[#ALL + 1] = string.char(byte)
end
ALL = table.concat(ALL)

test("cp: files up and down, under a new name or their own", function()
  support.with_server(function(cli)
    local id = cli:create("-n", "box")
    local file = cli.home .. "/in"
    fs.write(file, ALL)
    assert(cli:out({ "cp", file, "box:/tmp/out" }) == "")
    assert(cli:out({ "exec", "box", "--", "cat", "/tmp/out" }) == ALL)
    cli:out({ "cp", "--checksum", id .. ":/tmp/out", cli.home .. "/back" })
    assert(fs.read(cli.home .. "/back") == ALL)

    -- Into folders, below the working folder, from here.
    cli:out({ "cp", "in", "box:" }, { cwd = cli.home })
    cli:out({ "cp", "./in", "box:/tmp/new/" }, { cwd = cli.home })
    assert(cli:out({ "exec", "box", "--", "sh", "-c", "cat in | wc -c; ls /tmp/new" })
      == "256\nin\n")
    fs.mkdir(cli.home .. "/folder")
    cli:out({ "cp", "box:in", cli.home .. "/folder" })
    assert(fs.read(cli.home .. "/folder/in") == ALL)

    -- What can be run stays so.
    fs.write(cli.home .. "/tool", "#!/bin/sh\necho ran\n", { mode = 493 })
    cli:out({ "cp", cli.home .. "/tool", "box:/tmp/tool" })
    assert(cli:out({ "exec", "box", "--", "/tmp/tool" }) == "ran\n")

    local row = cli:json({ "cp", file, "box:/tmp/out", "-o", "json" })
    assert(row.v == 1 and row.bytes == 256 and row.sandbox_id == id)
  end)
end)

test("cp: stdin and stdout, as bytes and as archives", function()
  support.with_server(function(cli)
    cli:create("-n", "box")
    cli:out({ "cp", "-", "box:/tmp/bytes" }, { input = ALL })
    assert(cli:out({ "cp", "box:/tmp/bytes", "-" }) == ALL)
    cli:out({ "cp", "-", "box:/tmp/empty" }, { input = "" })
    assert(cli:out({ "cp", "box:/tmp/empty", "-" }) == "")

    fs.mkdir(cli.home .. "/tree/sub", { parents = true })
    fs.write(cli.home .. "/tree/sub/file", ALL)
    local tar = process.run({ "tar", "-cf", "-", "-C", cli.home, "tree" }, { check = true })
    local packed = tar.stdout
    cli:out({ "cp", "-r", "-", "box:/tmp/there" }, { input = packed })
    local archive = cli:out({ "cp", "-r", "box:/tmp/there/tree", "-" })
    local names = process.run({ "tar", "-tf", "-" }, { input = archive, check = true }).stdout
    assert(names == "tree/\ntree/sub/\ntree/sub/file\n", names)
  end)
end)

test("cp: trees as docker has them", function()
  support.with_server(function(cli)
    cli:create("-n", "box")
    fs.mkdir(cli.home .. "/tree/sub", { parents = true })
    fs.write(cli.home .. "/tree/sub/file", "x")
    local options = { cwd = cli.home }
    local function remote()
      return (cli:out({ "exec", "box", "-w", "/tmp", "--", "find", "copy", "-type", "f" }))
    end
    cli:out({ "cp", "-r", "tree", "box:/tmp/copy" }, options)
    assert(remote() == "copy/sub/file\n")
    cli:out({ "cp", "-r", "tree/.", "box:/tmp/copy" }, options)
    assert(remote() == "copy/sub/file\n")
    cli:out({ "cp", "-r", "tree", "box:/tmp/copy" }, options)
    assert(remote():find("copy/tree/sub/file", 1, true))

    cli:out({ "cp", "-r", "box:/tmp/copy/sub", "down" }, options)
    assert(fs.read(cli.home .. "/down/file") == "x")
    cli:out({ "cp", "-r", "box:/tmp/copy/sub", "down" }, options)
    assert(fs.read(cli.home .. "/down/sub/file") == "x")
  end)
end)

test("cp: what cannot be copied is said, with its exit status", function()
  support.with_server(function(cli)
    cli:create("-n", "box")
    cli:fails(2, { "cp", "a", "b" }, "neither is SANDBOX:PATH")
    cli:fails(2, { "cp", "box:a", "box:b" }, "both are in sandboxes")
    cli:fails(2, { "cp", "box:/tmp", "x" }, "give -r")
    cli:fails(2, { "cp", cli.home, "box:/tmp/x" }, "give -r")
    cli:fails(2, { "cp", "-", "box:/tmp/" }, "is a folder")
    cli:fails(5, { "cp", "box:/nowhere", cli.home .. "/x" }, "there is no '/nowhere'")
    cli:fails(5, { "cp", "nobox:/x", "x" }, "no sandbox 'nobox'")
    cli:fails(1, { "cp", cli.home .. "/nowhere", "box:/x" }, "no such file")
    local failed = cli:fails(5, { "cp", "box:/nowhere", "x", "-o", "json" })
    assert(json.decode(failed.stderr).error.kind == "file_not_found")
  end)
end)
