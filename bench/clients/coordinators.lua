-- The algorithm of the validation report's recommended script, written anew: for each stale
-- coordinator another walk over the whole keyspace, all in one call.
-- KEYS: none. ARGV: stale_after in seconds. Returns: coordinators deleted, keys deleted.

if redis.replicate_commands then
  redis.replicate_commands() -- before Redis 7 nothing may be written after TIME without it
end

local stale_after = tonumber(ARGV[1])
local coordinators, deleted = 0, 0

local function walk(pattern, count, visit)
  local cursor = '0'
  repeat
    local page = redis.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', count)
    cursor = page[1]
    if #page[2] > 0 then
      visit(page[2])
    end
  until cursor == '0'
end

local function delete_acks(keys)
  deleted = deleted + redis.call('DEL', unpack(keys))
end

local function sweep(heartbeats)
  for _, heartbeat in ipairs(heartbeats) do
    local value = redis.call('GET', heartbeat)
    local beat = value and cjson.decode(value)
    local now = redis.call('TIME')
    if beat and tonumber(now[1]) - beat.timestamp / 1000 > stale_after then
      local id = string.sub(heartbeat, #'blocking:heartbeat:' + 1)
      local own = {heartbeat, 'blocking:signal:' .. id, 'coordinator:activity:' .. id}
      deleted = deleted + redis.call('DEL', unpack(own))
      walk('blocking:ack:' .. id .. ':*', 100, delete_acks)
      coordinators = coordinators + 1
    end
  end
end

walk('blocking:heartbeat:*', 1000, sweep)
return {coordinators, deleted}
