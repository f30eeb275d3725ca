-- Read what was put into a versioned map since a version, in order; all of it where the map is another than the reader's.
-- KEYS: as of versioned_map_put.lua, the first three.
-- ARGV: the birth and the version that the reader knows, and how many names to read at most.
-- Returns the map's birth, '' for one that never was put into, then for each name: name, version, text.
local birth = redis.call('HGET', KEYS[1], 'birth') or ''
local after = birth == ARGV[1] and '(' .. ARGV[2] or '-inf'
local found = redis.call('ZRANGEBYSCORE', KEYS[3], after, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
if #found == 0 then return {birth} end

local names = {}
for position = 1, #found, 2 do
  names[#names + 1] = found[position]
end
local texts = redis.call('HMGET', KEYS[2], unpack(names))
local answer = {birth}
for number, name in ipairs(names) do
  answer[#answer + 1] = name
  answer[#answer + 1] = string.format('%.0f', tonumber(found[2 * number]))
  answer[#answer + 1] = texts[number] or ''
end
return answer
