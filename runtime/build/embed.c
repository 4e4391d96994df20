// A program of the build: compiles the Lua library and writes embedded.S, which
// carries it, the pages, the sandbox agent and the SSH program into the binary.
//
//   embed OUTPUT.S BYTECODE AGENT SSH LIST
//
// LIST has a line for each file: its name in the binary, a tab, its path. What
// ends in .lua is a module and compiled as well, into the file BYTECODE:
// reading source is most of what a start would cost. The source goes along, for
// a Lua library of another release than the one here, which does not take
// bytecode.

#include <errno.h>
#include <lauxlib.h>
#include <lua.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Entry {
  char *name;
  char *path;
  size_t offset;  // of its bytecode
  size_t size;    // 0 for what is no module
} Entry;

static void die(const char *what, const char *why) {
  (void)fprintf(stderr, "embed: %s: %s\n", what, why);
  exit(1);
}

static FILE *open_or_die(const char *path, const char *mode) {
  FILE *file = fopen(path, mode);
  if (!file) die(path, strerror(errno));
  return file;
}

static void *take(void *memory) {
  if (!memory) die("embed", "out of memory");
  return memory;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const Entry *)a)->name, ((const Entry *)b)->name);
}

static Entry *read_list(const char *path, size_t *count) {
  FILE *file = open_or_die(path, "r");
  Entry *entries = NULL;
  char line[8192];
  *count = 0;
  while (fgets(line, sizeof(line), file)) {
    line[strcspn(line, "\n")] = '\0';
    char *tab = strchr(line, '\t');
    if (!tab) die(path, "a line without a tab");
    *tab = '\0';
    entries = take(realloc(entries, (*count + 1) * sizeof(*entries)));
    entries[(*count)++] =
        (Entry){take(strdup(line)), take(strdup(tab + 1)), 0, 0};
  }
  (void)fclose(file);
  if (*count == 0) die(path, "names no file");
  qsort(entries, *count, sizeof(*entries), by_name);
  return entries;
}

static int write_piece(lua_State *L, const void *piece, size_t size,
                       void *file) {
  return fwrite(piece, 1, size, file) != size;
}

// As the loader names the module's chunk when it reads the source.
static const char *chunk_name(lua_State *L, const char *name) {
  luaL_gsub(L, name, ".", "/");
  return lua_pushfstring(L, "@%s.lua", lua_tostring(L, -1));
}

static char *read_source(const char *path, size_t *size) {
  FILE *file = open_or_die(path, "rb");
  char *text = NULL;
  *size = 0;
  size_t count;
  do {
    text = take(realloc(text, *size + 65536));
    count = fread(text + *size, 1, 65536, file);
    *size += count;
  } while (count > 0);
  if (ferror(file)) die(path, "cannot be read");
  (void)fclose(file);
  return text;
}

static void compile(lua_State *L, Entry *entry, FILE *bytecode) {
  const char *end = strrchr(entry->path, '.');
  if (!end || strcmp(end, ".lua") != 0) return;
  size_t size;
  char *text = read_source(entry->path, &size);
  if (luaL_loadbufferx(L, text, size, chunk_name(L, entry->name), "t") !=
      LUA_OK)
    die(entry->path, lua_tostring(L, -1));
  free(text);
  entry->offset = (size_t)ftell(bytecode);
  if (lua_dump(L, write_piece, bytecode, 0) != 0)
    die("bytecode", "not written");
  entry->size = (size_t)ftell(bytecode) - entry->offset;
  lua_settop(L, 0);
}

static void write_assembly(FILE *out, const Entry *entries, size_t count,
                           const char *bytecode, const char *agent,
                           const char *ssh) {
  (void)fprintf(out, ".section .rodata\n");
  // The names side by side, because every look-up reads some of them.
  for (size_t i = 0; i < count; i++)
    (void)fprintf(out, ".Lname%zu: .asciz \"%s\"\n", i, entries[i].name);
  (void)fprintf(out,
                ".globl embedded_release\nembedded_release: .asciz \"%s\"\n",
                lua_ident);
  (void)fprintf(out, ".balign 16\n.Lcode: .incbin \"%s\"\n", bytecode);
  for (size_t i = 0; i < count; i++)
    (void)fprintf(out, ".Lfile%zu: .incbin \"%s\"\n.Lend%zu: .byte 0\n", i,
                  entries[i].path, i);
  (void)fprintf(out,
                ".globl embedded_agent\nembedded_agent: .incbin \"%s\"\n"
                ".Lagent_end:\n.balign 8\n.globl embedded_agent_size\n"
                "embedded_agent_size: .quad .Lagent_end - embedded_agent\n"
                ".globl embedded_ssh\nembedded_ssh: .incbin \"%s\"\n"
                ".Lssh_end:\n.balign 8\n.globl embedded_ssh_size\n"
                "embedded_ssh_size: .quad .Lssh_end - embedded_ssh\n"
                ".globl embedded_count\nembedded_count: .quad %zu\n",
                agent, ssh, count);
  (void)fprintf(out, ".section .data.rel.ro, \"aw\", %%progbits\n.balign 8\n"
                     ".globl embedded_files\nembedded_files:\n");
  for (size_t i = 0; i < count; i++)
    (void)fprintf(out,
                  "  .quad .Lname%zu, .Lfile%zu, .Lend%zu - .Lfile%zu, "
                  ".Lcode + %zu, %zu\n",
                  i, i, i, i, entries[i].offset, entries[i].size);
  (void)fprintf(out, ".section .note.GNU-stack, \"\", %%progbits\n");
}

int main(int argc, char **argv) {
  if (argc != 6) die("usage", "embed OUTPUT.S BYTECODE AGENT SSH LIST");
  size_t count;
  Entry *entries = read_list(argv[5], &count);
  lua_State *L = take(luaL_newstate());
  FILE *bytecode = open_or_die(argv[2], "wb");
  for (size_t i = 0; i < count; i++)
    compile(L, &entries[i], bytecode);
  lua_close(L);
  if (fclose(bytecode) != 0) die(argv[2], strerror(errno));
  FILE *out = open_or_die(argv[1], "w");
  write_assembly(out, entries, count, argv[2], argv[3], argv[4]);
  if (fclose(out) != 0) die(argv[1], strerror(errno));
  for (size_t i = 0; i < count; i++) {
    free(entries[i].name);
    free(entries[i].path);
  }
  free(entries);
  return 0;
}
