-- The image store: names, what can be imported, what is refused, what is removed.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "images_support.lua")

local core = require("sbx.core.process")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local importer = require("sbx.server.images_import")
local json = require("sbx.json")
local names = require("sbx.server.images_name")
local process = require("sbx.process")
local processes = require("sbx.server.driver.bwrap_process")
local task = require("sbx.task")

local with_store, python = support.with_store, support.python
local fails, is_clean, read = support.fails, support.is_clean, support.read

local function exists(image, path)
  return errors.try(fs.lstat, image.folder .. "/rootfs/" .. path) ~= nil
end

test("images: names that mean the same, and what is none", function()
  local same = {
    ["python"] = "docker.io/library/python:latest",
    ["docker.io/python:latest"] = "docker.io/library/python:latest",
    ["index.docker.io/library/python"] = "docker.io/library/python:latest",
    ["python:3.11-slim"] = "docker.io/library/python:3.11-slim",
    ["ann/tool"] = "docker.io/ann/tool:latest",
    ["ghcr.io/ann/tool:1"] = "ghcr.io/ann/tool:1",
    ["localhost:5000/tool"] = "localhost:5000/tool:latest",
    ["localhost/tool"] = "localhost/tool:latest",
    ["python@sha256:" .. ("a"):rep(64)] = "docker.io/library/python@sha256:" .. ("a"):rep(64),
  }
  for name, full in pairs(same) do
    local parsed = names.parse(name)
    assert(parsed and parsed.full == full, name .. ": " .. (parsed and parsed.full or "nil"))
  end
  assert(names.short("docker.io/library/python:1") == "python:1")
  for _, bad in ipairs {
    "", "/", "a//b", "../x", "a/../b", ".a", "a b", "a:", "a:b:c", "a@sha256:12", "a@md5:x", "-rf",
    ("a"):rep(600), "a\0b", "a\nb", "a:" .. ("b"):rep(200),
  } do
    assert(not names.parse(bad), bad)
  end
end)

