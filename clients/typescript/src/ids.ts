/** Return an id that nobody can guess: of a session, or of an event. Unlike `crypto.randomUUID` it needs no TLS. */
export function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
