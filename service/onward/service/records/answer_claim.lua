-- Claim an event for an answer, once for each page, item and type of event.
-- KEYS[1]: the answers of a session, a hash, as answer_write.lua describes it.
-- ARGV: the nonce of the answer, the claim, a text without line breaks.
-- The line before this text defines MAX_CLAIMS, how many claims of an answer are kept.
-- Returns 1 if the claim is new, 0 if it was made before, if the answer is gone, or if it has too many claims.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
local field = ARGV[1] .. 'c'
local claims = redis.call('HGET', KEYS[1], field) or '\n'
if string.find(claims, '\n' .. ARGV[2] .. '\n', 1, true) then return 0 end
local _, lines = string.gsub(claims, '\n', '\n')
if lines > MAX_CLAIMS then return 0 end
redis.call('HSET', KEYS[1], field, claims .. ARGV[2] .. '\n')
return 1
