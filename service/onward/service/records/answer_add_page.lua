-- Add the next page of an answer, unless another caller added it first or the answer is gone.
-- KEYS[1]: the answers of a session, a hash, as answer_write.lua describes it.
-- ARGV: the nonce of the answer, the number of pages that the caller read, the page.
-- The line before this text defines TTL_MS.
-- Returns 1 if the page was added, else 0.
local value = redis.call('HGET', KEYS[1], ARGV[1])
local pages = tonumber(ARGV[2])
if not value or string.byte(value, 1) ~= pages then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.char(pages + 1) .. string.sub(value, 2) .. ARGV[3])
redis.call('PEXPIRE', KEYS[1], TTL_MS)
return 1
