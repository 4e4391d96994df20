---@meta sbx.server.driver

-- What the server wants of whatever isolates sandboxes. `sbx.server.driver.NAME` is
-- a module with `name` and `open`; the rest are its objects. Docker, bubblewrap and
-- the simulation look alike from above; nothing above this line knows which it is.

---@class sbx.server.driver
---@field name string
local driver = {}

---@class sbx.server.driver.Options
---@field argument? string  what stood behind NAME= on the command line
---@field folder? string    of this driver alone, mode 0700, there from run to run; without it nothing may outlive the server
---@field keep? boolean     sandboxes live on when the server ends or is killed; needs `folder`
---@field images? sbx.server.Images  of this machine
---@field disks? string     folder for the disks of sandboxes, where the driver makes such
---@field strict_images? boolean  what is not among them is refused, not stood in for
---@field notice? fun(line: string)  told what people must know
---@field seed? integer         of what is random, where something is
---@field credentials? sbx.server.driver.Credentials  for drivers that fetch images

---The login at the registry of `image`, nil where there is none; `wanted` is the id of the
---one that a user has named. `note` says why that one is not given.
---@alias sbx.server.driver.Credentials async fun(image: string, wanted: string|nil): login: {username: string, password: string, serveraddress: string|nil}|nil, note: string|nil

---Makes ready to start sandboxes. Starts none.
---@async
---@param options? sbx.server.driver.Options
---@return sbx.server.Driver
function driver.open(options) end

---@class sbx.server.Driver
---@field name string
---@field features sbx.server.driver.Features
---@field enforced? table<string, string>  what is limited in every sandbox, and by what
---@field strict_images? boolean   ask `look_for_image` before `create`
local Driver = {}

---@class sbx.server.driver.Features
---@field network_rules boolean  `Box:set_network` takes lists with entries
---@field images boolean         `docker_image` names what really runs
---@field boots? integer         sandboxes that may boot at once (default 8)
---@field capacity? integer      that may be alive at once (default 2000)

---Tries it out in a throw-away sandbox.
---@async
---@return {ok: boolean, problems: string[]}  each problem says what to do about it
function Driver:check() end

---@class sbx.server.driver.Spec
---@field id string           of the sandbox: letters, digits and "-"
---@field image string
---@field registry_login? string  id of the credentials to fetch it with, for drivers that fetch
---@field network boolean     false: nothing but its own loopback
---@field network_rules? {allowlist: string[]|nil, denylist: string[]|nil}
---@field memory_gb number
---@field cpu_cores number
---@field disk_size_gb number
---@field hostname string
---@field workdir string      made, and where commands start
---@field lifetime number     seconds; then it ends by itself, whatever has become of the server
---@field labels? table<string, string>  for people who look from outside
---@field env table<string, string>  always empty: variables come with each command
---@field log fun(line: string)      into the log of the sandbox
---@field notice fun(line: string)   for the user too

---Starts a sandbox and waits until its agent is ready. It belongs to the current
---task: ended when that is, unless the driver keeps. Raises `image_pull` when the image
---cannot be had and `process` otherwise; then nothing of it is left.
---@async
---@param spec sbx.server.driver.Spec
---@return sbx.server.Box
function Driver:create(spec) end

---Takes up a sandbox again that an earlier server left running, from what its
---`Box.saved` was. It belongs to the current task.
---@async
---@param spec sbx.server.driver.Spec
---@param saved table
---@return sbx.server.Box|nil
---@return string|nil problem   why there is none any more
function Driver:adopt(spec, saved) end

---Ends and removes everything that this driver's earlier runs in this `folder` left
---behind, but for the sandboxes whose ids are keys of `known`.
---@async
---@param known table<string, boolean>
---@return integer removed
function Driver:sweep(known) end

---Whether an image can be had: for check-docker-image.
---@async
---@param image string
---@param registry_login? string  id of the credentials to ask its registry with
---@return boolean accessible
---@return string details
function Driver:look_for_image(image, registry_login) end

