-- lease.lua: keep or give back the lease on a set of keys.
--
-- KEYS  1  the lease
-- ARGV  1  what to do: "keep" it if it is ours; "retake" it if it is ours or nobody has it;
--          "release" it if it is ours
--       2  our value, which nobody else has (it holds a random token)
--       3  for how many milliseconds it is good
-- Returns
--   1      done
--   0      "keep" and "release": nobody has it
--   value  somebody else has it, with this value; nothing was done
-- Guarantees
--   Whoever was answered 1 (but for "release") has the lease for so long, and nobody else meanwhile.

local does = ARGV[1]
local value = redis.call('GET', KEYS[1])

if not value then
  if does == 'retake' then
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
    return 1
  end
  return 0
end

if value ~= ARGV[2] then
  return value
end

if does == 'release' then
  redis.call('UNLINK', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
