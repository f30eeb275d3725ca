-- Restore a versioned store that was emptied, and so has no generation, from the entries of one reader. The entries are
-- staged in parts; with the last part all take their place at once, unless another reader's did so before.
-- KEYS: those of versioned_store_put.lua; then three in the same hash slot to stage the second to the fourth in.
-- ARGV: seconds that a part waits for the next one; for the last part the number of all names, how many of them are
-- removed, their largest version and an unused generation, else '' four times; then for each name its version, text, and
-- '1' if it is removed, else '0'.
-- Returns 1; 0 if the store has a generation, or if staged parts are gone.
local patience, names, removed_names, version, generation = unpack(ARGV, 1, 5)
if redis.call('HEXISTS', KEYS[1], 'birth') == 1 then
  redis.call('UNLINK', KEYS[5], KEYS[6], KEYS[7])
  return 0
end

for index = 6, #ARGV, 4 do
  local name, put_at, text, removed = unpack(ARGV, index, index + 3)
  redis.call('HSET', KEYS[5], name, text)
  redis.call('ZADD', KEYS[6], put_at, name)
  if removed == '1' then redis.call('ZADD', KEYS[7], put_at, name) end
end
for key = 5, 7 do redis.call('EXPIRE', KEYS[key], patience) end
if names == '' then return 1 end

local is_complete = redis.call('HLEN', KEYS[5]) == tonumber(names) and redis.call('ZCARD', KEYS[6]) == tonumber(names)
if not is_complete or redis.call('ZCARD', KEYS[7]) ~= tonumber(removed_names) then return 0 end
for key = 2, 4 do
  redis.call('UNLINK', KEYS[key])
  if redis.call('EXISTS', KEYS[key + 3]) == 1 then
    redis.call('RENAME', KEYS[key + 3], KEYS[key])
    redis.call('PERSIST', KEYS[key])
  end
end
redis.call('HSET', KEYS[1], 'birth', generation, 'version', version)
return 1
