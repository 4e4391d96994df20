-- The shell of simulated sandboxes, beside the real one: what each says to the same
-- scripts.

local fs = require("sbx.fs")
local process = require("sbx.process")
local sim = require("sbx.server.driver.sim")
local task = require("sbx.task")

local function with_box(fn)
  local driver = sim.open()
  local _ <close> = setmetatable({}, { __close = function() driver:close() end })
  local box = driver:create {
    id = "sbx-1", image = "x", hostname = "box", workdir = "/sandbox-workspace", disk_size_gb = 1,
  }
  fn(box, function(command, options)
    local opts = { command = command, timeout = 20 }
    for name, value in pairs(options or {}) do
      opts[name] = value
    end
    return box.agent:exec(opts)
  end)
  box:kill()
end

-- Scripts whose output and status must be those of sh. Each starts in an empty folder.
-- luacheck: push no max line length
local same = {
  "echo a  b 'c  d' \"e  $UNSET f\"; echo -n x; echo",
  "exit 5", "false", "true && echo yes || echo no", "false || false; echo $?", "! false; echo $?",
  "x=abc.tar.gz; echo ${x%.*} ${x%%.*} ${x#*.} ${x##*.} ${#x} ${y:-d} ${y-e} ${y:=set} $y ${x:+p}",
  "x='a b'; set -- $x \"$x\"; echo $# \"$1\" \"$3\"; set -- \"$@\" z; echo $#; set --; echo $# \"$@\"",
  "for i in 1 2 3; do [ $i = 2 ] && continue; echo $i; done; for i in a b; do break; done; echo $i",
  "i=0; while [ $i -lt 3 ]; do i=$((i + 1)); done; until [ $i = 0 ]; do i=$((i-1)); done; echo $i",
  "echo $((1 + 2 * 3)) $(( (1+2)*3 )) $((7 / 2)) $((-7 / 2)) $((7 % 3)) $((1 << 4 | 1)) $((5 > 3))",
  "x=5; echo $((x * 2)) $(($x + 1)) $((x == 5 && 1)) $((010)) $((0x1f)) $((1 ? 2 : 3)) $((!x))",
  "f() { echo \"$1-$#\"; return 3; }; f 'a b' c; echo $?; g() { f x; echo in; }; g",
  "case foo.txt in *.c) echo c;; *.[a-t]xt|x) echo txt;; esac; case a in [!b]) echo n;; esac",
  "case 'a b' in 'a b') echo quoted;; *) echo no;; esac; case '*' in '\\*') echo 1;; \\*) echo 2;; esac",
  "if [ 1 -gt 2 ]; then echo a; elif [ -n x ]; then echo b; else echo c; fi; if false; then :; fi; echo $?",
  "echo hi > f; cat f; echo more >> f; wc -l < f; cat < f; rm f; ls",
  "mkdir -p a/b/c; echo 1 > a/b/x; echo 2 > a/b/y; cat a/b/[xy]; echo a/b/*; rm -r a; echo a/*",
  "echo out; echo err >&2; { echo g1; echo g2 >&2; } 2>/dev/null; (echo sub; exit 3); echo $?",
  "cat <<EOF\nhello $((1+1)) `echo tick` \\$x\nEOF\ncat <<'EOF'\nraw $x\nEOF\ncat <<-EOF\n\ttabs\n\tEOF",
  "echo $(echo a; echo b) \"$(printf 'x\\ny\\n\\n')\"; x=$(false); echo $?; echo \"$(echo \"q $(echo r)\")\"",
  "printf '%s-%03d|%5s|%-5s|%x\\n' a 7 b c 255; printf '%s\\n' 1 2 3; printf 'no newline'; printf '%%\\101\\n'",
  "printf '\\134\\045d\\n'; printf '%b' 'a\\tb\\n'; printf '%c%c\\n' xyz w; printf '%.2s|\\n' abc",
  "seq 3 | while read -r n; do echo \"n=$n\"; done; printf 'a:b:c\\n' | { IFS=: read -r x y; echo \"$x|$y\"; }",
  "printf '  lead and trail  \\n' | { read -r l; echo \"[$l]\"; }; printf 'x' | { read -r l; echo $? $l; }",
  "read -r a < /nowhere; echo $?; { read -r a < /nowhere; } 2>/dev/null || echo none",
  "sleep 0.01 & wait $!; echo $?; (exit 4) & wait $!; echo $?; wait; echo $?",
  "sleep 5 & kill $!; wait $!; echo $?; sleep 5 & kill -9 $!; wait $!; echo $?",
  "trap 'echo bye' EXIT; echo hi; exit 2", "trap 'echo bye' EXIT; trap - EXIT; echo hi",
  "(trap 'echo sub' EXIT; echo in); echo out", "trap 'echo got; exit 7' TERM; kill -TERM $$; echo not here",
  "sh -c 'echo $0 $1 $#' name one two; sh -c 'exit 9'; echo $?; X=1 sh -c 'echo $X'; echo \"[$X]\"",
  "export A=1; B=2; sh -c 'echo $A-$B'; env C=3 sh -c 'echo $A$C'; unset A; sh -c 'echo [$A]'",
  "x=1; (x=2; echo $x); echo $x; { x=3; }; echo $x; y=$(x=4; echo $x); echo $x$y",
  "eval 'echo \"$((1+1))\"; v=7'; echo $v; echo 'echo sourced $1; w=8' > s; . ./s; echo $w",
  "exec 3> f; echo three >&3; exec 3>&-; cat f; exec 4< f; read -r l <&4; echo $l; exec echo replaced",
  "set -e; false || echo ok; if false; then :; fi; echo before; false; echo after",
  "set -u; echo ${x:-d}; echo $x; echo not here", "echo ${x?gone}; echo not here",
  "cd /tmp && pwd; cd /nowhere 2>/dev/null; echo $?; cd - >/dev/null; (cd /; pwd)",
  "[ -e f ]; echo $?; : > f; [ -f f ] && [ ! -s f ] && [ -d . ] && echo ok; test a = a -a b = b; echo $?",
  "[ a -eq 1 ] 2>/dev/null; echo $?; [ 1 -le 2 ]; echo $?; [ ! x ]; echo $?; [ '' ]; echo $?; [ ]; echo $?",
  "echo abc | sha256sum; printf '%s' hello | base64; echo aGVsbG8= | base64 -d; echo; printf a | md5sum",
  "printf '1\\n2\\n3\\n4\\n' > f; head -n 2 f; tail -n 1 f; tail -n +3 f; head -c 3 f; tail -c 2 f; tail -c +5 f",
  "printf 'b\\na\\nb\\n' > f; sort f; sort -u f; sort -r f; grep -c b f; grep -q z f; echo $?; grep -F a f; grep -v a f",
  "touch f; cp f g; mv g h; ls; mv nowhere x 2>/dev/null; echo $?; rm nowhere 2>/dev/null; echo $?; rm -f nowhere; echo $?",
  "mkdir d; mkdir d 2>/dev/null; echo $?; rmdir d; cat d 2>/dev/null; echo $?; basename /a/b.c .c; dirname /a/b",
  "echo a | tee f | cat; cat f; echo b | tee -a f >/dev/null; cat f; echo x > d/e 2>/dev/null; echo $?",
  "command -v sh >/dev/null && echo yes; command -v no_such_tool; echo $?; no_such_tool 2>/dev/null; echo $?",
  "f() { for x in a b; do for y in 1 2; do [ $y = 2 ] && continue 2; echo $x$y; done; done; }; f",
  "a='* ?'; echo \"$a\"; b=\"x\\\"y\\$z\\`\"; echo \"$b\"; echo 'it'\\''s' \"a\\\nb\" a\\ b; echo a#b # c",
  "nohup sh -c 'echo bg > f' > /dev/null 2>&1 & wait; cat f; set -- a b c; shift 2; echo $1",
  "l='17 (a b) S 1 2'; n=${l%%\" \"*}; l=${l##*\") \"}; echo $n $l; v='a/b/c'; echo ${v%/*} ${v##*/}",
  "x=é; echo ${#x} | grep -c '[12]' >/dev/null 2>&1; echo \"$x\"; IFS=,; set -- $(echo a,b,c); echo $#",
  "kill -0 $$; echo $?; kill -0 999999 2>/dev/null; echo $?; echo ${0##*/} | grep -c . >/dev/null; echo $#",
  "echo 'a", "echo (", "if true; then echo x", "for in x; do :; done", "echo `echo \\`echo deep\\``",
}
-- luacheck: pop

