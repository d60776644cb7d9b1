/** The box that a document is typed into, with the line marked that is wrong. */

import type { Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Problem } from "../../api/http";
import { Field, Trouble } from "../../parts/basics";
import { wrongLine } from "./document";

const AROUND = 3;

export function Text({ text, wrong }: { text: Signal<string>; wrong: Problem | null }) {
  const box = useRef<HTMLTextAreaElement>(null);
  const line = wrong ? wrongLine(text.value, wrong) : null;
  useEffect(() => {
    const at = box.current;
    if (!at || line === null) return;
    at.scrollTop = Math.max(0, line - AROUND) * (at.scrollHeight / Math.max(1, text.peek().split("\n").length));
  }, [wrong]);
  return (
    <Field label="The document, JSON or YAML">
      <textarea
        ref={box}
        class={line === null ? "document" : "document wrong"}
        style={line === null ? undefined : { "--wrong-line": String(line) }}
        rows={14}
        wrap="off"
        spellcheck={false}
        value={text.value}
        onInput={(event) => (text.value = event.currentTarget.value)}
      />
    </Field>
  );
}

/** What is wrong with it, and in which line, as the box has it. */
export function Wrong({ problem, text }: { problem: Problem; text: string }) {
  const line = wrongLine(text, problem);
  return (
    <>
      <Trouble problem={problem} />
      {line !== null && (
        <pre class="source" tabIndex={0} aria-label="The place that is wrong">
          <mark>
            line {line + 1}: {(text.split("\n")[line] ?? "").trim()}
            {problem.path === "$" ? "" : `  ← ${problem.path}`}
          </mark>
        </pre>
      )}
    </>
  );
}
