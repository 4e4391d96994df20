-- The image store and archives that mean harm, or are cut short by a kill.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "images_support.lua")

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local importer = require("sbx.server.images_import")
local process = require("sbx.process")
local task = require("sbx.task")

local with_store, python = support.with_store, support.python
local fails, is_clean, read = support.fails, support.is_clean, support.read

-- Archives that want more than to be unpacked. Each is either refused or does no harm.
local HOSTILE = [[
def made(name, entries): tar(name + '.tar', entries)
made('up', [entry('../../../../../../tmp/HERE', 'x'), entry('a', 'a')])
made('absolute', [entry('/tmp/HERE', 'x'), entry('a', 'a')])
made('through', [link('d', '/tmp'), entry('d/HERE', 'x'), entry('a', 'a')])
made('upward', [link('d', '../' * 9 + 'tmp'), entry('d/HERE', 'x'), entry('a', 'a')])
made('hard', [hard('h', '/tmp/TARGET'), entry('h', 'overwritten'), entry('a', 'a')])
made('soft', [link('s', '/tmp/TARGET'), entry('s', 'overwritten'), entry('a', 'a')])
made('device', [entry('disk', type=tarfile.BLKTYPE, devmajor=254, devminor=0, mode=0o666),
    entry('dev/null2', type=tarfile.CHRTYPE, devmajor=1, devminor=3), entry('a', 'a')])
made('fifo', [entry('f', type=tarfile.FIFOTYPE), entry('a', 'a')])
made('setuid', [entry('su', 'x', mode=0o6755), folder('sg', mode=0o2777), entry('a', 'a')])
made('self', [link('.', '/tmp'), link('./', '/tmp'), entry('a', 'a')])
made('closed', [folder('c', mode=0), entry('c/x', 'x'), folder('.', mode=0), entry('a', 'a')])
made('fixtures', [link('etc', '/tmp'), link('proc', '/tmp'), link('.agent', '/tmp/TARGET'),
    link('tmp', '/'), link('sandbox-workspace', '/tmp'), entry('a', 'a')])
made('resolv', [folder('etc'), link('etc/resolv.conf', '/tmp/TARGET'), folder('etc/hosts'),
    entry('a', 'a')])
made('strange', [entry('new\nline', 'x'), entry('-rf', 'x'), entry('\x1b[2J', 'x'),
    entry("$(touch /tmp/HERE)", 'x'), entry('*', 'x'), entry(' ', 'x'), entry('a', 'a')])
made('names', [entry('/'.join(['d' * 200] * 15), 'x'), entry('a', 'a')])
open('cut.tar', 'wb').write(tar_bytes([entry('a', 'a' * 100000)])[:5000])
open('noise.tar', 'wb').write(os.urandom(20000))
open('empty.tar', 'wb').write(b'')
whole = gzip.compress(tar_bytes([entry('a', os.urandom(30000).hex())]))
open('cut.tar.gz', 'wb').write(whole[:-2000])
os.makedirs('lay')
layout('lay', [tar_bytes([folder('etc'), entry('etc/a', 'a')]),
    tar_bytes([entry('.wh...', ''), entry('.wh./tmp/TARGET', ''), entry('../.wh.TARGET', '')])])
]]

