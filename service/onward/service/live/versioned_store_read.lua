-- Read a page of what was put into a versioned store since a version, in order. Start from the beginning if the store
-- has another generation than the reader knows, or lost versions that the reader has seen.
-- KEYS: the first three of versioned_store_put.lua.
-- ARGV: the generation and the version that the reader knows, and the most names to read.
-- Returns the store's generation ('' if nothing was ever put, or if it was emptied), 1 if the page starts from the
-- beginning, else 0, and the version at which the store was cleared on purpose; then for each name: name, version, text.
local state = redis.call('HMGET', KEYS[1], 'birth', 'version', 'cleared')
local generation, version, cleared = state[1], tonumber(state[2] or '0'), state[3] or '0'
if not generation then return {'', 1, cleared} end
local continues = generation == ARGV[1] and version >= tonumber(ARGV[2])
local after = continues and '(' .. ARGV[2] or '-inf'
local changed = redis.call('ZRANGEBYSCORE', KEYS[3], after, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
local reply = {generation, continues and 0 or 1, cleared}
if #changed == 0 then return reply end

local names = {}
for index = 1, #changed, 2 do
  names[#names + 1] = changed[index]
end
local texts = redis.call('HMGET', KEYS[2], unpack(names))
for number, name in ipairs(names) do
  reply[#reply + 1] = name
  reply[#reply + 1] = string.format('%.0f', tonumber(changed[2 * number]))
  reply[#reply + 1] = texts[number] or ''
end
return reply
