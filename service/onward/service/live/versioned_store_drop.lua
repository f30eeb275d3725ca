-- Drop what nobody needs any more from a versioned store: all names whose version is at most the given one, but for
-- those whose text has a mark. What stays is staged in parts; with the last part all of it takes its place at once, under a new
-- generation, which makes every reader read the store anew.
-- KEYS: those of versioned_store_put.lua; then three in the same hash slot to stage the second to the fourth in.
-- ARGV: seconds that a part waits for the next one, the version up to which to drop, the mark, the most names to look at,
-- an unused generation; the generation and the number of staged names that the last part returned ('' and '0' for the
-- first), and the version after which to go on ('-inf' for the first).
-- Returns the store's generation, how many names are staged, the version after which to go on, and how many names the
-- store had if this was the last part, else -1; an empty generation if the store is empty, or began another one meanwhile.
local patience, through, mark, page, token, generation, staged, after = unpack(ARGV)
local state = redis.call('HMGET', KEYS[1], 'birth', 'cleared')
local is_first = generation == ''
if not state[1] or (not is_first and (state[1] ~= generation or redis.call('HLEN', KEYS[5]) ~= tonumber(staged))) then
  redis.call('UNLINK', KEYS[5], KEYS[6], KEYS[7])
  return {'', 0, '0', -1}
end

local changed = redis.call('ZRANGEBYSCORE', KEYS[3], is_first and '-inf' or '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, page)
local names = {}
for index = 1, #changed, 2 do names[#names + 1] = changed[index] end
local texts = #names > 0 and redis.call('HMGET', KEYS[2], unpack(names)) or {}
for number, name in ipairs(names) do
  local version, text = changed[2 * number], texts[number]
  if text and (tonumber(version) > tonumber(through) or string.find(text, mark, 1, true)) then
    redis.call('HSET', KEYS[5], name, text)
    redis.call('ZADD', KEYS[6], version, name)
    if redis.call('ZSCORE', KEYS[4], name) then redis.call('ZADD', KEYS[7], version, name) end
  end
  after = version
end
for key = 5, 7 do redis.call('EXPIRE', KEYS[key], patience) end
local kept = redis.call('HLEN', KEYS[5])
if #names == tonumber(page) then return {state[1], kept, after, -1} end

local before = redis.call('HLEN', KEYS[2])
for key = 2, 4 do
  redis.call('UNLINK', KEYS[key])
  if redis.call('EXISTS', KEYS[key + 3]) == 1 then
    redis.call('RENAME', KEYS[key + 3], KEYS[key])
    redis.call('PERSIST', KEYS[key])
  end
end
local cleared = string.format('%.0f', math.max(tonumber(state[2] or '0'), tonumber(through)))
redis.call('HSET', KEYS[1], 'birth', token, 'cleared', cleared)
return {token, kept, after, before}
