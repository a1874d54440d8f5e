-- dump.lua: the dumps of some keys with their absolute expiry, for the journal. Changes nothing.
--
-- Expiry is TIME + PTTL, which servers of every version have and a user needs no more rights for
-- than for one of them. From Valkey 7.2 on time stands still within a script; before that it goes
-- on, so a PTTL counts only if the millisecond is the same before and after it. That makes it
-- exactly what PEXPIRETIME says.
--
-- DUMP touches a key as any read does, so that its idle time begins anew. So idle times are asked
-- for here, before the first DUMP; purge.lua then compares values instead.
--
-- KEYS  the keys
-- ARGV  1   least idle time in seconds that every key must have; 0 or nothing: any
-- Returns
--   {n, dump, expiry, …}   of the first n keys, at least one: a dump is false if there is no such
--                          key; expiry in Unix ms, 0 for none. It stops behind the key with which
--                          the dumps have MOST bytes: ask again for the others.
--   {0, i, …}              key i was touched too lately, or nobody knows when; nothing was read
-- Guarantees
--   A dump and its expiry are of the same instant.

local MOST = 256 * 1024

local call = redis.call
local min_idle_s = tonumber(ARGV[1] or 0)

if min_idle_s > 0 then
  local touched = {0}
  for i = 1, #KEYS do
    local idle_s = call('OBJECT', 'IDLETIME', KEYS[i])
    -- As in purge.lua: a shared value has one idle time for all keys that hold it.
    if idle_s and (idle_s < min_idle_s or call('OBJECT', 'REFCOUNT', KEYS[i]) > 1) then
      touched[#touched + 1] = i
    end
  end
  if #touched > 1 then
    return touched
  end
end

local function now_ms()
  local now = call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

local reply = {0}
local at = 1
local bytes = 0
local before_ms = nil
for i = 1, #KEYS do
  local dump = call('DUMP', KEYS[i])
  local expiry_ms = 0
  if dump then
    bytes = bytes + #dump
    local left_ms = call('PTTL', KEYS[i])
    if left_ms >= 0 then
      local after_ms = now_ms()
      while before_ms ~= after_ms do
        before_ms = after_ms
        left_ms = call('PTTL', KEYS[i])
        after_ms = now_ms()
      end
      expiry_ms = after_ms + left_ms
    end
  end
  reply[at + 1] = dump
  reply[at + 2] = expiry_ms
  at = at + 2
  reply[1] = i
  if bytes >= MOST then
    break
  end
end
return reply
