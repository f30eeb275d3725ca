export { OnwardClient, type ClientOptions, type ListOptions } from "./client.js";
export { NoAnswerError, OnwardError, ProblemError } from "./errors.js";
export { EventQueue, type QueueOptions } from "./events.js";
export { randomId } from "./ids.js";
export type {
  EventBody,
  EventsStored,
  Filter,
  ItemList,
  NextQuery,
  Problem,
  RecommendationQuery,
  Recommendations,
  RecommendedItem,
} from "./schemas.js";
