/** A server that answers as its script says, and keeps what it was asked. */

import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";

export interface Reply {
  /** Without a status the connection is closed instead. */
  status?: number;
  body?: unknown;
  headers?: Record<string, string>;
}

// eslint-disable-next-line @typescript-eslint/no-explicit-any
type Body = any;

export class ScriptedServer {
  readonly asked: Body[] = [];
  readonly #server: Server;

  /** Answer each request with the next reply, or what it makes of the body; the last one for all that follow. */
  private constructor(replies: (Reply | ((body: Body) => Reply))[]) {
    this.#server = createServer((request, response) => {
      let text = "";
      request.on("data", (chunk) => (text += chunk));
      request.on("end", () => {
        const body = text === "" ? undefined : JSON.parse(text);
        this.asked.push(body);
        const step = replies[Math.min(this.asked.length, replies.length) - 1]!;
        const reply = typeof step === "function" ? step(body) : step;
        if (reply.status === undefined) return void request.socket.destroy();
        response.writeHead(reply.status, reply.headers).end(JSON.stringify(reply.body));
      });
    });
  }

  static async start(...replies: (Reply | ((body: Body) => Reply))[]): Promise<ScriptedServer> {
    const server = new ScriptedServer(replies);
    await new Promise<void>((resolve) => server.#server.listen(0, "127.0.0.1", resolve));
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

export function problem(status: number, code: string, headers: Record<string, string> = {}): Reply {
  return { status, headers, body: { type: `/problems/${code}`, title: code, status, detail: code, code } };
}

/** The answer that stores all events but those at some places, with a status of their own. */
export function stored(body: Body, others: Record<number, string> = {}): Reply {
  const results = (body.events as unknown[]).map((_, place) => ({ status: others[place] ?? "applied" }));
  const count = (status: string): number => results.filter((result) => result.status === status).length;
  const counts = { applied: count("applied"), rejected: count("rejected"), failed: count("failed") };
  return { status: 200, body: { ...counts, duplicates: 0, not_stored: 0, results } };
}
