---@meta sbx.core.process

-- Child processes. A child of a collected object runs on and is still reaped; one
-- that runs at the end of the program gets SIGTERM.

---@class sbx.core.process
local process = {}

---@class sbx.core.process.Fd
---@field fd integer     its number in the child, 0 to 63
---@field kind "pipe"|"socket"|"null"|"inherit"|"bytes"|"listen"  fd 0 reads its pipe, others write theirs
---@field from? integer  for "inherit": our descriptor (default: the same number)
---@field path? string   for "listen": where a Unix socket listens, of mode 0600; at most 107 bytes, must not exist, and stays
---@field data? string   for "bytes": what the child reads, from a sealed file in memory

---@class sbx.core.process.Options
---@field file string       looked for in the child's PATH when it has no slash
---@field args string[]     the whole argv
---@field env? string[]     "NAME=value" (default: ours)
---@field cwd? string
---@field uid? integer
---@field gid? integer
---@field detached? boolean  in a new session and process group
---@field stdio? sbx.core.process.Fd[]  fds 0 to 2 not named are /dev/null

---@class sbx.core.process.Process
---@field pid integer
---@field running boolean
---@field fds table<integer, sbx.Stream>  our ends of pipes and sockets
---@field stdin? sbx.Stream
---@field stdout? sbx.Stream
---@field stderr? sbx.Stream
local Process = {}

---@param options sbx.core.process.Options
---@return sbx.core.process.Process
function process.spawn(options) end

---This process's environment.
---@return table<string, string>
function process.environ() end

---Our own id.
---@return integer
function process.pid() end

---Whether it is a file that we may execute.
---@param path string
---@return boolean
function process.executable(path) end

---Any number of tasks may wait, also after the end.
---@async
---@return integer code  128 + signal when a signal killed it
---@return integer|nil signal
function Process:wait() end

---@param signal integer
---@return boolean sent  false once it has ended
function Process:kill(signal) end

---Signals the process group of a detached child.
---@param signal integer
---@param sweep? boolean  when the child ends, kill what is left of its group
---@return boolean sent  false once the child has ended
function Process:kill_group(signal, sweep) end

---Whether any of a detached child's group runs on after the child; if so, signals
---them. Once the child has ended, to be asked at once and often.
---@param signal? integer
---@return boolean left
function Process:kill_rest(signal) end

---Lets it run on at the end of the program, which otherwise sends it SIGTERM.
function Process:unref() end

return process