test("the simulated shell says what sh says", function()
  local different = {}
  with_box(function(box, exec)
    for index, script in ipairs(same) do
      local folder <close> = fs.tmpdir()
      local real = process.run({ "sh", "-c", script }, { cwd = folder.path, timeout = 60 })
      local inside = "/tmp/case-" .. index
      box:write(inside .. "/.keep", "")
      local simulated = exec(script, { cwd = inside })
      local function show(text) return (text:gsub(folder.path, inside)) end
      local same_status = simulated.exit_code == real.code
        or (real.code == 2 and simulated.exit_code == 2)
      if simulated.stdout ~= show(real.stdout) or not same_status then
        different[#different + 1] = ("%s\nsh: %d\n%s%s\nsimulated: %d\n%s%s"):format(script,
          real.code, real.stdout, real.stderr, simulated.exit_code, simulated.stdout,
          simulated.stderr)
      end
    end
    assert(#different == 0, table.concat(different, "\n"))
  end)
end)

test("a program that is not simulated says so, with status 127", function()
  with_box(function(_, exec)
    local result = exec("python3 -c 'print(1)'; echo $?")
    assert(result.stdout == "127\n", result.stdout)
    assert(result.stderr:find("python3: not simulated", 1, true), result.stderr)
    result = exec("grep 'a.*b' /dev/null; sed s/a/b/")
    assert(result.exit_code == 127 and result.stderr:find("not simulated", 1, true))
    assert(exec("ls --color").exit_code == 127)
  end)
end)

test("a command over its time is ended with all that it started", { clock = "virtual" }, function()
  with_box(function(box, exec)
    local result = exec("sleep 100 & echo started; sleep 50; echo not here", { timeout = 5 })
    assert(result.timed_out and result.stdout == "started\n")
    task.sleep(0)
    local names = exec("echo /proc/[0-9]*").stdout
    assert(select(2, names:gsub("/proc/", "")) == 1, names) -- the asking shell alone
    assert(exec("sleep 3600", { timeout = 7200 }).exit_code == 0)
    -- What goes on in the background outlives the command that started it.
    exec("(sleep 60; echo done > /tmp/flag) > /dev/null 2>&1 &")
    assert(exec("cat /tmp/flag").exit_code == 1)
    task.sleep(61)
    assert(exec("cat /tmp/flag").stdout == "done\n")
    assert(box.agent.closed == false)
  end)
end)

test("what has no end is stopped: steps, depth, sizes, processes", function()
  with_box(function(_, exec)
    local function stops(script, status)
      local result = exec(script)
      assert(result.exit_code == status, script .. ": " .. result.exit_code .. result.stderr)
    end
    stops("while :; do :; done", 137)
    stops("f() { f; }; f", 2)
    stops("x=aaaaaaaaaaaaaaaa; while :; do x=$x$x$x$x; done", 2)
    stops(("("):rep(200) .. "true" .. (")"):rep(200), 2)
    stops("echo " .. ("$(echo "):rep(150) .. "x" .. (")"):rep(150), 2)
    stops("i=0; while [ $i -lt 600 ]; do sleep 100 & i=$((i+1)); done; kill -0 $! && exit 3", 3)
    stops("sleep 1000 & exit 0", 0)
  end)
  with_box(function(_, exec)
    local result = exec("while :; do echo 0123456789012345678901234567890123456789; done",
      { max_output = 1000 })
    assert(#result.stdout == 1000 and result.stdout_truncated)
    assert(exec("seq 1000000 > /dev/null && echo a > /dev/null").exit_code == 0)
  end)
end)
