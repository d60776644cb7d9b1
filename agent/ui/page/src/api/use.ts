/** Hooks: what a part of the page shows. */

import { useComputed, useSignal, type ReadonlySignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { useAsked } from "./asked";
import { get, Problem } from "./http";
import { live, type Seen } from "./live";

const NOTHING: Seen<never> = {};
const LOST = new Problem(0, "The agent does not answer. It is asked again by itself; where it does not come back, look at it on its host: `shoal status`.");

/** What the path answers, as long as the part that asks is shown; null: nothing is asked. */
export function useLive<T>(path: string | null, everyS = 5): Seen<T> {
  const source = useSignal<ReadonlySignal<Seen<T>> | null>(null);
  useEffect(() => {
    if (path === null) {
      source.value = null;
      return undefined;
    }
    source.value = live.watch<T>(path, everyS);
    return () => live.drop(path, everyS);
  }, [path, everyS]);
  return useComputed(() => {
    const seen = source.value?.value ?? (NOTHING as Seen<T>);
    // What was never seen will not be, for now, and that has a reason.
    return path !== null && !seen.body && !seen.problem && live.connection.value === "lost" ? { problem: LOST } : seen;
  }).value;
}

/** What it answered last, while another path of the same is asked: a picture does not vanish when a slider moves. */
export function useKept<T>(seen: Seen<T>): Seen<T> {
  const kept = useMemo<{ body?: T }>(() => ({}), []);
  if (seen.body !== undefined) kept.body = seen.body;
  return seen.body === undefined && kept.body !== undefined ? { ...seen, body: kept.body } : seen;
}

/** Asked once, and again when the path is another one. */
export function useOnce<T>(path: string | null): ReturnType<typeof useAsked<T>> {
  return useAsked<T>(path, (over) => get<T>(path ?? "", over));
}
