std = "lua54"
max_line_length = 100
exclude_files = { "tests/stock" } -- programs that try what nobody should write
max_comment_line_length = false -- an annotation for the editor cannot be wrapped
files["tests"] = { read_globals = { "skip", "test" } }
-- These make the globals that scripts see.
files["lua/sbx/loader.lua"] = { globals = { "require" } }
files["lua/sbx/test/runner.lua"] = { globals = { "os.exit" } }
files["lua/sbx/main.lua"] = { globals = { "arg" } }
files["lua/sbx/bundle/start.lua"] = { globals = { "arg" } }
files["lua/sbx/stock/init.lua"] = {
  globals = { "loadfile", "dofile", "debug.debug", "io.popen", "os.execute" },
}
files["lua/sbx/repl/stdin.lua"] = { globals = { "io.stdin", "io.read", "io.lines" } }
files["lua/sbx/repl/session.lua"] = { globals = { "os.execute" } }
-- Declarations for the editor: names without a use are their purpose.
files["lua/types"] = { ignore = { "212", "241", "211" } }
