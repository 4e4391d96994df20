# Writes the two sources that the build makes up from file names: core_modules.c,
# the table of bindings, and embedded.S, which carries files into the binary.

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

# write_embedded(OUTPUT AGENT SSH lua/sbx/a.lua docs/b.md ...): names are the paths
# below lua/, those of modules as `require` says them, or those below the top.
function(write_embedded output agent ssh)
  set(list "")
  foreach(file IN LISTS ARGN)
    file(RELATIVE_PATH name ${CMAKE_CURRENT_SOURCE_DIR} ${file})
    string(REGEX REPLACE "^lua/" "" name ${name})
    if(name MATCHES "[.]lua$")
      string(REGEX REPLACE "(/init)?[.]lua$" "" name ${name})
      string(REPLACE "/" "." name ${name})
    endif()
    string(APPEND list "${name}\t${file}\n")
  endforeach()
  file(CONFIGURE OUTPUT ${output}.list @ONLY CONTENT "@list@")
  add_custom_command(OUTPUT ${output} VERBATIM
    COMMAND embed ${output} ${output}.bytecode ${agent} ${ssh}
      ${output}.list
    DEPENDS embed ${output}.list ${agent} ${ssh} ${ARGN})
endfunction()
