/** A document as it might be: what it would do to the request, and then put, with who and why.
 *
 * Laws
 * - What somebody saw is what he replaces: if another put meanwhile, nothing is put, and he is shown what stands there now, and by whom.
 * - What somebody has typed is his: nothing but his own "As it is in etcd" takes it away.
 * - Nothing is asked for a name that is being typed.
 */

import { useSignal, type Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { Problem } from "../../api/http";
import { judged, put, remove, type Done } from "../../api/stored";
import type { Mode, Page, Service } from "../../api/types";
import { useOnce } from "../../api/use";
import { me } from "../../me";
import { Choice, Field, Mark, Tick } from "../../parts/basics";
import { say } from "../../router";
import { swapped } from "../service/rules";
import { current, standing, type Stands } from "./current";
import { inDocument, tidy } from "./document";
import { isKind, KINDS, noKind, patternsOf } from "./kinds";
import { Named } from "./named";
import { Text, Wrong } from "./text";
import type { Change } from "./view";

const MODES = [
  ["enforce", "in force"],
  ["audit", "only watched"],
] as const;
const TYPING_MS = 400;

interface Props {
  kind: string;
  pattern: string;
  mode: Mode;
  swap: boolean;
  /** Another one: a link was followed. */
  visit: number;
  text: Signal<string>;
  /** What is wrong with the document that was looked at. */
  refused: Problem | null;
  see: (change: Change) => void;
  forget: () => void;
  done: () => void;
}

export function Proposal({ kind, pattern, mode, swap, visit, text, refused, see, forget, done }: Props) {
  /** The text as it was loaded: who has another one has typed it. */
  const loaded = useSignal("");
  const replaces = useSignal(0);
  const reason = useSignal("");
  const force = useSignal(false);
  const mayForce = useSignal(false);
  const problem = useSignal<Problem | null>(null);
  const said = useSignal("");
  const warnings = useSignal<readonly string[]>([]);
  const busy = useSignal(false);
  const open = useSignal(kind !== "" && pattern !== "");
  const clash = useSignal<Stands | null>(null);
  const typing = useRef(false);
  const kindTyped = useSignal(false);
  const typed = useSignal(0);
  const asked = useRef("");
  const turn = useRef(0);
  const may = me.value?.may.write === true;
  const services = useOnce<Page<Service>>("/services?limit=1000").body?.items;
  const patterns = patternsOf((services ?? []).map((each) => each.name));
  const ready = isKind(kind) && pattern !== "";
  const isDrafted = (): boolean => text.peek().trim() !== "" && text.peek() !== loaded.peek();

  const load = async (how: "named" | "anew" | "after"): Promise<void> => {
    const mine = ++turn.current;
    problem.value = clash.value = null;
    if (how !== "after") {
      said.value = "";
      warnings.value = [];
    }
    let found = { text: "", revision: 0 };
    try {
      found = await current(kind, pattern, mode, may);
    } catch (error) {
      if (mine !== turn.current || how === "after") return;
      if (!(error instanceof Problem) || error.status !== 404) problem.value = problemOf(error);
      else said.value = `There is no ${kind} for ${pattern} yet.`;
    }
    // What was asked for another name is of another document.
    if (mine !== turn.current) return;
    const kept = how !== "anew" && isDrafted();
    replaces.value = found.revision;
    loaded.value = tidy(found.text);
    if (kept) {
      said.value = `${said.value} What you typed is kept. “As it is in etcd” shows what stands for ${kind}/${pattern} in its place.`.trim();
      return;
    }
    text.value = loaded.value;
    if (how === "named" && swap) changeOver();
  };
  const changeOver = (): void => {
    const over = swapped(text.peek());
    if (over === null) return;
    text.value = over;
    see({ kind, pattern, mode, text: over });
  };
  useEffect(() => {
    if (kind !== "" && pattern !== "") open.value = true;
  }, [visit]);
  const isKnown = patterns.includes(pattern);
  useEffect(() => {
    if (kind === "" || (typing.current && !(isKind(kind) && isKnown))) {
      if (kind === "" || pattern === "") said.value = "";
      return undefined;
    }
    const look = (): void => {
      typing.current = false;
      const what = JSON.stringify([kind, pattern, mode, visit, may]);
      if (what === asked.current) return;
      asked.current = what;
      turn.current += 1;
      replaces.value = 0;
      if (isKind(kind) && pattern !== "") void load("named");
    };
    const later = setTimeout(look, typing.current ? TYPING_MS : 0);
    return () => clearTimeout(later);
  }, [kind, pattern, mode, visit, may, isKnown, typed.value]);
  const type = (name: "kind" | "pattern") => (value: string): void => {
    typing.current = true;
    kindTyped.value = name === "kind";
    said.value = "";
    forget();
    say({ [name]: value.trim() });
  };
  const typedOut = (): void => {
    typing.current = kindTyped.value = false;
    typed.value += 1;
  };

  /** `stays`: whether there is a document afterwards. */
  const act = async (what: () => Promise<Done>, stays: boolean): Promise<void> => {
    busy.value = true;
    problem.value = clash.value = null;
    try {
      const told = await what();
      const { revision } = told;
      said.value = `Done: revision ${revision}.`;
      warnings.value = told.warnings ?? [];
      replaces.value = stays ? revision : 0;
      loaded.value = text.value;
      reason.value = "";
      force.value = mayForce.value = false;
      forget();
      // A link that changes over would change it back.
      say({ swap: undefined });
      if (stays) void load("after");
      // Agents run it in a moment; the question is asked again then.
      setTimeout(done, 700);
    } catch (error) {
      const found = problemOf(error);
      forget();
      mayForce.value = found.path === "$.force";
      problem.value = inDocument(found);
      if (found.status === 409) clash.value = await standing(kind, pattern, mode);
    } finally {
      busy.value = false;
    }
  };
  /** What it would do to the request, and, by who may put it, to the mesh. */
  const look = (): void => {
    problem.value = null;
    warnings.value = [];
    see({ kind, pattern, mode, text: text.value });
    // What cannot be put is said by the explanation, and who was overtaken hears it when he puts it.
    if (may) void judged({ kind, pattern, mode, text: text.value, replaces: replaces.value }).then((found) => (warnings.value = found), () => undefined);
  };
  const onTop = (stands: Stands): void => {
    replaces.value = stands.revision;
    loaded.value = tidy(stands.text);
    clash.value = problem.value = null;
    said.value = stands.revision ? `Yours would now be put in the place of revision ${stands.revision}.` : "Yours would now be put as a new one.";
    see({ kind, pattern, mode, text: text.value });
  };
  const wrong = problem.value ?? refused;

  return (
    <details class="card" open={open.value} onToggle={(event) => (open.value = event.currentTarget.open)}>
      <summary>What would a changed document do?</summary>
      <div class="filters">
        <Named label="Kind" value={kind} of={KINDS} say={type("kind")} done={typedOut} />
        <Named label="Service or pattern" value={pattern} of={patterns} say={type("pattern")} done={typedOut} />
        <Choice label="It is" value={mode} of={MODES} say={(value) => (forget(), say({ mode: value === "audit" ? "audit" : undefined }))} />
      </div>
      <Text text={text} wrong={wrong} />
      <p>
        <button type="button" disabled={!ready || text.value.trim() === ""} onClick={look}>
          See what it would do
        </button>{" "}
        {ready && replaces.value > 0 && (
          <button type="button" onClick={() => ((problem.value = null), see({ kind, pattern, mode, text: null }))}>
            See what its removal would do
          </button>
        )}{" "}
        {kind === "route" && swapped(text.value) !== null && (
          <button type="button" disabled={!ready} onClick={changeOver}>
            Change blue and green over
          </button>
        )}{" "}
        <button type="button" disabled={!ready} onClick={() => (forget(), say({ swap: undefined }), void load("anew"))}>
          As it is in etcd
        </button>
      </p>
      {wrong && <Wrong problem={wrong} text={text.value} />}
      {clash.value && <Clash stands={clash.value} onTop={onTop} />}
      {kind !== "" && !isKind(kind) && !kindTyped.value && (
        <p class="said" role="status">
          {noKind(kind)}
        </p>
      )}
      {said.value && (
        <p class="said" role="status">
          {said.value}
        </p>
      )}
      {warnings.value.map((each) => (
        <p class="warned" role="status" key={each}>
          <Mark health="warn">{each}</Mark>
        </p>
      ))}
      {may ? (
        <form
          class="filters"
          onSubmit={(event) => {
            event.preventDefault();
            void act(() => put({ kind, pattern, mode, text: text.value, reason: reason.value, replaces: replaces.value, force: force.value }), true);
          }}
        >
          <Field label="Why (it is written into the document, and recorded)">
            <input class="wide" required maxLength={1024} value={reason.value} onInput={(event) => (reason.value = event.currentTarget.value)} />
          </Field>
          <button type="submit" disabled={busy.value || !ready || text.value.trim() === "" || reason.value.trim() === ""}>
            Put it, as {me.value?.who}
          </button>
          <button
            type="button"
            disabled={busy.value || replaces.value === 0 || reason.value.trim() === ""}
            onClick={() => void act(() => remove({ kind, pattern, mode, reason: reason.value, replaces: replaces.value, force: force.value }), false)}
          >
            Remove it
          </button>
          {mayForce.value || force.value ? <Tick label="all the same (--force)" on={force.value} say={(on) => (force.value = on)} /> : null}
        </form>
      ) : (
        <p class="small">
          {me.value?.write || "This page cannot write: an agent has no right to."} From a shell:{" "}
          <code>
            shoal policy put FILE --kind {kind || "KIND"} --service {pattern || "SERVICE"} --reason "…"
          </code>
        </p>
      )}
    </details>
  );
}

/** What somebody else has put meanwhile. */
function Clash({ stands, onTop }: { stands: Stands; onTop: (stands: Stands) => void }) {
  const { revision, by, reason, text } = stands;
  return (
    <div class="clash">
      {revision === 0 ? (
        <p>It has been removed meanwhile.</p>
      ) : (
        <>
          <p>
            Revision {revision} stands there now, put by {by || "somebody who does not say who"}
            {reason ? `: “${reason}”` : ", without a reason"}.
          </p>
          <pre class="source" tabIndex={0} aria-label="What stands there now">
            {text}
          </pre>
        </>
      )}
      <p>
        <button type="button" onClick={() => onTop(stands)}>
          Take mine again on top of it
        </button>{" "}
        or, above, what stands there: “As it is in etcd”.
      </p>
    </div>
  );
}

function problemOf(error: unknown): Problem {
  return error instanceof Problem ? error : new Problem(0, String(error));
}
