/** A hook for what is asked once, by any way. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { Problem } from "./http";
import type { Seen } from "./live";

/** `what`: asked again when it is another one; null: nothing is asked. */
export function useAsked<T>(what: string | null, how: (signal: AbortSignal) => Promise<T>): Seen<T> & { again: () => void } {
  const seen = useSignal<Seen<T>>({});
  const turn = useSignal(0);
  useEffect(() => {
    seen.value = {};
    if (what === null) return undefined;
    const over = new AbortController();
    how(over.signal).then(
      (body) => {
        if (!over.signal.aborted) seen.value = { body };
      },
      (error: unknown) => {
        if (!over.signal.aborted) seen.value = { problem: error instanceof Problem ? error : new Problem(0, String(error)) };
      },
    );
    return () => over.abort();
  }, [what, turn.value]);
  return { ...seen.value, again: () => (turn.value += 1) };
}
