import { send, type Call } from "./calls.js";
import { EventQueue, type QueueOptions } from "./events.js";
import { randomId } from "./ids.js";
import type {
  EventBody,
  EventsStored,
  ItemList,
  MergedSession,
  NextQuery,
  RecommendationQuery,
  Recommendations,
} from "./schemas.js";

export interface ClientOptions {
  /** A key of the deployment. One in a page is public: give it the scopes `recommend` and `events` alone. */
  key?: string;
  /** Milliseconds for each call with all its retries and pauses; 5,000 by default. */
  deadlineMs?: number;
}

export interface ListOptions {
  k?: number;
  exclude?: string[];
  timeout_ms?: number;
}

/** Calls an Onward service. Every call may reject with NoAnswerError or ProblemError, both OnwardError. */
export class OnwardClient {
  /** Whether calls have a key, which a beacon cannot carry. */
  readonly hasKey: boolean;
  readonly #url: string;
  readonly #headers: Record<string, string>;
  readonly #deadlineMs: number;

  /** Prepare calls to the service at a URL, as in https://recommendations.shop.example; none is made yet. */
  constructor(url: string, { key, deadlineMs = 5_000 }: ClientOptions = {}) {
    this.#url = url.replace(/\/+$/, "");
    this.hasKey = key !== undefined;
    this.#headers = key === undefined ? {} : { Authorization: `Bearer ${key}` };
    this.#deadlineMs = deadlineMs;
  }

  /** Where events are sent. */
  get eventsUrl(): string {
    return `${this.#url}/v1/events`;
  }

  /** Recommend items for a session, for `items` or for a user; `items` are first appended to the session. */
  recommend(query: RecommendationQuery): Promise<Recommendations> {
    const appends = Boolean(query.items?.length && query.session_id) && query.store !== false && !query.dry_run;
    return this.#post("/v1/recommendations", query, !appends);
  }

  /** Return the next page of an answer. */
  nextPage(recommendationId: string, options: NextQuery = {}): Promise<Recommendations> {
    return this.#post(`/v1/recommendations/${encodeURIComponent(recommendationId)}/next`, options, false);
  }

  /** List the items that are similar to an item. */
  similarItems(itemId: string, options: ListOptions = {}): Promise<ItemList> {
    return this.#get(`/v1/items/${encodeURIComponent(itemId)}/similar`, options);
  }

  /** List popular items. */
  popularItems(options: ListOptions = {}): Promise<ItemList> {
    return this.#get("/v1/items:popular", options);
  }

  /** Record up to 1,000 events, each accepted or rejected alone, and once however often it is sent. */
  recordEvents(events: readonly EventBody[], { keepalive = false } = {}): Promise<EventsStored> {
    const named = events.map((event) => ({ ...event, event_id: event.event_id ?? randomId() }));
    return send(this.#call("POST", "/v1/events", { body: { events: named }, isRepeatable: true, keepalive }));
  }

  /** Return a queue that sends events in batches, when the page is hidden too, and keeps them while offline. */
  eventQueue(options: QueueOptions = {}): EventQueue {
    return new EventQueue(this, options);
  }

  /** Move all events of a session into another one, as when a visitor logs in. */
  mergeSession(sessionId: string, into: string): Promise<MergedSession> {
    return this.#post(`/v1/sessions/${encodeURIComponent(sessionId)}:merge`, { into }, true);
  }

  #get<Result>(path: string, options: ListOptions): Promise<Result> {
    const query = new URLSearchParams();
    if (options.k !== undefined) query.set("k", String(options.k));
    if (options.timeout_ms !== undefined) query.set("timeout_ms", String(options.timeout_ms));
    for (const item of options.exclude ?? []) query.append("exclude", item);
    return send(this.#call("GET", query.size > 0 ? `${path}?${query}` : path, { isRepeatable: true }));
  }

  #post<Result>(path: string, body: unknown, isRepeatable: boolean): Promise<Result> {
    return send(this.#call("POST", path, { body, isRepeatable }));
  }

  #call(method: Call["method"], path: string, rest: Omit<Call, "method" | "url" | "headers" | "deadlineMs">): Call {
    return { method, url: this.#url + path, headers: this.#headers, deadlineMs: this.#deadlineMs, ...rest };
  }
}