test("images: a tar of a root is imported, listed, found and removed", function()
  with_store(function(store, place)
    python(place, [[
root('r')
subprocess.run('tar -C r -czf r.tar.gz . && tar -C r -cf r.tar .', shell=True)]])
    local image = importer.import(store, "tools:1", place .. "/r.tar.gz")
    assert(image.name == "tools:1" and image.source == "tar" and image.entries > 20)
    assert(image.digest:find("^sha256:%x+$") and image.bytes > 100000)
    assert(read(image, "etc/marker") == "from the image\n")
    is_clean(store, 1)
    for _, name in ipairs { "tools:1", "docker.io/library/tools:1" } do
      assert(assert(store:find(name), name).id == image.id)
    end
    assert(not store:find("tools") and not store:find("nonsense//"))

    -- The same once more is the same image, under two names.
    assert(importer.import(store, "tools", place .. "/r.tar.gz").id == image.id)
    is_clean(store, 1)
    assert(#store:list() == 2)
    local digest = "tools@" .. image.digest
    assert(store:find(digest).id == image.id)
    assert(not store:find("other@" .. image.digest))

    -- Another under the same name takes its place; what no name means goes.
    store:remove("tools:1")
    is_clean(store, 1)
    importer.import(store, "tools", place .. "/r.tar")
    store:prune()
    is_clean(store, 1)
    assert(store:find("tools").id ~= image.id)
    store:remove("tools")
    is_clean(store)
    fails("not_found", store.remove, store, "tools")
  end)
end)

test("images: a folder, also with files that only its owner can read", function()
  with_store(function(store, place)
    python(place, [[
root('r')
open('r/etc/secret', 'w').write('x'); os.chmod('r/etc/secret', 0)
os.symlink('/etc/shadow', 'r/etc/link')
os.mkfifo('r/fifo')]])
    local mine = fs.stat("/proc/self").uid
    if mine ~= 0 then fs.chmod(place .. "/r/etc/secret", 384) end
    local image = importer.import(store, "tools", place .. "/r")
    assert(image.source == "folder" and image.digest == nil)
    assert(exists(image, "etc/secret") and not exists(image, "fifo"))
    assert(fs.readlink(image.folder .. "/rootfs/etc/link") == "/etc/shadow")
    if mine == 0 then
      assert(image.uid >= 1000000)
      assert(fs.stat(image.folder .. "/rootfs/etc/marker").uid == image.uid)
      assert(fs.stat(store.folder).mode & 63 == 0)
    end
    fails("image", importer.import, store, "tools", place .. "/nothing")
    fails("usage", importer.import, store, "no//name", place .. "/r")
    is_clean(store, 1)
  end)
end)

-- Layers with all that they can do to those below.
local LAYERS = [[
base = tar_bytes([folder('./'), folder('etc'), entry('etc/a', 'a0'), entry('etc/b', 'b0'),
    folder('gone'), entry('gone/x', 'x'), folder('opaque'), entry('opaque/old', 'old'),
    folder('opaque/deep'), entry('opaque/deep/er', '1'),
    entry('was-file', 'f'), folder('was-folder'), entry('was-folder/f', 'f'),
    link('way', 'etc'), folder('bin'), entry('bin/tool', 'tool', mode=0o4755),
    folder('locked', mode=0o555), entry('locked/f', 'f', mode=0o400),
    entry('.wh.nothing', '')])
second = tar_bytes([entry('etc/a', 'a1'), entry('etc/.wh.b', ''), entry('.wh.gone', ''),
    folder('opaque'), entry('opaque/.wh..wh..opq', ''), entry('opaque/new', 'new'),
    folder('was-file'), entry('was-file/inside', 'in'), entry('was-folder', 'now a file'),
    folder('way'), entry('way/real', 'real'), entry('locked/g', 'g'),
    hard('etc/hard', 'etc/a'), entry('.wh...', ''), entry('x/.wh...', ''), entry('.wh..', '')])
config = {'Env': ['PATH=/opt/bin:/bin', 'GREETING=hello = you', 'BAD'],
    'WorkingDir': '/srv', 'User': '7:7'}
]]

local function check_layers(image)
  assert(read(image, "etc/a") == "a1" and not exists(image, "etc/b") and not exists(image, "gone"))
  assert(read(image, "opaque/new") == "new" and not exists(image, "opaque/old"))
  assert(not exists(image, "opaque/deep") and not exists(image, "opaque/.wh..wh..opq"))
  assert(read(image, "was-file/inside") == "in" and read(image, "was-folder") == "now a file")
  assert(read(image, "way/real") == "real" and not exists(image, "etc/real"))
  assert(read(image, "etc/hard") == "a1" and exists(image, "locked/f"))
  assert(read(image, "locked/g") == "g" and not exists(image, ".wh.nothing"))
  assert(fs.stat(image.folder .. "/rootfs/bin/tool").mode & 3584 == 0, "set-user-id")
  assert(fs.stat(image.folder .. "/rootfs/locked").mode & 448 == 448)
  assert(image.config.env.PATH == "/opt/bin:/bin" and image.config.env.GREETING == "hello = you")
  assert(image.config.env.BAD == nil)
  assert(image.config.workdir == "/srv" and image.config.user == "7:7")
  local merged = image:environment { PATH = "/mine" }
  assert(merged.PATH == "/mine" and merged.GREETING == "hello = you")
end

test("images: the layers of an OCI layout, in a folder and in an archive", function()
  with_store(function(store, place)
    local digest = python(place, LAYERS .. [[
print(layout('l', [base, second], config, tags=('1', '2')))
layout('i', [base, second], config, index=True)
subprocess.run('tar -C i -cf i.tar .', shell=True)]]):match("%S+")
    local image = importer.import(store, "layers", place .. "/l:2")
    check_layers(image)
    assert(image.source == "oci" and image.digest == digest)
    is_clean(store, 1)
    check_layers(importer.import(store, "archived", place .. "/i.tar"))
    assert(fails("image", importer.import, store, "x", place .. "/l"):find("1, 2", 1, true))
    fails("image", importer.import, store, "x", place .. "/l:3")
    -- The same manifest is the same image, however it came.
    is_clean(store, 1)
  end)
end)

test("images: what docker save writes", function()
  with_store(function(store, place)
    python(place, LAYERS .. "saved('s.tar', [base, second], config)")
    local image = importer.import(store, "saved", place .. "/s.tar")
    check_layers(image)
    assert(image.source == "docker")
    is_clean(store, 1)
    python(place, LAYERS .. [[
data = open('s.tar', 'rb').read()
open('bad.tar', 'wb').write(data.replace(b'now a file', b'now a fire'))]])
    local message = fails("image", importer.import, store, "saved", place .. "/bad.tar")
    assert(message:find("digest", 1, true), message)
  end)
end)

test("images: a layout that lies is refused, and leaves nothing", function()
  with_store(function(store, place)
    python(place, LAYERS .. [[
for kind in 'changed link elsewhere missing md5 deep garbage'.split():
    layout(kind, [base])
def blobs(kind):
    folder = kind + '/blobs/sha256/'
    return sorted(os.listdir(folder), key=lambda n: -os.path.getsize(folder + n))
big = blobs('changed')[0]
open('changed/blobs/sha256/' + big, 'ab').write(b'x')
os.rename('link/blobs/sha256/' + big, 'link/real')
os.symlink('../../real', 'link/blobs/sha256/' + big)
os.rename('elsewhere/blobs', 'blobs'); os.symlink('../blobs', 'elsewhere/blobs')
os.remove('missing/blobs/sha256/' + big)
text = open('md5/index.json').read()
open('md5/index.json', 'w').write(text.replace('sha256', 'md5'))
at = put('deep', b'{"manifests": []}')
for _ in range(9): at = put('deep', json.dumps({'manifests': [at]}).encode())
json.dump({'manifests': [at]}, open('deep/index.json', 'w'))
open('garbage/index.json', 'w').write('{"manifests": 7')]])
    for kind, words in pairs {
      changed = "another digest", link = "no plain file", elsewhere = "no plain file",
      missing = "not there", md5 = "sha256", deep = "without end", garbage = "not JSON",
    } do
      local message = fails("image", importer.import, store, "x", place .. "/" .. kind)
      assert(message:find(words, 1, true), kind .. ": " .. message)
    end
    is_clean(store)
  end)
end)

test("images: one that is run on is not removed, unless it must", function()
  with_store(function(store, place)
    python(place, "tar('a.tar', [entry('a', 'a')])")
    local image = importer.import(store, "used", place .. "/a.tar")
    local release = image:hold("box-1")
    local message = fails("conflict", store.remove, store, "used")
    assert(message:find("box-1", 1, true) and message:find("--force", 1, true), message)
    assert(image:users()[1] == "box-1")
    store:prune()
    is_clean(store, 1)
    release()
    release()
    assert(#image:users() == 0)

    -- Of a holder that was killed nothing stays.
    local child <close> = process.spawn { "sleep", "300" }
    image:held_by("box-2", processes.identify(child.pid))
    assert(#image:users() == 1)
    child:kill(9)
    child:wait()
    assert(#image:users() == 0)

    image:hold("box-3")
    store:remove("used", true)
    is_clean(store)
    fails("image_pull", image.hold, image, "box-4")
  end)
end)

test("images: two that are imported at once under one name", function()
  with_store(function(store, place)
    python(place, "tar('a.tar', [entry('a', 'a')]); tar('b.tar', [entry('a', 'b')])")
    task.gather {
      function()
        importer.import(store, "same", place .. "/a.tar")
      end,
      function()
        importer.import(store, "same", place .. "/b.tar")
      end,
      function()
        importer.import(store, "same", place .. "/a.tar")
      end,
    }
    local text = read(store:find("same"), "a")
    assert(text == "a" or text == "b")
    store:prune()
    is_clean(store, 1)
  end)
end)

test("images: a folder that others can enter is refused", function()
  local folder <close> = fs.tmpdir()
  fs.chmod(folder.path, 493)
  local message = fails("state", require("sbx.server.images").open, folder.path)
  assert(message:find("chmod 700", 1, true))
end)

test("images: the verb", function()
  with_store(function(store, place)
    local function run(...)
      return process.run({ host.executable(), "image", ... }, { timeout = 60 })
    end
    python(place, "tar('a.tar', [entry('a', 'a')])")
    local made = run("import", "mine:1", place .. "/a.tar", "--images", store.folder)
    assert(made.code == 0 and made.stdout == "mine:1\n", made.stderr)
    local listed = json.decode(run("ls", "-o", "json", "--images", store.folder).stdout)
    assert(#listed == 1 and listed[1].name == "mine:1" and #listed[1].used_by == 0)
    assert(run("ls", "--images", store.folder).stdout:find("^NAME +ID +SIZE"))
    local release = store:find("mine:1"):hold("x" .. core.pid())
    assert(run("rm", "mine:1", "--images", store.folder).code == 6)
    release()
    assert(run("rm", "mine:1", "--images", store.folder).stdout == "mine:1\n")
    assert(run("rm", "mine:1", "--images", store.folder).code == 5)
    assert(run("import", "mine:1", place .. "/none", "--images", store.folder).code == 1)
    assert(run("import", "a//b", place .. "/a.tar", "--images", store.folder).code == 2)
    assert(run("import").code == 2 and run().code == 2)
    assert(run("--help").stdout:find("import", 1, true))
  end)
end)
