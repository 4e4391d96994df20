-- What a trace listens to: the phases of sandboxes, and requests that are sent again.
-- Each is nil, and costs one look at a field, unless something listens.

---@class sbx.observe
---@field phase nil|fun(id: string, phase: "create"|"status"|"exec"|"delete"|"deleted", value?: any)
---@field detached boolean|nil  tokens of other runs are not used: a recording has to have all
---@field replays boolean|nil  requests are answered from a recording
---@field retry nil|fun(op: string, err: any, pause: number)  before the pause, in seconds
local observe = {}

return observe
