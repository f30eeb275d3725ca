/** Calls against a server that fails as scripted. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { NoAnswerError, OnwardClient, ProblemError } from "../src/index.js";
import { problem, ScriptedServer, type Reply } from "./server.js";

const EMPTY: Reply = { status: 200, body: { items: [], count: 0 } };
const CLOSED: Reply = {};
const BAD_GATEWAY: Reply = { status: 502, body: "bad gateway" };
const QUERY = { session_id: "a", k: 1 };

for (const [name, failure] of Object.entries({
  overloaded: problem(503, "overloaded", { "Retry-After": "0" }),
  "too many requests": problem(429, "too_many_requests", { "Retry-After": "0" }),
  "not ready": problem(503, "not_ready"),
  "bad gateway": BAD_GATEWAY,
  "closed connection": CLOSED,
})) {
  test(`what may pass is tried again: ${name}`, async () => {
    await using server = await ScriptedServer.start(failure, failure, EMPTY);
    const answer = await new OnwardClient(server.url, { deadlineMs: 30_000 }).recommend(QUERY);
    assert.equal(answer.count, 0);
    assert.deepEqual(server.asked, [QUERY, QUERY, QUERY]);
  });
}

for (const [name, failure, kind] of [
  ["closed connection", CLOSED, NoAnswerError],
  ["bad gateway", BAD_GATEWAY, ProblemError],
  ["internal error", problem(500, "internal_error"), ProblemError],
] as const) {
  test(`what would be done twice is not tried again: ${name}`, async () => {
    await using server = await ScriptedServer.start(failure, EMPTY);
    await assert.rejects(new OnwardClient(server.url).recommend({ session_id: "a", items: ["b"] }), kind);
    assert.equal(server.asked.length, 1);
  });
}

test("an event is sent again under the same id", async () => {
  const answer = { status: 200, body: { applied: 1, failed: 0, results: [{ status: "applied" }] } };
  await using server = await ScriptedServer.start(CLOSED, problem(503, "session_store_unavailable"), answer);
  await new OnwardClient(server.url, { deadlineMs: 30_000 }).recordEvents([{ session_id: "a", item_id: "b" }]);
  assert.equal(server.asked.length, 3);
  assert.equal(new Set(server.asked.map((body) => body.events[0].event_id)).size, 1);
});

test("a wrong key is refused at once, with the problem", async () => {
  await using server = await ScriptedServer.start(problem(403, "wrong_key"));
  await assert.rejects(new OnwardClient(server.url, { key: "k" }).popularItems(), { status: 403, code: "wrong_key" });
  assert.equal(server.asked.length, 1);
});

test("a call whose pause would end after its deadline fails at once", async () => {
  await using server = await ScriptedServer.start(problem(503, "overloaded", { "Retry-After": "60" }));
  await assert.rejects(new OnwardClient(server.url, { deadlineMs: 200 }).recommend(QUERY), ProblemError);
  assert.equal(server.asked.length, 1);
});

test("a server that does not answer is left at the deadline", async () => {
  const { createServer } = await import("node:net");
  const silent = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => silent.once("listening", resolve));
  const { port } = silent.address() as { port: number };
  const client = new OnwardClient(`http://127.0.0.1:${port}`, { deadlineMs: 200 });
  await assert.rejects(client.recommend(QUERY), NoAnswerError);
  silent.close();
});
