-- Mark items of a bundle as shown, and add to the counts of how often.
-- KEYS[1]: a hash. The field of a number n holds the bits of rows n * ROWS to n * ROWS + ROWS - 1, the highest bit of a
-- byte first; fields t0, t1, ... hold the counts.
-- ARGV: the time to live in ms; how many rows follow; the rows; what to add to t0, t1, ...
-- The line before this text defines ROWS, a multiple of 8.
local KEY, count = KEYS[1], tonumber(ARGV[2])
local chunks = {}
for place = 3, count + 2 do
  local row = tonumber(ARGV[place])
  local number = math.floor(row / ROWS)
  local bytes = chunks[number]
  if not bytes then
    local stored = redis.call('HGET', KEY, number) or string.rep('\0', ROWS / 8)
    bytes = { string.byte(stored, 1, -1) }
    chunks[number] = bytes
  end
  local bit_of_chunk = row % ROWS
  local byte = math.floor(bit_of_chunk / 8) + 1
  bytes[byte] = bit.bor(bytes[byte], bit.lshift(1, 7 - bit_of_chunk % 8))
end
for number, bytes in pairs(chunks) do
  redis.call('HSET', KEY, number, string.char(unpack(bytes)))
end
for place = count + 3, #ARGV do
  if ARGV[place] ~= '0' then redis.call('HINCRBYFLOAT', KEY, 't' .. (place - count - 3), ARGV[place]) end
end
redis.call('PEXPIRE', KEY, ARGV[1])
