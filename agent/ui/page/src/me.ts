/** Who looks at this page, and what he may. */

import { effect, signal, type ReadonlySignal } from "@preact/signals";
import { ask, get, Problem } from "./api/http";
import type { Connection } from "./api/live";
import type { Me } from "./api/types";

export const me = signal<Me | null>(null);
export const meTrouble = signal<Problem | null>(null);

const AGAIN_MS = 3000;
const DENIED_MS = 15_000;
let again: ReturnType<typeof setTimeout> | undefined;

/** Asked again by itself, while nobody answers, and while somebody may not write: etcd, which says so, may be away. */
export async function meet(): Promise<void> {
  clearTimeout(again);
  try {
    me.value = await get<Me>("/me");
    meTrouble.value = null;
  } catch (error) {
    meTrouble.value = error instanceof Problem ? error : new Problem(0, String(error));
  }
  clearTimeout(again);
  if (meTrouble.value || me.value?.may.write === false) again = setTimeout(() => void meet(), meTrouble.value ? AGAIN_MS : DENIED_MS);
}

/** A login ends with its token, and a role may be taken: the agent ends the connection then, and says so only here. */
export function meetAgain(connection: ReadonlySignal<Connection>): () => void {
  return effect(() => {
    if (connection.value === "lost" || connection.value === "live") void meet();
  });
}

/** By a request of the page, whose origin a browser says: of a form it would not, for nothing here says whence it comes. */
export async function leave(where: string): Promise<void> {
  try {
    await ask(where, { method: "POST" });
  } catch (error) {
    meTrouble.value = error instanceof Problem ? error : new Problem(0, String(error));
    return;
  }
  await meet();
}