-- Who looks after images offers more, each on its own; see `sbx.server.services.image_store`
-- for those of this machine's store, which need nothing of the driver.

---@class sbx.server.ImageFacts
---@field id string
---@field name string             without the tag
---@field tag string
---@field size_bytes integer|nil
---@field created_at number|nil   seconds since 1970

---@class sbx.server.ImageDriver
---@field list_images? async fun(self: table): sbx.server.ImageFacts[]
---@field tag_image? async fun(self: table, from: string, to: string)
---@field untag_image? async fun(self: table, name: string)
---@field build_image? async fun(self: table, context: string, options: {name: string, dockerfile: string, platform: string}, log: fun(line: string)): {size_bytes: integer|nil}  `context` is a tar archive from outside; raises `image_build`
---@field pull_image? async fun(self: table, source: string, log: fun(line: string))

---Lets go of what `open` took. The sandboxes have ended, or are kept.
---@async
function Driver:close() end

---A running sandbox.
---@class sbx.server.Box
---@field agent sbx.server.Agent
---@field image_source string      "store", "docker", "host" or "sim"
---@field image_resolved string    what it is, for people
---@field network_enforced boolean  it has the network that was asked for, no more and no less
---@field limits table<string, string|integer>  what is enforced, and by what: {memory = "cgroup2", cpu = "none", …}
---@field saved? table             plain data for `adopt`; nil: it cannot be taken up again
local Box = {}

---Calls `fn` once when the sandbox ends without having been asked to; at once when
---it has already. `error_type` is "OOM_KILLED" where memory was the cause.
---@param fn fun(reason: string, error_type: string|nil)
function Box:on_exit(fn) end

---How often the kernel has killed a process of this sandbox for want of memory; nil
---where that cannot be known.
---@async
---@return integer|nil
function Box:memory_kills() end

---Replaces what the sandbox may reach. For new connections; waits until it holds.
---@async
---@param rules {allowlist: string[]|nil, denylist: string[]|nil}  `allowlist = {}`: nothing
function Box:set_network(rules) end

---Ends the sandbox and waits until nothing of it is left. Harmless when it has ended.
---@async
function Box:kill() end

---Lets go of the sandbox without ending it, where the driver keeps.
---@async
function Box:release() end

-- The agent of a box: `sbx.server.agent` over a socket, or a simulation of it. Beside
-- `exec`, `put`, `get`, `stat`, `dial` and `close`, which `sbx.server.agent` describes:

---@class sbx.server.StartOptions
---@field argv string[]        the program and its arguments; no shell
---@field cwd? string
---@field env? table<string, string>
---@field stdin? boolean       its standard input stays open for `write`; else /dev/null
---@field pty? {cols: integer, rows: integer}  on a terminal of its own, which is then all of its input and output
---@field note? string         of an agent that `holds`: the program outlives the connection, and this is how the next one knows it

local Agent = {}

---Starts a program that lives on beside the calls. Raises `io` errors when it cannot
---be started.
---@async
---@param options sbx.server.StartOptions
---@return sbx.server.Session
function Agent:start(options) end

---A started program. Its output waits, unread, up to a window; then the program waits.
---@class sbx.server.Session
---@field pid integer              inside the sandbox
---@field exit_code? integer       128 + signal; nil while it runs
---@field signal? integer          the signal that ended it
local Session = {}

---What it has written since.
---@async
---@return "stdout"|"stderr"|"pty"|nil channel  nil once it has ended and all is read
---@return string|nil bytes
function Session:read() end

---Waits while the program is slow to read. Raises `io` EPIPE when it reads no more.
---@async
---@param bytes string
function Session:write(bytes) end

---Ends its standard input. Never waits.
function Session:close_stdin() end

---@param number integer  sent to its whole process group
function Session:kill(number) end

---@param cols integer
---@param rows integer
function Session:resize(cols, rows) end

---Ends it with everything that it has started. Never waits; harmless when it has ended.
function Session:close() end
