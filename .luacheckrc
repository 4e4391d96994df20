std = "lua54"
max_line_length = 100
include_files = { "lua", "scripts", "tests" }
files["tests"] = { read_globals = { "test" } }
files["tests/run.lua"] = { globals = { "test" } }
-- Declarations for the editor: names without a use are their purpose.
files["lua/types"] = { ignore = { "212", "241", "211" } }
