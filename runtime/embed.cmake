# Writes the two sources that the build makes up from file names: core_modules.c,
# the table of bindings, and embedded.S, which carries files into the binary.
# Both are rewritten only when their text changes.

# write_core_modules(OUTPUT lib_a.c lib_b.c ...)
function(write_core_modules output)
  set(declarations "")
  set(entries "")
  foreach(file IN LISTS ARGN)
    get_filename_component(name ${file} NAME_WE)
    string(REGEX REPLACE "^lib_" "" name ${name})
    string(APPEND declarations "int luaopen_sbx_core_${name}(lua_State *L);\n")
    string(APPEND entries
      "    {\"sbx.core.${name}\", luaopen_sbx_core_${name}},\n")
  endforeach()
  file(CONFIGURE OUTPUT ${output} @ONLY CONTENT
"#include \"core_modules.h\"

@declarations@
const luaL_Reg core_modules[] = {
@entries@    {NULL, NULL},
};
")
endfunction()

# write_embedded(OUTPUT AGENT lua/sbx/a.lua ...): module names are the paths
# below lua/. A changed file is embedded anew through OBJECT_DEPENDS.
function(write_embedded output agent)
  set(data "")
  set(table "")
  set(number 0)
  foreach(file IN LISTS ARGN)
    file(RELATIVE_PATH name ${CMAKE_CURRENT_SOURCE_DIR}/lua ${file})
    string(REGEX REPLACE "(/init)?[.]lua$" "" name ${name})
    string(REPLACE "/" "." name ${name})
    string(APPEND data
      ".Lname${number}: .asciz \"${name}\"\n"
      ".Lfile${number}: .incbin \"${file}\"\n.Lend${number}:\n")
    string(APPEND table "  .quad .Lname${number}, .Lfile${number}, "
      ".Lend${number} - .Lfile${number}\n")
    math(EXPR number "${number} + 1")
  endforeach()
  file(CONFIGURE OUTPUT ${output} @ONLY CONTENT
".section .rodata
@data@
.globl embedded_agent
embedded_agent: .incbin \"@agent@\"
.Lagent_end:

.balign 8
.globl embedded_agent_size
embedded_agent_size: .quad .Lagent_end - embedded_agent

.section .data.rel.ro, \"aw\", %progbits
.balign 8
.globl embedded_lua
embedded_lua:
@table@  .quad 0, 0, 0

.section .note.GNU-stack, \"\", %progbits
")
  set_source_files_properties(${output} PROPERTIES
    OBJECT_DEPENDS "${agent};${ARGN}")
endfunction()
