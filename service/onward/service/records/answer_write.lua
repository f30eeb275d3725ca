-- Keep an answer, unless the answers of its session were deleted since it was made.
-- KEYS[1]: the answers of a session, a hash. "order" holds their generation and then the nonces of all answers, the
-- oldest first. Under the nonce of an answer are the number of its pages, one byte, and the pages; under the nonce and
-- "c" the claims of events, a line for each.
-- ARGV: the generation of the answers when this one was made ("" of an answer that no session has); the nonce and the
-- page of the answer.
-- The line before this text defines MAX_ANSWERS, how many answers are kept; NONCE, the length of one; and TTL_MS.
-- Returns 1 if the answer is kept, else 0.
local ANSWERS, generation, nonce = KEYS[1], ARGV[1], string.sub(ARGV[2], 1, NONCE)
local order = redis.call('HGET', ANSWERS, 'order') or (generation == '' and '')
if not order or string.sub(order, 1, #generation) ~= generation then return 0 end
local first = #generation + 1
order = order .. nonce
while #order - #generation > MAX_ANSWERS * NONCE do
  local oldest = string.sub(order, first, first + NONCE - 1)
  redis.call('HDEL', ANSWERS, oldest, oldest .. 'c')
  order = generation .. string.sub(order, first + NONCE)
end
redis.call('HSET', ANSWERS, 'order', order, nonce, '\1' .. string.sub(ARGV[2], NONCE + 1))
if generation == '' then redis.call('PEXPIRE', ANSWERS, TTL_MS) end  -- else the append has set it
return 1
