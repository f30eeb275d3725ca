-- Say where an item was shown that an event names, once for each answer, item and type of event.
-- KEYS[1]: the answers of a session, a list, as answer_next.lua describes it; behind an answer's JSON stands a line for
-- each claim made: type and item.
-- ARGV: the answer's nonce, the item, the type, the earliest moment (in ms) from which answers are kept.
-- Returns the answer's scenario, bundle and variant ("" for none), or nothing.
local NONCE = 16
local entries = redis.call('LRANGE', KEYS[1], 0, -1)
for place = #entries, 1, -1 do
  local entry = entries[place]
  if #entry > 2 * NONCE and string.sub(entry, 1, NONCE) == ARGV[1] then
    local claim = '\n' .. ARGV[3] .. ' ' .. ARGV[2]
    if string.find(entry .. '\n', claim .. '\n', 1, true) then return {} end
    local json_end = (string.find(entry, '\n', 1, true) or #entry + 1) - 1
    local is_json, answer = pcall(cjson.decode, string.sub(entry, 2 * NONCE + 1, json_end))
    if not is_json or answer.made_ms < tonumber(ARGV[4]) then return {} end
    for _, item_id in ipairs(answer.items.item_ids) do
      if item_id == ARGV[2] then
        redis.call('LSET', KEYS[1], place - 1, entry .. claim)
        return {answer.scenario or '', answer.bundle, answer.variant or ''}
      end
    end
    return {}
  end
end
return {}
