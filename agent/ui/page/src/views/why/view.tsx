/** A request, and each decision about it, in order; and what a changed document would do to it, before it is put.
 *
 * Laws
 * - An answer stands under the question that it was asked for, in words. Where the fields say something else by now, that is said.
 * - A link is a question: one that is followed while this is open is asked as one that opens it. After an error there is no answer.
 * - What is and what would be are asked with the same draws.
 */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { get, post, Problem, query } from "../../api/http";
import type { Call, ExplainAsked, Explained, Mode, Page } from "../../api/types";
import { Choice, Field, Trouble } from "../../parts/basics";
import { place, say } from "../../router";
import { Decisions } from "./decisions";
import { inDocument, isOfDocument } from "./document";
import { Proposal } from "./proposal";
import { pasted } from "./pasted";
import { askedBy, inWords, isSame, serviceOf, usualCaller } from "./question";

const METHODS: readonly string[] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
const CALLER_MS = 3000;

export interface Change {
  kind: string;
  pattern: string;
  mode: Mode;
  /** Null: it would be removed. */
  text: string | null;
}

interface Answer {
  question: ExplainAsked;
  told: Explained;
  change: Change | null;
  would: Explained | null;
}

export function WhyView() {
  const words = place.value.query;
  const answer = useSignal<Answer | null>(null);
  const change = useSignal<Change | null>(null);
  const problem = useSignal<Problem | null>(null);
  /** Of the document that was proposed. */
  const refused = useSignal<Problem | null>(null);
  const draft = useSignal("");
  const assumed = useSignal("");
  /** What of what was pasted is left out. */
  const left = useSignal<string[]>([]);
  const busy = useSignal(false);
  const visit = useSignal(0);
  const turn = useRef(0);
  const url = words.get("url") ?? "";
  const method = words.get("method") ?? "GET";
  const asked = askedBy(words);

  const ask = async (): Promise<void> => {
    const mine = ++turn.current;
    const [question, proposed] = [askedBy(place.peek().query), change.peek()];
    busy.value = true;
    problem.value = refused.value = null;
    const pair = proposed ? { ...question, seed: Math.floor(Math.random() * 2 ** 32) } : question;
    const [told, would] = await Promise.allSettled([post<Explained>("/explain", pair), proposed && post<Explained>("/explain", { ...pair, documents: [documentOf(proposed)] })]);
    if (mine !== turn.current) return;
    busy.value = false;
    answer.value = null;
    if (told.status === "rejected") {
      problem.value = problemOf(told.reason);
      return;
    }
    if (would.status === "rejected") {
      const found = problemOf(would.reason);
      if (isOfDocument(found)) refused.value = inDocument(found);
      else problem.value = found;
      if (!isOfDocument(found)) return;
    }
    answer.value = { question, told: told.value, change: proposed, would: would.status === "fulfilled" ? would.value : null };
  };

  /** By a link: nothing of what was asked before is of it. */
  const arrive = async (): Promise<void> => {
    const at = visit.peek();
    turn.current += 1;
    answer.value = change.value = problem.value = refused.value = null;
    busy.value = false;
    assumed.value = "";
    left.value = [];
    const link = place.peek().query;
    const [to, isOfChange] = [link.get("url") ?? "", link.has("kind") && !link.has("caller")];
    if (!to) return;
    if (isOfChange) {
      // Without a caller a mesh that asks who calls would only say that nobody may.
      const caller = await callerOf(serviceOf(to));
      if (visit.peek() !== at) return;
      if (caller && !place.peek().query.has("caller")) say({ caller });
      assumed.value = caller;
    }
    void ask();
  };
  useEffect(() => {
    const onLink = (): void => {
      if (place.peek().parts[0] !== "why") return;
      visit.value += 1;
      void arrive();
    };
    window.addEventListener("hashchange", onLink);
    void arrive();
    return () => {
      visit.value = turn.current = -1;
      window.removeEventListener("hashchange", onLink);
    };
  }, []);

  const paste = (event: ClipboardEvent): void => {
    const found = pasted(event.clipboardData?.getData("text") ?? "");
    if (!found) return;
    event.preventDefault();
    const { url, method, caller, headers } = found;
    left.value = found.left;
    say({ url, method, headers, ...(caller ? { caller } : {}) });
  };

  const shown = answer.value;
  const outdated = shown !== null && !isSame(shown.question, asked);
  const redrafted = shown?.would && shown.change?.text != null && shown.change.text !== draft.value;
  return (
    <section>
      <h1>Why does a request go where it goes?</h1>
      <form
        class="filters why"
        onSubmit={(event) => {
          event.preventDefault();
          void ask();
        }}
      >
        <Choice label="Method" value={method} of={[...new Set([...METHODS, method])].map((each) => [each, each] as const)} say={(method) => say({ method })} />
        <Field label="URL">
          <input class="wide" value={url} required maxLength={8192} spellcheck={false} placeholder="http://pets.production/cats, or paste a line of curl" onPaste={paste} onInput={(event) => say({ url: event.currentTarget.value })} />
        </Field>
        <Field label="Caller">
          <input value={words.get("caller") ?? ""} maxLength={512} spellcheck={false} placeholder="shop.production" onInput={(event) => say({ caller: event.currentTarget.value })} />
        </Field>
        <Field label="Headers, one a line">
          <textarea rows={2} value={words.get("headers") ?? ""} spellcheck={false} placeholder="x-tier: free" onInput={(event) => say({ headers: event.currentTarget.value })} />
        </Field>
        <Field label="Claims, one a line">
          <textarea rows={2} value={words.get("claims") ?? ""} spellcheck={false} placeholder="sub=haxor69" onInput={(event) => say({ claims: event.currentTarget.value })} />
        </Field>
        <button type="submit" disabled={busy.value || !url}>
          Ask
        </button>
      </form>
      {left.value.length > 0 && (
        <p class="small" role="status">
          Left out of what was pasted, since the address is shared by its link: {left.value.join(", ")}. Say what it proves in Caller and Claims.
        </p>
      )}
      {assumed.value && assumed.value === asked.caller && <p class="small">Asked as {assumed.value}, which calls it most.</p>}
      {problem.value && <Trouble problem={problem.value} />}
      {shown && (
        <section class={outdated ? "answer outdated" : "answer"} aria-label="The answer">
          <h2>{inWords(shown.question)}</h2>
          {outdated && (
            <p class="partial" role="status">
              That was asked, and this is its answer. The fields say something else by now: ask again.
            </p>
          )}
          {redrafted && (
            <p class="partial" role="status">
              The document has been edited since: what would be is that of the text before.
            </p>
          )}
          {shown.would ? (
            <div class="beside">
              <Decisions told={shown.told} title="As it is" other={shown.would} />
              <Decisions told={shown.would} title="As it would be" other={shown.told} would />
            </div>
          ) : (
            <Decisions told={shown.told} title="What is decided" />
          )}
        </section>
      )}
      <Proposal
        kind={words.get("kind") ?? ""}
        pattern={words.get("pattern") ?? ""}
        mode={words.get("mode") === "audit" ? "audit" : "enforce"}
        swap={words.has("swap")}
        visit={visit.value}
        text={draft}
        refused={refused.value}
        see={(proposed) => {
          change.value = proposed;
          if (place.peek().query.get("url")) void ask();
          else problem.value = new Problem(0, "say which request: a URL such as http://pets.production/cats");
        }}
        forget={() => {
          change.value = refused.value = null;
          if (answer.value?.would) answer.value = { ...answer.value, change: null, would: null };
        }}
        done={() => {
          change.value = null;
          if (place.peek().query.get("url")) void ask();
        }}
      />
    </section>
  );
}

/** Who calls a service most; empty: nobody is known, or nobody says so in time. */
async function callerOf(service: string): Promise<string> {
  if (!service) return "";
  try {
    const { items } = await get<Page<Call>>(query("/calls", { scope: "mesh", service, limit: 1000 }), AbortSignal.timeout(CALLER_MS));
    return usualCaller(items, service);
  } catch {
    return "";
  }
}

function problemOf(error: unknown): Problem {
  return error instanceof Problem ? error : new Problem(0, String(error));
}

function documentOf({ kind, pattern, mode, text }: Change) {
  return text === null ? { kind, pattern, mode } : { kind, pattern, mode, text };
}
