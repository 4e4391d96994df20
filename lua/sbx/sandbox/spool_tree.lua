-- Ending all that a spooled command has started: functions for any POSIX shell, which
-- use nothing but the shell itself, `sleep`, and `grep` where there is one that will do.
--
-- They find the command's session (of process `p`), all that carry the mark `m` in
-- their environment, and the children of these, also after they have lost their
-- parents; `T` has those that are alive.

local tree = {}

tree.FUNCTIONS = [[
K=
g=; { printf 'x\000y' | grep -F y; } >/dev/null 2>&1 && g=1 # that of busybox stops at a NUL
marked() {
  if [ -n "$g" ]; then
    grep -lF "$m" /proc/[0-9]*/environ
  else
    for f in /proc/[0-9]*/environ; do
      while IFS= read -r l || [ -n "$l" ]; do
        case $l in *"$m"*) echo "$f"; break;; esac
      done < "$f"
    done
  fi 2>/dev/null
}
targets() {
  a= T=
  for f in /proc/[0-9]*/stat; do
    { read -r l < "$f"; } 2>/dev/null || continue
    n=${l%%" "*}; l=${l##*") "}; set -- $l
    case $1 in [ZX]) continue;; esac
    a="$a $n:$2"
    [ -n "$p" ] && { [ "$4" = "$p" ] || [ "$n" = "$p" ]; } && K="$K $n"
  done
  for f in $(marked); do f=${f#/proc/}; K="$K ${f%/environ}"; done
  more=1
  while [ $more = 1 ]; do
    more=0
    for x in $a; do
      case "$K " in *" ${x%:*} "*) continue;; esac
      case "$K " in *" ${x#*:} "*) K="$K ${x%:*}"; more=1;; esac
    done
  done
  for x in $a; do case "$K " in *" ${x%:*} "*) T="$T ${x%:*}";; esac; done
}
signal() {
  [ -z "$p" ] || kill -s $1 -- "-$p" 2>/dev/null
  for n in $T; do kill -s $1 "$n" 2>/dev/null; done
}
nap() { sleep $1 2>/dev/null || sleep 1; i=$((i+1)); }
end_tree() { # $1: tenths of a second between TERM and KILL
  p=; { read -r p < "${P}pid"; } 2>/dev/null
  targets; signal TERM
  # Looking costs time where there are many processes: less and less often.
  i=0; z=1; while targets; [ -n "$T" ] && [ $i -lt $1 ]; do
    sleep 0.$z 2>/dev/null || sleep 1
    i=$((i+z)); [ $z -ge 5 ] || z=$((z+1))
  done
  i=0; while [ -n "$T" ] && [ $i -lt 20 ]; do signal KILL; nap 0.05; targets; done
}
]]

return tree
