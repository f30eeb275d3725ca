-- Read what was put into a versioned map since a version, in order; from the start where the map is another than the
-- reader's, or has lost what the reader knows, as after a failover.
-- KEYS: as of versioned_map_put.lua, the first three.
-- ARGV: the birth and the version that the reader knows, and how many names to read at most.
-- Returns the map's birth, '' for one that never was put into, and 1 where it begins at the start, else 0; then for each
-- name: name, version, text.
local state = redis.call('HMGET', KEYS[1], 'birth', 'version')
local birth, version = state[1] or '', tonumber(state[2] or '0')
local is_same = birth == ARGV[1] and version >= tonumber(ARGV[2])
local after = is_same and '(' .. ARGV[2] or '-inf'
local found = redis.call('ZRANGEBYSCORE', KEYS[3], after, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
local answer = {birth, is_same and 0 or 1}
if #found == 0 then return answer end

local names = {}
for position = 1, #found, 2 do
  names[#names + 1] = found[position]
end
local texts = redis.call('HMGET', KEYS[2], unpack(names))
for number, name in ipairs(names) do
  answer[#answer + 1] = name
  answer[#answer + 1] = string.format('%.0f', tonumber(found[2 * number]))
  answer[#answer + 1] = texts[number] or ''
end
return answer
