-- What `sbxlua serve` takes: for its command line, its help, and all that is made of that.

local globals = require("sbx.cli.globals")

local serve_options = {}

local NAME = { name = "name", metavar = "NAME", help = "whose key it is" }

-- What `sbxlua serve` and its commands do, loaded when they run.
---@async
local function key(command)
  return function(given, out) return require("sbx.cli.serve").key(command, given, out) end
end

---All but its name and summary.
serve_options.description = {
  example = {
    "sbxlua serve",
    "sbxlua serve --driver docker --listen 127.0.0.1:0 --no-state",
    "sbxlua serve key add ann",
  },
  description = "Runs sandboxes on this machine for whoever holds the API key. Ctrl-C ends the"
    .. " server and, without --keep, every sandbox.",
  options = {
    { name = "listen", metavar = "HOST:PORT", default = "127.0.0.1:8701",
      help = "where to listen, port 0 takes any free one; beyond loopback only with --allow-remote"
        .. " and TLS" },
    { name = "driver", metavar = "NAME", default = "bwrap",
      help = "what isolates the sandboxes: bwrap, or docker, docker=SOCKET: Docker or Podman; or"
        .. " sim, sim=FILE.lua: nothing runs, sandboxes are simulated as the file says" },
    { name = "profile", type = "choice", choices = { "container", "vm", "both" },
      default = "container",
      help = "what sandboxes are; both: as each create asks, containers where it does not" },
    { name = "key-file", metavar = "FILE", complete = "file",
      help = "holds the API key; made with a new key when it is missing" },
    { name = "state", metavar = "DIR", complete = "folder", group = "State",
      help = "where it remembers its sandboxes for the next start (sbxlua/server in"
        .. " $XDG_STATE_HOME); one server each" },
    { name = "no-state", type = "flag", group = "State", help = "remembers nothing" },
    { name = "keep", type = "flag", group = "State",
      help = "sandboxes live on when the server ends, and the next one on the same state takes them"
        .. " up again" },
    { name = "disks", metavar = "DIR", complete = "folder", group = "State",
      help = "where bwrap as root has the disks of sandboxes (/var/tmp); together they may take"
        .. " what is free there, but for a reserve" },
    { name = "images", metavar = "DIR", complete = "folder", group = "Images",
      help = "images made by `sbxlua image import`, for bwrap (sbxlua/images in $XDG_STATE_HOME)" },
    { name = "strict-images", type = "flag", group = "Images",
      help = "refuses with 422 what they do not include; else this machine's own root stands in for"
        .. " it, read-only" },
    { name = "registry-credentials", metavar = "FILE", complete = "file", group = "Images",
      help = "logins for registries that images come from (JSON, mode 0600)" },
    { name = "limit", type = "list", metavar = "WHAT", group = "Limits",
      help = "answers 429 beyond so many requests of a kind in a time, such as create=500/60s;"
        .. " `vendor` for what the hosted service has published" },
    { name = "token-lifetime", metavar = "TIME", group = "Limits",
      help = "how long a gateway token is good for: 2m to 1d (30m)" },
    { name = "tls-cert", metavar = "FILE", complete = "file", group = "Network",
      help = "speaks HTTPS with this certificate, in PEM" },
    { name = "tls-key", metavar = "FILE", complete = "file", group = "Network",
      help = "its key, which only its owner can read" },
    { name = "allow-remote", type = "flag", group = "Network",
      help = "lets --listen name an address that other machines reach" },
    { name = "host-name", type = "list", metavar = "NAME", group = "Network",
      help = "a name of this machine that clients use; others are refused" },
    { name = "expose-on", metavar = "ADDRESS", group = "Network",
      help = "where exposed ports listen (127.0.0.1), without TLS and without a key; beyond"
        .. " loopback only with --allow-remote" },
    { name = "metrics-open", type = "flag", group = "Network",
      help = "GET /metrics needs no key" },
    { name = "chaos", metavar = "FILE.lua", complete = "file", group = "Trials",
      help = "faults on demand, as the file says: late, failed and lost answers, broken"
        .. " connections, sandboxes that die" },
    { name = "chaos-log", metavar = "FILE", complete = "file", group = "Trials",
      help = "what was done, a line of JSON each" },
    { name = "seed", type = "integer", default = 1, group = "Trials",
      help = "determines what is random in a simulation and in chaos" },
    { name = "private", type = "flag", hidden = true, help = "serves one script, with --local" },
  },
  -- It runs without a command, too.
  run = function(given) return require("sbx.cli.serve").run(given) end,
  commands = {
    {
      name = "key", summary = "API keys for several users of one server.", apart = true,
      notes = "A new key goes to a file that only its owner can read; the server keeps its hash,"
        .. " and knows the key from then on.",
      options = { {
        name = "state", metavar = "DIR", complete = "folder",
        help = "that of the server (sbxlua/server in $XDG_STATE_HOME)",
      } },
      commands = {
        { name = "add", run = key("add"), summary = "Makes a key, and prints where it is.",
          arguments = { NAME },
          options = { { name = "out", metavar = "FILE", complete = "file",
            help = "the file that gets it" } } },
        { name = "ls", run = key("ls"), summary = "Shows whose keys there are.",
          options = globals.options({ output = true }) },
        { name = "rm", run = key("rm"), summary = "Takes a key back.", arguments = { NAME } },
      },
    },
  },
}

return serve_options
