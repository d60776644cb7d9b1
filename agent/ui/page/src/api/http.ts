/** Asks the agent that serves this page: JSON, and problems (RFC 9457) as errors with their place. */

export const API = "/api/v1";
const TIMEOUT_MS = 40_000;

export class Problem extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly path = "$",
  ) {
    super(message);
  }

  /** As it is shown: with its place, where there is one. */
  get words(): string {
    return this.path === "$" || this.path === "" ? this.message : `${this.path}: ${this.message}`;
  }
}

/** `told` as a problem document, whatever stands in it. */
export function problemOf(status: number, told: unknown): Problem {
  const found = (typeof told === "object" && told !== null ? told : {}) as Record<string, unknown>;
  const words = [found["detail"], found["reason"], found["title"]].find((each) => typeof each === "string" && each !== "");
  return new Problem(status, String(words ?? `the agent answers ${status}`), typeof found["path"] === "string" ? found["path"] : "$");
}

export async function ask<T>(path: string, init: { method?: string; body?: unknown; signal?: AbortSignal } = {}): Promise<T> {
  const late = AbortSignal.timeout(TIMEOUT_MS);
  let answer: Response;
  try {
    answer = await fetch(path, {
      method: init.method ?? "GET",
      signal: init.signal ? AbortSignal.any([init.signal, late]) : late,
      credentials: "same-origin",
      cache: "no-store",
      ...(init.body === undefined ? {} : { body: JSON.stringify(init.body), headers: { "content-type": "application/json" } }),
    });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Problem(0, late.aborted ? "the agent did not answer in time" : "the agent does not answer");
  }
  const text = await answer.text();
  let told: unknown = null;
  try {
    told = text === "" ? null : JSON.parse(text);
  } catch {
    throw new Problem(answer.status, answer.ok ? "what answers there is no agent of Shoal" : `the agent answers ${answer.status}`);
  }
  if (!answer.ok) throw problemOf(answer.status, told);
  return told as T;
}

export const get = <T>(path: string, signal?: AbortSignal): Promise<T> => ask<T>(`${API}${path}`, signal ? { signal } : {});
export const post = <T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> =>
  ask<T>(`${API}${path}`, { method: "POST", body, ...(signal ? { signal } : {}) });

/** A path with what is asked for; what is empty is left out. */
export function query(path: string, wanted: Record<string, string | number | boolean | undefined>): string {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(wanted)) {
    if (value !== undefined && value !== "" && value !== false) found.set(name, String(value));
  }
  const text = found.toString();
  return text === "" ? path : `${path}?${text}`;
}
