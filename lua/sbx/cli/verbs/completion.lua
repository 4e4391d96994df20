-- The verb `completion`: scripts that ask this program what can stand where.

local verb = { uses = {} }

verb.spec = {
  example = {
    "sbxlua completion bash > ~/.local/share/bash-completion/completions/sbxlua",
    "sbxlua completion zsh > ~/.zfunc/_sbxlua      # a folder of $fpath",
    "sbxlua completion fish > ~/.config/fish/completions/sbxlua.fish",
  },
  notes = "Commands, options, their values, contexts, and the ids of sandboxes that live are"
    .. " proposed. For the ids the API is asked, for at most two seconds.",
  arguments = {
    { name = "shell", type = "choice", choices = { "bash", "zsh", "fish" },
      help = "bash, zsh or fish" },
  },
}

local scripts = {}

scripts.bash = [=[
# bash completion for sbxlua
_sbxlua() {
  local typed=${COMP_WORDS[COMP_CWORD]} line answer words=() i
  # bash splits at : and =; put such words together again.
  local before="" whole=()
  for ((i = 1; i <= COMP_CWORD; i++)); do
    local word=${COMP_WORDS[i]}
    if [[ ${#whole[@]} -gt 0 && ( $word == [:=]* || $before == [:=] ) ]]; then
      whole[${#whole[@]}-1]+=$word
    else
      whole+=("$word")
    fi
    before=$word
  done
  [[ ${#whole[@]} -gt 0 ]] || whole=("")
  local full=${whole[${#whole[@]}-1]}
  # Completion replaces only what stands behind the last : or =.
  local cut=${full%"${full##*[:=]}"}
  [[ $typed == [:=] ]] && typed=""
  COMPREPLY=()
  while IFS= read -r line; do
    case $line in
      :file) [[ $full == *:* ]] || while IFS= read -r answer; do COMPREPLY+=("$answer"); done \
        < <(compgen -f -- "$typed"); compopt -o filenames 2>/dev/null ;;
      :folder) while IFS= read -r answer; do COMPREPLY+=("$answer"); done \
        < <(compgen -d -- "$typed"); compopt -o filenames 2>/dev/null ;;
      :none) ;;
      *) answer=${line%%$'\t'*}; answer=${answer#"$cut"}
        [[ $answer == *[:/] ]] && compopt -o nospace 2>/dev/null
        COMPREPLY+=("$answer") ;;
    esac
  done < <("${COMP_WORDS[0]}" complete -- "${whole[@]}" 2>/dev/null)
}
complete -F _sbxlua sbxlua
]=]

scripts.zsh = [=[
#compdef sbxlua
# zsh completion for sbxlua
_sbxlua() {
  local line word help files=""
  local -a proposals open
  while IFS= read -r line; do
    case $line in
      :*) files=${line#:} ;;
      *)
        word=${line%%$'\t'*}; help=${line#*$'\t'}
        if [[ $word == *: ]]; then
          open+=("$word")
        else
          proposals+=("${word//:/\\:}${help:+:$help}")
        fi ;;
    esac
  done < <("${words[1]}" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)
  (( ${#proposals} )) && _describe -t values sbxlua proposals
  (( ${#open} )) && compadd -S '' -- "${open[@]}"
  [[ $files == file ]] && _files
  [[ $files == folder ]] && _files -/
  return 0
}
if [[ ${funcstack[1]} == _sbxlua ]]; then
  _sbxlua "$@"
else
  compdef _sbxlua sbxlua
fi
]=]

scripts.fish = [=[
# fish completion for sbxlua
function __sbxlua_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l program $words[1]
    set -e words[1]
    for line in ($program complete -- $words 2>/dev/null)
        switch $line
            case ':file'
                __fish_complete_path (commandline -ct)
            case ':folder'
                __fish_complete_directories (commandline -ct)
            case ':none'
            case '*'
                echo $line
        end
    end
end
complete -c sbxlua -f -a '(__sbxlua_complete)'
]=]

---@async
function verb.run(given)
  io.stdout:write(scripts[given.shell])
end

return verb