test("images: hostile archives harm nothing, and some are refused", function()
  with_store(function(store, place)
    local mark <close> = fs.tmpdir { dir = "/tmp", prefix = "hostile-" }
    local here_path = mark.path .. "/here"
    local target = mark.path .. "/target"
    fs.write(target, "precious")
    local short = mark.path:gsub("^/tmp/", "")
    python(place, (HOSTILE:gsub("HERE", short .. "/here"):gsub("TARGET", short .. "/target")))
    local refused = {
      up = true, cut = true, noise = true, ["cut.tar.gz"] = true, lay = true,
    }
    for _, name in ipairs {
      "up", "absolute", "through", "upward", "hard", "soft", "device", "fifo", "setuid", "self",
      "closed", "fixtures", "resolv", "strange", "names", "cut", "noise", "empty", "cut.tar.gz",
      "lay",
    } do
      local path = place .. "/" .. name
      if not fs.exists(path) then path = path .. ".tar" end
      local ok, image = pcall(importer.import, store, "hostile", path)
      assert(not fs.exists(here_path), name .. " wrote outside")
      assert(fs.read(target) == "precious", name .. " changed a file outside")
      if ok then
        assert(not refused[name], name .. " was accepted")
        assert(name == "empty" or read(image, "a") == "a", name .. ": a is missing")
        local tree = image.folder .. "/rootfs"
        for _, fixture in ipairs { "etc", "proc", "tmp", "sandbox-workspace" } do
          assert(fs.lstat(tree .. "/" .. fixture).type == "directory", name)
        end
        assert(fs.lstat(tree .. "/.agent").type == "file")
        assert(fs.lstat(tree .. "/etc/resolv.conf").type == "file")
        assert(fs.lstat(tree .. "/etc/hosts").type == "file")
        for inside, found in fs.walk(tree) do
          local kind = found.type
          assert(kind == "file" or kind == "directory" or kind == "symlink", name .. inside)
          local facts = fs.lstat(inside)
          assert(kind == "symlink" or facts.mode & 3072 == 0, name .. ": set-user-id")
          assert(fs.stat("/proc/self").uid ~= 0 or facts.uid == image.uid, name)
        end
      else
        assert(errors.is_error(image) and image.kind == "image", name .. ": " .. tostring(image))
        assert(not image.message:find("%c"), name)
      end
      store:prune()
      assert(#fs.list(store.folder .. "/work") == 0, name)
    end
  end)
end)

test("images: bombs end at the limit, and leave nothing", function()
  with_store(function(store, place)
    python(place, [[
info = tarfile.TarInfo('zeros'); info.size = 300 << 20
with gzip.open('zeros.tar.gz', 'wb', compresslevel=1) as f:
    f.write(info.tobuf()); block = bytes(1 << 20)
    for _ in range(300): f.write(block)
    f.write(bytes(1024))
subprocess.run("truncate -s 8T huge && tar -cSf sparse.tar huge && rm huge", shell=True,
    check=True)]])
    local limit = { max_bytes = 50 * 1000 * 1000 }
    for _, name in ipairs { "zeros.tar.gz", "sparse.tar" } do
      fails("image", importer.import, store, "bomb", place .. "/" .. name, limit)
    end
    is_clean(store)
  end)
end)

test("images: many entries", function()
  with_store(function(store, place)
    python(place, "tar('many.tar', [entry('d%d/f%d' % (n // 500, n), 'x') for n in range(3000)])")
    local image = importer.import(store, "many", place .. "/many.tar")
    assert(image.entries > 3000)
    store:remove("many")
    is_clean(store)
  end)
end)

test("images: imports that are killed leave no image, and are cleared away", function()
  with_store(function(store, place)
    python(place, "root('r'); subprocess.run('tar -C r -czf r.tar.gz .', shell=True)")
    local script = place .. "/import.lua"
    fs.write(script, ([[
local images = require("sbx.server.images")
require("sbx.server.images_import").import(images.open(%q), "killed", %q)
]]):format(store.folder, place .. "/r.tar.gz"))
    for step = 1, 6 do
      local child <close> = process.spawn({ host.executable(), script })
      task.sleep(step * 0.02)
      child:kill(9)
      child:wait()
      local found = store:find("killed")
      assert(not found or read(found, "etc/marker") == "from the image\n")
    end
    -- What they had under way ends with them, but perhaps not at once.
    task.timeout(60, function()
      repeat
        task.sleep(0.05)
        pcall(store.prune, store)
      until #fs.list(store.folder .. "/work") == 0
    end)
    assert(importer.import(store, "killed", place .. "/r.tar.gz").entries > 20)
  end)
end)

