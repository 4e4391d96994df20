---@meta sbx.core.sqlite
-- Databases in files, by SQLite. Whatever touches one runs on a thread, so that the
-- loop goes on. Failures are `io` errors whose `code` is SQLite's, as "SQLITE_BUSY".

---@class sbx.core.sqlite
---@field null lightuserdata  NULL as a value of a statement; the same as `json.null`
---@field version string      of the library
local sqlite = {}

---One open database, for one task at a time. As a `<close>` variable it is closed at
---the end of the block.
---@class sbx.core.Database
local Database = {}

---What a statement gave: its rows, each by the names of its columns. A column that is
---NULL is absent; text and blobs are strings.
---@class sbx.core.sqlite.Rows
---@field changes integer  rows that the statement inserted, changed or deleted
---@field [integer] table<string, integer|number|string>

---Opens a database. Where there is no file one is made, for its owner alone.
---@async
---@param path string
---@param options? {read_only?: boolean, patience?: number}  patience: seconds to wait while another process holds it (default 5)
---@return sbx.core.Database
function sqlite.open(path, options) end

---Bytes that are no text, as a value of a statement.
---@param bytes string
---@return userdata
function sqlite.blob(bytes) end

---Runs one statement. Its values are integers, floats, strings (as text, without NUL
---bytes), blobs and `null`. What was cancelled was interrupted, or has happened.
---@async
---@param sql string
---@param ... integer|number|string|userdata
---@return sbx.core.sqlite.Rows
function Database:run(sql, ...) end

---Runs statements, each `{sql, value...}`, of which all take effect or none. Cancelled,
---none has; or all, where it was too late.
---@async
---@param statements table[]
---@return sbx.core.sqlite.Rows[]  one for each
function Database:transaction(statements) end

---Waits until the file is let go of, also in a cancelled task. Twice is harmless.
---@async
function Database:close() end

return sqlite
