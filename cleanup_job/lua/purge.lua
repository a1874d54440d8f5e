-- purge.lua: delete a batch of keys if every heartbeat is still as it was judged.
--
-- All or nothing: if one heartbeat changed, nothing is deleted and the reply says which one;
-- the caller takes its keys out of the batch and calls again. So the usual case, nothing
-- changed, costs one MGET, one comparison and one UNLINK per family, and no table of which key
-- belongs to whom ever travels.
--
-- The values to compare with come joined in one argument where they can, which saves a few
-- percent of the script's time. Then a difference is only known to be there, and the caller asks
-- again with the values one by one.
--
-- KEYS  guards (heartbeats to re-read), then the owned keys to delete, family by family
-- ARGV  1            G, the number of guards
--       2            H: the first H guards are deleted too, after all owned keys, so that an
--                    error in the middle leaves them in place
--       3            least idle time in seconds that every owned key must have; 0: any; -1: they
--                    were dumped, which touched them, and must be as they were then
--       4            F, the number of families of owned keys
--       5 … 4+F      number of keys to delete of each family
--       5+F …        the value that each guard had when it was judged, either joined by NUL
--                    bytes in one argument (no JSON holds one), or one by one: "" if it had
--                    none; if it is longer than LONG bytes, its fingerprint "#" .. SHA-1 in
--                    hex .. ":" .. length. No value that is judged begins with "#".
--       5+F+G …      if they were dumped: of every owned key the checksum that its dump ended with
--                    (8 bytes; zeros: too long to be dumped again), and its expiry in Unix ms
-- Returns
--   {1, n1 … nF, h}                  deleted: what UNLINK answered for each family, and for the
--                                    heartbeats
--   {0, seconds, micros, i, v, …}    nothing deleted: guard i now holds v; v is a number if it
--                                    holds no string: 0 it is gone, 1 it is of another type
--   {2, i, …}                        nothing deleted: key i (counted over the owned keys) was
--                                    touched too lately, or nobody knows when; or it changed
--   {3}                              nothing deleted: some guard changed; ask one by one
-- Guarantees
--   No key is deleted unless, in the same atomic step, every guard was found as judged.

local LONG = 256
-- Time goes on in a script, before Valkey 7.2 by up to a few milliseconds. A key that was untouched
-- for a second at least can't get an expiry that is so close to its old one, unless on purpose.
local NEAR_MS = 100
local NOT_COMPARED = string.rep('\0', 8)

local guards = tonumber(ARGV[1])
local own = tonumber(ARGV[2])
local min_idle_s = tonumber(ARGV[3])
local families = tonumber(ARGV[4])
local expected_from = 4 + families

local values = redis.call('MGET', unpack(KEYS, 1, guards))

if guards > 1 and #ARGV == expected_from + 1 then
  -- A missing value is false, which can't be joined.
  local all_there, joined = pcall(table.concat, values, '\0')
  if not all_there or joined ~= ARGV[expected_from + 1] then
    return {3}
  end
else
  local changed = nil
  local absent = nil
  for i = 1, guards do
    local value = values[i]
    local expected = ARGV[expected_from + i]
    if value and #value > LONG then
      value = '#' .. redis.sha1hex(value) .. ':' .. #value
    elseif value and string.byte(value) == 35 then
      value = ''
    end
    if value ~= expected or value == '' then
      if not value and expected == '' then
        absent = absent or {}
        absent[#absent + 1] = i
      else
        changed = changed or {}
        changed[#changed + 1] = i
      end
    end
  end

  if absent then
    -- MGET answers nil for a key of another type too. One EXISTS tells for all of them.
    local keys = {}
    for n, i in ipairs(absent) do
      keys[n] = KEYS[i]
    end
    if redis.call('EXISTS', unpack(keys)) > 0 then
      changed = changed or {}
      for _, i in ipairs(absent) do
        if redis.call('EXISTS', KEYS[i]) == 1 then
          changed[#changed + 1] = i
        end
      end
    end
  end

  if changed then
    local now = redis.call('TIME')
    local reply = {0, tonumber(now[1]), tonumber(now[2])}
    for _, i in ipairs(changed) do
      reply[#reply + 1] = i
      reply[#reply + 1] = values[i] or redis.call('EXISTS', KEYS[i])
    end
    return reply
  end
end

if min_idle_s > 0 then
  local touched = {2}
  for i = guards + 1, #KEYS do
    local idle_s = redis.call('OBJECT', 'IDLETIME', KEYS[i])
    -- A shared value (small integers, on Redis) has one idle time for all keys that hold it.
    if idle_s and (idle_s < min_idle_s or redis.call('OBJECT', 'REFCOUNT', KEYS[i]) > 1) then
      touched[#touched + 1] = i - guards
    end
  end
  if #touched > 1 then
    return touched
  end
end

if min_idle_s < 0 then
  local now = redis.call('TIME')
  local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
  local touched = {2}
  for i = guards + 1, #KEYS do
    local print = ARGV[expected_from + i]
    local left_ms = redis.call('PTTL', KEYS[i])
    local same = left_ms == -2
    if not same and print ~= '' then
      local expiry_ms = left_ms < 0 and 0 or now_ms + left_ms
      same = math.abs(expiry_ms - tonumber(string.sub(print, 9))) < NEAR_MS
      local checksum = string.sub(print, 1, 8)
      if same and checksum ~= NOT_COMPARED then
        same = string.sub(redis.call('DUMP', KEYS[i]) or checksum, -8) == checksum
      end
    end
    if not same then
      touched[#touched + 1] = i - guards
    end
  end
  if #touched > 1 then
    return touched
  end
end

local reply = {1}
local from = guards + 1
for family = 1, families do
  local count = tonumber(ARGV[4 + family])
  reply[family + 1] = 0
  if count > 0 then
    reply[family + 1] = redis.call('UNLINK', unpack(KEYS, from, from + count - 1))
    from = from + count
  end
end
reply[families + 2] = own > 0 and redis.call('UNLINK', unpack(KEYS, 1, own)) or 0
return reply
