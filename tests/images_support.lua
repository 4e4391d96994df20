-- What the tests of images share: small roots, layouts and archives, made on the spot by
-- Python, and a store in a folder of its own.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local images = require("sbx.server.images")
local process = require("sbx.process")

local support = {}

-- Makes `root(path)`, `tar(path, entries)`, `layout(...)` and `saved(...)` known.
local PRELUDE = [[
import gzip, hashlib, io, json, os, shutil, stat, subprocess, sys, tarfile

TOOLS = ('sh ls cat echo mkdir rm rmdir touch id stat head wc env chmod mv ln cp test find df mount'
    ' sleep hostname nslookup wget')

def root(folder):
    """A root in which a shell and a few tools run."""
    for name in ('bin', 'usr/bin', 'etc', 'var/lib/x'):
        os.makedirs(os.path.join(folder, name))
    busybox = shutil.which('busybox')
    shutil.copy(busybox, folder + '/bin/busybox')
    for line in subprocess.run(['ldd', busybox], capture_output=True, text=True).stdout.split('\n'):
        for word in line.split():
            if word.startswith('/'):
                target = folder + word
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copy(word, target)
    for tool in TOOLS.split():
        os.symlink('busybox', folder + '/bin/' + tool)
    open(folder + '/etc/passwd', 'w').write('root:x:0:0:root:/root:/bin/sh\n')
    open(folder + '/etc/marker', 'w').write('from the image\n')

def entry(name, text=None, mode=0o644, **more):
    info = tarfile.TarInfo(name)
    info.mode = mode
    data = None
    if text is not None:
        data = text.encode()
        info.size = len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data

def folder(name, mode=0o755):
    return entry(name, mode=mode, type=tarfile.DIRTYPE)

def link(name, target):
    return entry(name, type=tarfile.SYMTYPE, linkname=target)

def hard(name, target):
    return entry(name, type=tarfile.LNKTYPE, linkname=target)

def tar_bytes(entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w', format=tarfile.PAX_FORMAT) as t:
        for info, data in entries:
            t.addfile(info, io.BytesIO(data) if data is not None else None)
    return out.getvalue()

def tar(path, entries):
    open(path, 'wb').write(tar_bytes(entries))

def folder_bytes(path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as t:
        t.add(path, '.')
    return out.getvalue()

def put(folder, data):
    digest = hashlib.sha256(data).hexdigest()
    os.makedirs(folder + '/blobs/sha256', exist_ok=True)
    open(folder + '/blobs/sha256/' + digest, 'wb').write(data)
    return {'digest': 'sha256:' + digest, 'size': len(data)}

def layout(folder, layers, config=None, tags=('latest',), index=False):
    """An OCI layout; the layers are bytes of tar files."""
    packed = [put(folder, gzip.compress(layer, mtime=0)) for layer in layers]
    settings = put(folder, json.dumps({
        'architecture': 'amd64', 'os': 'linux', 'config': config or {},
        'rootfs': {'type': 'layers', 'diff_ids': []}}).encode())
    manifest = put(folder, json.dumps({
        'schemaVersion': 2, 'config': settings, 'layers': packed}).encode())
    if index:
        other = put(folder, b'{"schemaVersion": 2, "layers": [{}]}')
        machine = os.uname().machine
        machine = {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(machine, machine)
        manifest['platform'] = {'architecture': machine, 'os': 'linux'}
        other['platform'] = {'architecture': 's390x', 'os': 'linux'}
        manifest = put(folder, json.dumps({'manifests': [other, manifest]}).encode())
    entries = []
    for tag in tags:
        entries.append(dict(manifest, annotations={'org.opencontainers.image.ref.name': tag}))
    json.dump({'schemaVersion': 2, 'manifests': entries}, open(folder + '/index.json', 'w'))
    json.dump({'imageLayoutVersion': '1.0.0'}, open(folder + '/oci-layout', 'w'))
    return manifest['digest']

def saved(path, layers, config=None):
    """What docker save writes."""
    entries, names, digests = [], [], []
    for number, layer in enumerate(layers):
        name = '%d/layer.tar' % number
        info, _ = entry(name)
        info.size = len(layer)
        entries += [folder(str(number)), (info, layer)]
        names.append(name)
        digests.append('sha256:' + hashlib.sha256(layer).hexdigest())
    settings = json.dumps({'config': config or {}, 'rootfs': {'diff_ids': digests}})
    entries.append(entry('c.json', settings))
    entries.append(entry('manifest.json', json.dumps(
        [{'Config': 'c.json', 'RepoTags': ['mine:1'], 'Layers': names}])))
    tar(path, entries)
]]

---Runs Python with the functions above; `place` is its working directory. Returns what
---it prints.
---@async
function support.python(place, code)
  local result = process.run({ "python3", "-" }, {
    input = PRELUDE .. code, cwd = place, check = true, timeout = 60,
  })
  return result.stdout
end

---Runs `fn(store, place)` with a store and a folder for archives, both new.
---@async
function support.with_store(fn)
  local folder <close> = fs.tmpdir { prefix = "images-" }
  local place = folder.path .. "/place"
  fs.mkdir(place)
  local store = images.open(folder.path .. "/store")
  store:prepare()
  return fn(store, place)
end

---The message of the failure of kind `kind` that a call of `...` ends with.
function support.fails(kind, ...)
  local ok, failure = pcall(...)
  assert(not ok, "it was accepted")
  assert(errors.is_error(failure) and failure.kind == kind, tostring(failure))
  return failure.message
end

---Nothing of an import is left beside what the store had before.
function support.is_clean(store, trees)
  local left = fs.list(store.folder .. "/work")
  assert(#left == 0, table.concat(left, " "))
  assert(#fs.list(store.folder .. "/trees") == (trees or 0))
end

---A file of an image, or nil.
function support.read(image, path)
  return errors.try(fs.read, image.folder .. "/rootfs/" .. path)
end

return support
