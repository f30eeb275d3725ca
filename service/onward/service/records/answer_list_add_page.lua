-- Add the next page of an answer, unless another caller added it first or the answer is gone.
-- KEYS[1]: the answers of a session, a list. An entry is the place reserved for an answer (its nonce), or the answer
-- itself: its nonce, the nonce of its first page (its own if it is the first page), and its JSON.
-- ARGV: the nonce of the first page, the number of pages that the caller read, the entry, time to live in ms.
-- Returns 1 if the page was added, else 0.
local NONCE = 16
local pages, has_first = 0, false
for _, entry in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  if #entry > 2 * NONCE and string.sub(entry, NONCE + 1, 2 * NONCE) == ARGV[1] then
    pages = pages + 1
    has_first = has_first or string.sub(entry, 1, NONCE) == ARGV[1]
  end
end
if not has_first or pages ~= tonumber(ARGV[2]) then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
