std = "lua54"
max_line_length = 100
max_comment_line_length = false -- an annotation for the editor cannot be wrapped
files["tests"] = { read_globals = { "skip", "test" } }
files["tests/run.lua"] = { globals = { "skip", "test" } }
-- These two make the globals that scripts see.
files["lua/sbx/loader.lua"] = { globals = { "require" } }
files["lua/sbx/test/runner.lua"] = { globals = { "os.exit" } }
files["lua/sbx/main.lua"] = { globals = { "arg", "print", "os.exit" } }
-- Declarations for the editor: names without a use are their purpose.
files["lua/types"] = { ignore = { "212", "241", "211" } }
